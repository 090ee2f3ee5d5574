"""A step of a cell as a list of PyTorch's operations, recorded once.

A run of the step with a few rows notes every operation that PyTorch executes. Only operations are
taken that treat each row by itself, so what was recorded holds for any number of rows, and for the
steps of a whole sequence at once: in front of the rows there may be an axis of time. Anything else
(random draws, branches on values, in-place writes, sums over the batch) is refused.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cellkit.engines.torch.derive.guard import Guard, Refused

# Operations that compute each element from the elements at the same place, and from numbers.
ELEMENTWISE = frozenset(
    "add sub rsub mul div neg reciprocal abs sign square sqrt rsqrt pow exp expm1 exp2 log log1p "
    "sigmoid tanh sin cos tan sinh cosh asinh atan erf relu relu6 gelu silu mish softplus elu "
    "leaky_relu hardsigmoid hardtanh hardswish log_sigmoid_forward clamp clamp_min clamp_max "
    "maximum minimum where lerp addcmul addcdiv eq ne lt le gt ge logical_and logical_or "
    "logical_not _to_copy clone alias detach ones_like zeros_like full_like celu selu "
    "lift_fresh scalar_tensor isnan".split()
)
_LITERALS = frozenset("lift_fresh lift_fresh_copy scalar_tensor full zeros ones arange".split())
# They return a second result, or say with types what others say with values.
_NOT_TAKEN = frozenset(("log_sigmoid_forward",))
# No gradient goes through these.
_CONSTANT = frozenset("detach ones_like zeros_like full_like".split())
# PyTorch's own names where they exist: quicker to call, and most take `out`.
_WITH_OUT = (
    "add sub mul div neg reciprocal abs sqrt rsqrt exp expm1 log log1p sigmoid tanh sin cos erf "
    "maximum minimum mm addmm"
).split()


@dataclasses.dataclass(eq=False)
class Node:
    """A value of a step.

    Args:
        name: The operation's name, or what kind of a leaf it is: `"input"`, `"state"`, `"mask"`,
            `"given"`, `"weight"` or `"literal"`.
        shape: Its shape, without the rows where `rows`.
        function: Computes it from the values of `args`.
        args: Nodes, numbers and whatever else the operation was given.
        rows: True if its first axis is that of the rows.
        timed: True if it differs from step to step.
        loop: True if it depends on a state.
        active: True if gradients go through it.
        value: The value of a literal.
        out: The same function with an argument `out`, where there is one.
        moments: Of a norm: the nodes of the mean, and of one over the deviation.
    """

    name: str
    shape: tuple[int, ...]
    function: Callable[..., Any] | None = None
    args: tuple[Any, ...] = ()
    rows: bool = True
    timed: bool = True
    loop: bool = False
    active: bool = False
    value: Any = None
    out: Callable[..., Any] | None = None
    moments: tuple[Node, ...] = ()

    @property
    def parents(self) -> list[Node]:
        """The nodes among the arguments."""
        found: list[Node] = []
        for a in self.args:
            found += [x for x in (a if isinstance(a, (list, tuple)) else [a]) if type(x) is Node]
        return found


def derived(name: str, function: Callable[..., Any], shape: Any, *args: Any) -> Node:
    """Return a node for a function of others, for derivatives."""
    node = Node(name, tuple(shape), function, args)
    nodes = node.parents
    node.rows = any(n.rows for n in nodes)
    node.timed, node.loop = any(n.timed for n in nodes), any(n.loop for n in nodes)
    return node


@dataclasses.dataclass
class Tape:
    """A recorded step.

    Args:
        inputs: The leaves of the projected inputs.
        states: The old states.
        masks: Dropout masks, drawn once per call.
        weights: The variables that the step reads.
        given: The constants of the call, of every row and for all steps.
        nodes: The operations, each after those of its arguments.
        outputs: The leaves of the output.
        new_states: The new states.
    """

    inputs: list[Node]
    states: list[Node]
    masks: list[Node]
    weights: list[Node]
    given: list[Node]
    nodes: list[Node]
    outputs: list[Node]
    new_states: list[Node]

    @property
    def fixed(self) -> list[Node]:
        """The differentiable values that are the same at all steps, with and without rows."""
        return [*self.constants, *self.given]

    @functools.cached_property
    def constants(self) -> list[Node]:
        """Differentiable values without rows that the others are computed from."""
        found: dict[Node, None] = {}
        for node in self.nodes:
            if node.rows:
                found.update((p, None) for p in node.parents if not p.rows and p.name != "literal")
        return list(found)


def evaluate(node: Node, known: dict[Node, Any]) -> Any:
    """Return the value of a node, and keep it in `known`."""
    if node not in known:
        if node.name == "literal":
            return node.value
        assert node.function is not None  # noqa: S101 - leaves are known
        known[node] = node.function(*(_value(a, known) for a in node.args))
    return known[node]


def _value(x: Any, known: dict[Node, Any]) -> Any:
    if type(x) is Node:
        return evaluate(x, known)
    return [_value(y, known) for y in x] if type(x) is list else x


def record(
    step: Callable[..., tuple[list[Any], list[Any]]],
    inputs: list[Any],
    states: list[Any],
    masks: list[Any],
    weights: list[Any],
    given: list[Any] | tuple[Any, ...] = (),
) -> Tape:
    """Run a step once and return what it did.

    Args:
        step: Takes the five lists and returns the leaves of the output and the new states.
        inputs: Tensors of a number of rows that is the size of no other axis.
        states: The same.
        masks: The same.
        weights: Tensors without an axis of rows.
        given: Constants of the call, of that number of rows.

    Raises:
        Refused: If an operation is not known to treat rows one by one.
    """
    rows, dtype = inputs[0].shape[0], inputs[0].dtype
    kinds = (
        ("input", inputs),
        ("state", states),
        ("mask", masks),
        ("weight", weights),
        ("given", given),
    )
    leaves = {
        kind: [
            Node(
                kind,
                tuple(x.shape) if kind == "weight" else tuple(x.shape[1:]),
                rows=kind != "weight",
                timed=kind in ("input", "state"),
                loop=kind == "state",
                active=kind != "mask",
            )
            for x in xs
        ]
        for kind, xs in kinds
    }
    pairs = [(x, n) for kind, xs in kinds for x, n in zip(xs, leaves[kind], strict=True)]
    with torch.no_grad(), _Recording(rows, dtype, pairs) as recording, Guard(rows) as guard:
        try:
            output, new_states = step(inputs, states, masks, weights, list(given))
        except Refused:
            raise
        except Exception as error:  # if it is the step's own, the loop will raise it
            reason = guard.reason or f"raises {type(error).__name__} for made-up rows: {error}"
            raise Refused(reason) from error
    if guard.reason is not None:
        raise Refused(guard.reason)  # the step caught what was raised
    found = [recording.known.get(id(y)) for y in (*output, *new_states)]
    expected = [None] * len(output) + [s.dtype for s in states]
    for y, node, expects in zip((*output, *new_states), found, expected, strict=True):
        if node is None or not node.rows or y.dtype != (expects or dtype):
            raise Refused("returns something that is not computed from its rows")
    results = [n for n in found if n is not None]
    outputs, new_states = results[: len(output)], results[len(output) :]
    fields = "inputs", "states", "masks", "weights", "given"
    found_leaves = {name: leaves[kind] for name, (kind, _) in zip(fields, kinds, strict=True)}
    tape = Tape(**found_leaves, nodes=recording.nodes, outputs=outputs, new_states=new_states)
    return _simplified(tape)


def same(a: Tape, b: Tape) -> bool:
    """Tell whether two records of a step, with other numbers and rows, hold the same operations."""
    groups = [
        (t.inputs, t.states, t.masks, t.weights, t.given, t.nodes, t.outputs, t.new_states)
        for t in (a, b)
    ]
    if [len(g) for g in groups[0]] != [len(g) for g in groups[1]]:
        return False
    pairs = {x: y for g, h in zip(*groups, strict=True) for x, y in zip(g, h, strict=True)}

    def alike(x: Any, y: Any) -> bool:
        if type(x) is not type(y):
            return False
        if type(x) is Node:
            if x.name == y.name == "literal":
                return _identical(x.value, y.value)
            return pairs.get(x) is y
        if isinstance(x, (list, tuple)):
            return len(x) == len(y) and all(map(alike, x, y))
        if isinstance(x, dict):
            return x.keys() == y.keys() and all(alike(x[k], y[k]) for k in x)
        if isinstance(x, functools.partial):
            return alike((x.func, x.args, x.keywords), (y.func, y.args, y.keywords))
        return repr(x) == repr(y) if isinstance(x, float) else bool(x == y)

    return all(
        (x.name, x.shape, x.rows, x.timed, x.loop, x.active)
        == (y.name, y.shape, y.rows, y.timed, y.loop, y.active)
        and alike((x.function, x.args), (y.function, y.args))
        for x, y in pairs.items()
    )


def _identical(x: Any, y: Any) -> bool:
    if x.dtype != y.dtype or x.shape != y.shape:
        return False
    return bool(
        torch.equal(x, y) or torch.equal(x.isnan() | (x == y), torch.ones_like(x, dtype=bool))
    )


class _Recording(TorchDispatchMode):
    """Notes every operation."""

    def __init__(self, rows: int, dtype: Any, pairs: list[tuple[Any, Node]]) -> None:
        super().__init__()
        self.rows, self.dtype = rows, dtype
        self.nodes: list[Node] = []
        self.alive = [x for x, _ in pairs]  # an id must not be given away
        self.known: dict[int, Node] = {id(x): n for x, n in pairs}

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = operation.overloadpacket.__name__
        if operation._schema.is_mutable:
            raise Refused(f"executes `{name}`, which writes in place")
        result = operation(*args, **kwargs)
        if name in _LITERALS and not any(id(x) in self.known for x in _tensors((args, kwargs))):
            if self.rows in result.shape:
                raise Refused(f"executes `{name}` with the number of rows")
            self._note(result, Node("literal", tuple(result.shape), rows=False, timed=False))
            self.known[id(result)].value = result
            return result
        given = self._nodes(args)
        others = self._nodes(kwargs)
        if any(type(x) is Node for x in others.values()):
            raise Refused(f"executes `{name}` with a tensor as keyword")
        nodes = Node("", (), args=tuple(given)).parents
        if not any(n.rows for n in nodes):
            self._constant(operation, name, given, others, nodes, result)
        elif name == "log_sigmoid_forward":  # which returns more than the result
            shape, function = tuple(result[0].shape[1:]), torch.nn.functional.logsigmoid
            self._add(result[0], Node("log_sigmoid", shape, function, (given[0],)), nodes)
        elif name in ("split", "split_with_sizes"):
            self._split(name, given, result)
        else:
            self._rowwise(operation, name, given, others, nodes, result)
        return result

    def _nodes(self, x: Any) -> Any:
        """Return arguments with nodes in the place of tensors."""
        if torch.is_tensor(x):
            if id(x) not in self.known:
                raise Refused("uses a tensor other than an input, a state, a weight or a mask")
            return self.known[id(x)]
        if isinstance(x, dict):
            return {k: self._nodes(v) for k, v in x.items()}
        return [self._nodes(y) for y in x] if isinstance(x, (list, tuple)) else x

    def _note(self, result: Any, node: Node) -> None:
        self.alive.append(result)
        self.known[id(result)] = node
        if node.name != "literal":
            self.nodes.append(node)

    def _add(self, result: Any, node: Node, nodes: list[Node]) -> None:
        node.rows = any(n.rows for n in nodes)
        node.timed = any(n.timed for n in nodes)
        node.loop = any(n.loop for n in nodes)
        smooth = result.is_floating_point() and node.name not in _CONSTANT
        node.active = smooth and any(n.active for n in nodes)
        if result.is_floating_point() and result.dtype != self.dtype:
            raise Refused("computes in several dtypes")
        if node.rows and (result.ndim == 0 or result.shape[0] != self.rows):
            raise Refused(f"executes `{node.name}` across rows")
        self._note(result, node)

    def _constant(
        self, operation: Any, name: str, args: Any, kwargs: Any, nodes: Any, result: Any
    ) -> None:
        parts = [result] if torch.is_tensor(result) else result
        if "nondeterministic_seeded" in str(operation.tags) or not nodes:
            raise Refused(f"executes `{name}`")
        if not isinstance(parts, (list, tuple)) or not all(map(torch.is_tensor, parts)):
            raise Refused(f"executes `{name}`, which returns more than tensors")
        whole = Node(name, (), functools.partial(operation, **kwargs), tuple(args), rows=False)
        whole.timed = False
        if torch.is_tensor(result):
            whole.shape = tuple(result.shape)
            self._add(result, whole, nodes)
            return
        self.nodes.append(whole)
        for i, part in enumerate(result):
            pick = functools.partial(_item, index=i)
            self._add(part, Node("item", tuple(part.shape), pick, (whole,)), nodes)

    def _split(self, name: str, args: Any, result: Any) -> None:
        x, _, *rest = args
        dim = rest[0] if rest else 0
        if dim % (len(x.shape) + 1) != len(x.shape):
            raise Refused(f"executes `{name}` along another axis than the last")
        start = 0
        for part in result:
            self._slice(part, x, start, start + part.shape[-1])
            start += part.shape[-1]

    def _slice(self, result: Any, x: Node, start: int, end: int) -> None:
        if x.name == "slice":  # a slice of a slice is a slice
            start, end, x = start + x.args[1], end + x.args[1], x.args[0]
        self._add(result, Node("slice", tuple(result.shape[1:]), _slice, (x, start, end)), [x])

    def _rowwise(
        self, operation: Any, name: str, args: Any, kwargs: Any, nodes: Any, result: Any
    ) -> None:
        x: Any
        if not torch.is_tensor(result) and name != "native_layer_norm":
            raise Refused(f"executes `{name}`")
        rank = len(nodes[0].shape) + nodes[0].rows
        if name in ELEMENTWISE and name not in _NOT_TAKEN:
            if any(len(n.shape) + n.rows != result.ndim for n in nodes if n.rows):
                raise Refused(f"executes `{name}` across rows")
            if any(len(n.shape) == result.ndim and n.shape[0] != 1 for n in nodes if not n.rows):
                raise Refused(f"executes `{name}` across rows")
            plain = not kwargs and all(type(a) is Node for a in args[:1])
            out = getattr(torch, name) if plain and name in _WITH_OUT else None
            call = out or (functools.partial(operation, **kwargs) if kwargs else operation)
            self._add(
                result, Node(name, tuple(result.shape[1:]), call, tuple(args), out=out), nodes
            )
        elif name == "slice":
            x, dim, start, end, *step = list(args) + [None] * (4 - len(args))
            size = x.shape[-1] if x.shape else 0
            if dim is None or dim % rank == 0 or step not in ([], [1]):
                if (start or 0) == 0 and (end is None or end >= self.rows) and step in ([], [1]):
                    self._add(result, Node("alias", x.shape, _same, (x,)), [x])
                    return
                raise Refused("takes a slice of the rows")
            if dim % rank != rank - 1:
                if (start or 0) == 0 and result.shape[1:] == x.shape:
                    self._add(result, Node("alias", x.shape, _same, (x,)), [x])
                    return
                raise Refused("takes a slice along another axis than the last")
            start, end, _ = slice(start, end).indices(size)
            self._slice(result, x, start, end)
        elif name in ("mm", "addmm") and not args[-1].rows and args[-2].rows:
            if name == "addmm" and (kwargs or (not args[0].rows and len(args[0].shape) > 1)):
                raise Refused("executes `addmm` in a form of its own")
            call = torch.mm if name == "mm" else torch.addmm
            function = torch.matmul if name == "mm" else _affine
            node = Node(name, tuple(result.shape[1:]), function, tuple(args), out=call)
            self._add(result, node, nodes)
        elif name in ("sum", "mean") and len(args) > 1 and not kwargs and args[1]:
            dims = [d % rank - rank for d in args[1]]
            if -rank in dims:
                raise Refused(f"executes `{name}` over the rows")
            keep = bool(args[2]) if len(args) > 2 else False
            function = functools.partial(_reduced, operation=getattr(torch, name))
            shape = tuple(result.shape[1:])
            self._add(result, Node(name, shape, function, (args[0], dims, keep)), nodes)
        elif name == "unsqueeze" and args[1] % (rank + 1):
            dim = args[1] % (rank + 1) - rank - 1
            node = Node(name, tuple(result.shape[1:]), torch.unsqueeze, (args[0], dim))
            self._add(result, node, nodes)
        elif name in ("cat", "stack"):
            depth = result.ndim
            dim = (args[1] if len(args) > 1 else 0) % depth
            if not dim or not all(n.rows for n in nodes):
                raise Refused(f"executes `{name}` across rows")
            function = getattr(torch, name)
            node = Node(name, tuple(result.shape[1:]), function, (list(args[0]), dim - depth))
            self._add(result, node, nodes)
        elif name == "_softmax" and args[1] % rank:
            function = functools.partial(_softmax, dim=args[1] % rank - rank)
            self._add(result, Node(name, tuple(result.shape[1:]), function, (args[0],)), nodes)
        elif name == "native_layer_norm" and len(args[1]) < rank and args[0].rows:
            self._norm(args, nodes, result)
        else:
            raise Refused(f"executes `{name}`")

    def _norm(self, args: Any, given: list[Node], result: Any) -> None:
        x, sizes, scale, shift, epsilon = args
        if any(n.rows for n in given[1:]):
            raise Refused("executes `native_layer_norm` with a scale or a shift that has rows")
        function = functools.partial(_layer_norm, sizes=list(sizes), epsilon=epsilon)
        whole = Node("norm", x.shape, function, (x, scale, shift), loop=x.loop, timed=x.timed)
        whole.active = any(n.active for n in given)
        self.nodes.append(whole)
        nodes = []
        for i, part in enumerate(result):
            pick = functools.partial(_item, index=i)
            node = Node("moment" if i else "item", tuple(part.shape[1:]), pick, (whole, i))
            self._add(part, node, [whole])
            nodes.append(node)
        whole.moments = tuple(nodes[1:])


def _tensors(x: Any) -> list[Any]:
    if torch.is_tensor(x):
        return [x]
    parts = x.values() if isinstance(x, dict) else x if isinstance(x, (list, tuple)) else ()
    return [t for part in parts for t in _tensors(part)]


def _item(xs: Any, _: Any = None, index: int = 0) -> Any:
    return xs[index]


def _same(x: Any) -> Any:
    return x


def _slice(x: Any, start: int, end: int) -> Any:
    return x.narrow(-1, start, end - start)


def _affine(b: Any, x: Any, kernel: Any) -> Any:
    return torch.addmm(b, x, kernel) if x.ndim == 2 else b + x @ kernel


def _reduced(x: Any, dims: Any, keep: bool, operation: Any) -> Any:
    return operation(x, dims, keep)


def _softmax(x: Any, dim: int) -> Any:
    return torch.softmax(x, dim)


def _layer_norm(x: Any, scale: Any, shift: Any, sizes: list[int], epsilon: float) -> Any:
    return torch.native_layer_norm(x, sizes, scale, shift, epsilon)


def _scaled(node: Node, uses: dict[Node, int], results: set[Node]) -> None:
    """Let a norm scale and shift what it returns, where `node` does so with weights."""
    place = {"mul": 1, "add": 2}.get(node.name)
    if place is None or node.out is None or len(node.args) != 2:
        return
    for item, weight in (node.args, node.args[::-1]):
        if type(item) is not Node or item.name != "item" or item in results or uses[item] > 1:
            continue
        whole = item.args[0]
        if whole.name != "norm" or any(x is not None for x in whole.args[place:]):
            continue
        if type(weight) is not Node or weight.rows or not weight.active:
            continue
        if list(weight.shape) != whole.function.keywords["sizes"]:
            continue
        whole.args = (*whole.args[:place], weight, *whole.args[place + 1 :])
        node.name, node.args, node.function, node.out = "item", item.args, item.function, None
        return


def _joined(node: Node, uses: dict[Node, int], results: set[Node]) -> None:
    """Let an addition multiply as well, where it alone uses a product of two."""
    if node.name != "add" or node.out is None or len(node.args) != 2:
        return
    for product, other in (node.args, node.args[::-1]):
        if type(product) is not Node or product.name != "mul" or product.out is None:
            continue
        given = (other, *product.args)
        if product in results or uses[product] > 1 or len(given) != 3:
            continue
        if all(type(x) is Node and x.active for x in given):
            node.name, node.args = "addcmul", given
            node.function = node.out = torch.addcmul
            return


def _simplified(tape: Tape) -> Tape:
    """Join products and norms with what is done to them, and leave out what is not used."""
    uses: dict[Node, int] = {}
    results = {*tape.outputs, *tape.new_states}
    for node in tape.nodes:
        for p in node.parents:
            uses[p] = uses.get(p, 0) + 1
    for node in tape.nodes:
        _scaled(node, uses, results)
        _joined(node, uses, results)
        if node.name != "add" or len(node.args) != 2 or node.out is None:
            continue
        for product, other in (node.args, node.args[::-1]):
            if type(product) is not Node or product.name != "mm" or product in results:
                continue
            if uses[product] > 1 or type(other) is not Node or product.shape != node.shape:
                continue
            if (other.rows and other.shape != node.shape) or len(other.shape) > 1:
                continue
            node.name, node.args = "addmm", (other, *product.args)
            node.function, node.out = _affine, torch.addmm
            break
    wanted, todo = set(), list(results)
    while todo:
        node = todo.pop()
        if node not in wanted:
            wanted.add(node)
            todo += [*node.parents, *node.moments]
    return dataclasses.replace(tape, nodes=[n for n in tape.nodes if n in wanted])
