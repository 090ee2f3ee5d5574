"""Python code for the loops of a recorded step: forward, and backward by a plan.

The code names every tensor of a step, so that a loop does nothing but call PyTorch. What is kept of
all steps is written into one buffer each, and what is not goes into scratch space; the views of
both that a step needs are made before the loop.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch

from cellkit.engines.torch.derive.adjoint import BackwardPlan, Instruction, Summand
from cellkit.engines.torch.derive.record import Node, Tape, evaluate
from cellkit.engines.torch.loop import select


class _Text:
    """Python code in the making, with the objects that it names."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.space: dict[str, Any] = {"where": torch.where, "torch": torch, "select": select}
        self.names: dict[Any, str] = {}

    def name(self, thing: Any, letter: str) -> str:
        """Return the name of a node or a variable."""
        if thing not in self.names:
            self.names[thing] = f"{letter}{len(self.names)}"
        return self.names[thing]

    def bound(self, thing: Any, letter: str = "o") -> str:
        """Return the name under which the code finds an object."""
        if type(thing) in (int, float):
            return (
                repr(thing)
                if thing == thing and abs(thing) != float("inf")
                else f"float('{thing}')"
            )
        name = f"{letter}_{len(self.space)}"
        self.space[name] = thing
        return name

    def value(self, x: Any) -> str:
        """Return what stands for an argument."""
        if type(x) is Node:
            return self.names[x]
        if type(x) is list and any(type(y) is Node for y in x):
            return "[" + ", ".join(self.value(y) for y in x) + "]"
        return self.bound(x)

    def compile(self, head: str, indent: list[str]) -> Any:
        """Return the function of this code."""
        source = "\n".join([head, *indent])
        exec(compile(source, "<cellkit>", "exec"), self.space)  # noqa: S102 - written right here
        return self.space["loop"]


def _tuple(names: list[str]) -> str:
    return "(" + "".join(f"{n}, " for n in names) + ")"


def _where(shape: tuple[int, ...], flag: str = "keep") -> str:
    """Return code that chooses by whether a row's step counts."""
    choice = f"where({flag}, " if len(shape) == 1 else f"select({flag}[:, 0], "
    return choice + "{}, {})"


class Forward:
    """The loop forward.

    Args:
        tape: The step.
        saved: Values of all steps that are kept.
        before: The states that are kept as they were before each step.
    """

    def __init__(self, tape: Tape, saved: list[Node], before: list[Node]) -> None:
        text = _Text()
        nodes = [n for n in tape.nodes if n.loop]
        escaping = _bases([*tape.outputs, *tape.new_states])
        # Values that can't be written to their place are gathered, and stacked after the loop.
        self.gathered = [*before, *(n for n in saved if n.out is None)]
        saved = [n for n in saved if n.out is not None]
        self.saved = saved
        self.scratch = [
            n for n in nodes if n.out is not None and n not in saved and n not in escaping
        ]
        kept, spare = set(saved), set(self.scratch)
        self.slots, self.spare = list(saved), list(self.scratch)
        for node in nodes:
            if node.name in ("slice", "alias", "unsqueeze"):
                base = node.args[0]
                for bases, found in ((kept, self.slots), (spare, self.spare)):
                    if base in bases:
                        bases.add(node)
                        found.append(node)
        used = {p for n in nodes for p in n.parents} | set(tape.outputs) | set(tape.new_states)
        self.before = [n for n in used if n.timed and not n.loop]
        self.fixed = [n for n in used if not n.timed]
        rows = [text.name(n, "r") for n in (*self.before, *self.slots)]
        given = [text.name(n, "k") for n in (*self.fixed, *self.spare)]
        olds = [text.name(s, "s") for s in tape.states]
        body = []
        views = {*self.slots, *self.spare} - {*saved, *self.scratch}
        for node in nodes:
            if node in views:
                continue
            if node in kept or node in spare:
                values = ", ".join(text.value(a) for a in node.args)
                body.append(f"{text.bound(node.out, 'f')}({values}, out={text.names[node]})")
            elif node.name in ("item", "moment"):
                whole, index = node.args
                body.append(f"{text.name(node, 'v')} = {text.names[whole]}[{index}]")
            else:
                values = ", ".join(text.value(a) for a in node.args)
                body.append(f"{text.name(node, 'v')} = {text.bound(node.function, 'f')}({values})")
        outputs = [text.value(y) for y in tape.outputs]
        new_states = [text.value(s) for s in tape.new_states]
        body.append(f"emitted.append({_tuple(outputs)})")
        body.append(f"gathered.append({_tuple([text.names[n] for n in self.gathered])})")
        each = zip(tape.states, new_states, olds, strict=True)
        chosen = [_where(s.shape).format(n, o) for s, n, o in each]
        begun = [
            _where(s.shape, "on").format(o, f"starts[{i}]")
            for i, (s, o) in enumerate(zip(tape.states, olds, strict=True))
        ]
        lines = [
            f"    {_tuple(given)} = given" if given else "",
            f"    {_tuple(olds)} = states",
            f"    for _, {_tuple(rows)}, keep, on in steps:"
            if rows
            else "    for _, _, keep, on in steps:",
            "        if on is not None:",
            f"            {_tuple(olds)} = {_tuple(begun)}",
            *(f"        {line}" for line in body),
            f"        {_tuple(olds)} = {_tuple(new_states)} if keep is None else {_tuple(chosen)}",
            f"    return {_tuple(olds)}",
        ]
        head = "def loop(steps, given, states, starts, gathered, emitted):"
        self.function = text.compile(head, lines)


def straight(tape: Tape) -> Any:
    """Return the operations of a record as one function of inputs, states and weights.

    Args:
        tape: A record without masks.
    """
    text = _Text()
    body = [
        "    " + _tuple([text.name(n, letter) for n in nodes]) + f" = {name}"
        for nodes, letter, name in (
            (tape.inputs, "x", "inputs"),
            (tape.states, "s", "states"),
            (tape.weights, "w", "weights"),
        )
        if nodes
    ]

    def write(node: Node) -> None:
        if node in text.names:
            return
        if node.name == "literal":
            text.names[node] = text.bound(node.value)
            return
        for parent in node.parents:
            write(parent)
        if node.function is None:  # a part of what a norm returns
            whole, index = node.args
            code = f"{text.names[whole]}[{index}]"
        else:
            values = ", ".join(text.value(a) for a in node.args)
            code = f"{text.bound(node.function, 'f')}({values})"
        body.append(f"    {text.name(node, 'v')} = {code}")

    for node in (*tape.outputs, *tape.new_states):
        write(node)
    results = [
        "[" + ", ".join(text.value(n) for n in nodes) + "]"
        for nodes in (tape.outputs, tape.new_states)
    ]
    body.append(f"    return {results[0]}, {results[1]}")
    return text.compile("def loop(inputs, states, weights):", body)


def _bases(nodes: list[Node]) -> set[Node]:
    """Return nodes, and what they are views of."""
    found: set[Node] = set()
    for node in nodes:
        while True:
            found.add(node)
            if node.name not in ("slice", "alias", "unsqueeze", "clone", "detach", "_to_copy"):
                break
            node = node.args[0]
    return found


class Backward:
    """The loop backward of a plan."""

    def __init__(self, plan: BackwardPlan) -> None:
        self.plan, text = plan, _Text()
        self.text = text
        factors = plan.factors
        self.kernels: list[Any] = list(
            {t.kernel: None for t in self._terms() if t.kernel is not None}
        )
        self.groups: list[list[Node]] = []
        self.timed = [n for n in factors if n.timed and n not in self.kernels]
        self.fixed = [n for n in factors if not n.timed and n not in self.kernels]
        self.stored = list({t.variable: None for terms in plan.known.values() for t in terms})
        self.wholes = [i for i in plan.instructions if i.parts]
        self.parts: list[tuple[Any, int, int, int]] = []
        body = self._body()
        rows = [text.name(n, "r") for n in self.timed]
        rows += [f"g{i}" for i in range(len(self.groups))]
        rows += [f"t{i}" for i in range(len(self.slots))]
        rows += [f"p{i}" for i in range(len(self.parts))]
        rows += [text.name(d, "d") for d in plan.d_outputs]
        given = [text.name(n, "k") for n in self.fixed] + [
            f"w{i}" for i in range(len(self.kernels))
        ]
        new_states = [text.name(d, "d") for d in plan.d_new_states]
        lines = [
            f"    {_tuple(given)} = given" if given else "",
            f"    {_tuple(new_states)} = d_states",
            f"    for _, {_tuple(rows)}, keep, on in steps:"
            if rows
            else "    for _, _, keep, on in steps:",
            *(f"        {line}" for line in body),
            f"    return {_tuple(new_states)}",
        ]
        self.function = text.compile("def loop(steps, given, d_states, d_starts, zeros):", lines)

    def _terms(self) -> list[Summand]:
        lists = [*self.plan.d_states]
        for i in self.plan.instructions:
            lists += [i.terms, *(terms for _, _, terms in i.parts)]
        return [t for terms in lists for t in terms]

    def _body(self) -> list[str]:
        plan, text = self.plan, self.text
        for n in (*self.timed, *self.fixed):
            text.name(n, "r" if n.timed else "k")
        new_states = [text.name(d, "d") for d in plan.d_new_states]
        for d in plan.d_outputs:
            text.name(d, "d")
        # Values that are put together from parts or stored have places of their own.
        self.slots = list({**dict.fromkeys(self.stored), **{i.target: None for i in self.wholes}})
        slot = {v: f"t{i}" for i, v in enumerate(self.slots)}
        held = [f"h{i}" for i in range(len(new_states))]
        body = ["if keep is not None:"]
        for i, (h, new) in enumerate(zip(held, new_states, strict=True)):
            which = _where(plan.d_new_states[i].shape)
            body.append(f"    {h} = " + which.format(f"zeros[{i}]", new))
            body.append(f"    {new} = " + which.format(new, f"zeros[{i}]"))
        for v in (*plan.d_outputs, *plan.d_new_states):
            if v in slot:
                body.append(f"{slot[v]}.copy_({text.names[v]})")
        for todo in plan.instructions:
            target = todo.target
            if todo.parts:
                text.names[target] = slot[target]
                body += self._assembled(todo, slot[target])
                continue
            name = text.name(target, "v")
            if todo.function is not None:
                needs = "".join(f", {text.names[n]}" for n in todo.needs)
                given = text.names[todo.terms[0].variable]
                body.append(f"{name} = {text.bound(todo.function, 'f')}({given}{needs})")
                if target in slot:
                    body.append(f"{slot[target]}.copy_({name})")
                continue
            body += self._sum(todo.terms, name, slot.get(target))
        olds = []
        for i, terms in enumerate(plan.d_states):
            name = f"e{i}"
            olds.append(name)
            body += self._sum(terms, name, None) if terms else [f"{name} = zeros[{i}]"]
        body.append("if keep is not None:")
        body += [f"    {e} = {e} + {h}" for e, h in zip(olds, held, strict=True)]
        body.append("if on is not None:")
        for i, (e, d) in enumerate(zip(olds, plan.d_new_states, strict=True)):
            which = _where(d.shape, "on")
            body.append(f"    d_starts[{i}] = d_starts[{i}] + {which.format(f'zeros[{i}]', e)}")
            body.append(f"    {e} = {which.format(e, f'zeros[{i}]')}")
        body.append(f"{_tuple(new_states)} = {_tuple(olds)}")
        return body

    def _assembled(self, i: Instruction, slot: str) -> list[str]:
        """Write the parts of a gradient next to each other, equal ones in a row at once."""
        body, end, overlapping = [], 0, False
        for a, b, _ in i.parts:
            overlapping, end = overlapping or a < end, max(end, b)
        whole = not overlapping and sum(b - a for a, b, _ in i.parts) == i.target.shape[-1]
        if not whole:
            body.append(f"{slot}.zero_()")
        for part in _runs(i.parts) if whole else [[p] for p in i.parts]:
            a, b, terms = part[0][0], part[-1][1], part[0][2]
            name = f"p{len(self.parts)}"
            self.parts.append((i.target, a, b, len(part)))
            if len(part) > 1:
                group = f"g{len(self.groups)}"
                self.groups.append([terms[0].factor for _, _, terms in part])
                d = self.text.names[terms[0].variable]
                body.append(f"torch.mul({group}, {d}.unsqueeze(-2), out={name})")
            elif whole:
                body += self._sum(terms, "_", name)
            else:
                body += [*self._sum(terms, "q", None), f"{name}.add_(q)"]
        if i.terms:
            body += [*self._sum(i.terms, "q", None), f"{slot}.add_(q)"]
        return body

    def _sum(self, terms: list[Summand], name: str, slot: str | None) -> list[str]:
        """Write code that makes `name`, in the place `slot` if there is one, the sum of terms."""
        text, body = self.text, []
        out = "" if slot is None else f", out={slot}"
        ones = [text.names[t.variable] for t in terms if t.kernel is None and t.factor is None]
        scaled = [t for t in terms if t.kernel is None and t.factor is not None]
        products = [t for t in terms if t.kernel is not None]
        now, own = None, False

        def put(call: str) -> None:
            nonlocal now, own
            body.append(f"{name} = {call}")
            now, own = name, True

        for d in ones:
            if now is None:
                now = d
            elif own:
                body.append(f"{now}.add_({d})")
            else:
                put(f"torch.add({now}, {d}{out})")
        for t in scaled:
            d = text.names[t.variable]
            f = text.names[t.factor] if type(t.factor) is Node else text.bound(t.factor)
            if now is None:
                put(f"torch.mul({d}, {f}{out})")
            elif type(t.factor) is not Node:
                put(f"torch.add({now}, {d}, alpha={f}{out})")
            elif own:
                body.append(f"{now}.addcmul_({f}, {d})")
            else:
                put(f"torch.addcmul({now}, {f}, {d}{out})")
        for t in products:
            d, w = text.names[t.variable], f"w{self.kernels.index(t.kernel)}"
            if now is None:
                put(f"torch.mm({d}, {w}{out})")
            elif own:
                body.append(f"{now}.addmm_({d}, {w})")
            else:
                put(f"torch.addmm({now}, {d}, {w}{out})")
        if not own:
            body.append(f"{name} = {now}" if slot is None else f"{name} = {slot}.copy_({now})")
        return body

    def run(
        self,
        known: dict[Node, Any],
        d_outputs: list[Any],
        d_states: list[Any],
        d_starts: list[Any],
        flags: Any,
        count: int,
        places: dict[Any, Any],
        turned: dict[Node, Any],
    ) -> tuple[dict[Any, Any], list[Any]]:
        """Run over the steps of a block.

        Args:
            known: The values of leaves and of what was saved, `(steps, batch, ...)`.
            d_outputs: The gradients of the output's leaves, or nothing.
            d_states: The gradients of the states after the block.
            d_starts: The gradients of the starts from later blocks; takes those of this one.
            flags: For each step which rows count, or None, and which go on, or None.
            count: The number of steps.
            places: Tensors for the gradients that are stored, `(steps, batch, ...)`.
            turned: The kernels transposed, as far as an earlier block took them; takes the rest.

        Returns:
            The gradients that are wanted at all steps, and those of the states before the block.
        """
        batch, like = len(d_states[0]), d_states[0]
        rows = [evaluate(n, known) for n in self.timed]
        rows += [torch.stack([evaluate(n, known) for n in group], -2) for group in self.groups]
        slots: dict[Any, Any] = {v: places.get(v) for v in self.slots}
        for v, place in slots.items():
            if place is None:
                slots[v] = like.new_empty((count, batch, *v.shape))
        rows += slots.values()
        for target, a, b, several in self.parts:
            part = slots[target][..., a:b]
            rows.append(part if several == 1 else part.unflatten(-1, (several, -1)))
        rows += d_outputs
        given = [evaluate(n, known) for n in self.fixed]
        for kernel in self.kernels:
            if kernel not in turned:
                turned[kernel] = evaluate(kernel, known).t().contiguous()
            given.append(turned[kernel])
        each = (
            zip(*(reversed(x.unbind(0)) for x in rows), strict=True)
            if rows
            else itertools.repeat(())
        )
        keeps, ons = (f if isinstance(f, itertools.repeat) else reversed(f) for f in flags)
        zeros = [torch.zeros_like(d) for d in d_states]
        with torch.no_grad():
            states = self.function(
                zip(range(count), each, keeps, ons, strict=False), given, d_states, d_starts, zeros
            )
        return slots, list(states)


def _runs(parts: list[Any]) -> list[list[Any]]:
    """Return parts, those together that are neighbours and multiples of one variable."""
    found: list[list[Any]] = []
    for part in parts:
        a, b, terms = part
        if found and _groups(found[-1][-1], part):
            found[-1].append(part)
        else:
            found.append([part])
    return found


def _groups(one: Any, other: Any) -> bool:
    (a, b, left), (c, d, right) = one, other
    if b != c or b - a != d - c or len(left) != 1 or len(right) != 1:
        return False
    terms = (left[0], right[0])
    if any(t.kernel is not None or type(t.factor) is not Node for t in terms):
        return False
    same = terms[0].variable is terms[1].variable
    shapes = {(t.variable.shape, t.factor.shape) for t in terms}
    timed = all(t.factor.timed and t.factor.rows for t in terms)
    return (
        same
        and timed
        and len(shapes) == 1
        and len(terms[0].variable.shape) == 1
        and all(t.factor.shape == t.variable.shape for t in terms)
    )
