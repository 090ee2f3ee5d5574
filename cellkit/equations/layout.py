"""The layout of the parameters of a text in the weights of a cell.

Matrices that are applied to one and the same thing lie side by side in one weight, in the order of
the text: those for the input in `kernel`, those for the state (also where a gate weighs the state
first) in `recurrent_kernel`. All biases lie in `bias`. Every other matrix, vector and scalar is a
weight of its own, under its letter.

A step then has few, wide products. `Layout` knows them as `Group`: one operand, and columns of one
weight; and it knows which groups are only ever added, block by block, so that one addition serves
all of them.
"""

from __future__ import annotations

import dataclasses

from cellkit.equations.analyse import Analysis, Parameter
from cellkit.equations.graph import INPUTS
from cellkit.equations.sizes import Size

__all__ = ["Group", "Layout", "Weight", "layout_of"]


@dataclasses.dataclass(frozen=True)
class Weight:
    """A weight of the cell.

    Args:
        name: Its name.
        role: That of its parameters; see `cellkit.equations.analyse.Parameter`.
        parameters: The letters of the parameters that it holds, side by side.
        rows: Number of rows of a matrix, else None.
        widths: The widths of its parameters; empty for a scalar.
        recurrent: True if it is applied to a state.
    """

    name: str
    role: str
    parameters: tuple[str, ...]
    rows: Size | None
    widths: tuple[Size, ...]
    recurrent: bool


@dataclasses.dataclass(frozen=True)
class Group:
    """One product with several matrices.

    Args:
        operand: The node that they are applied to.
        weight: Index of the weight.
        start: Index of the first matrix in the weight.
        stop: Index behind the last one.
        nodes: The nodes of the single products.
        bias: Indices of the first bias that is added to them in `bias` and behind the last one, or
            None.
    """

    operand: int
    weight: int
    start: int
    stop: int
    nodes: tuple[int, ...]
    bias: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
    """The places of all parameters.

    Args:
        weights: The weights of the cell.
        where: For every parameter the index of its weight, and its own in there.
        groups: The products.
        sums: Groups that are only ever added to each other, block by block.
        chains: The sum that a product is a term of, by its node, if it is used for nothing else.
        taken: The nodes of biases that are added to a whole product.
    """

    weights: tuple[Weight, ...]
    where: dict[str, tuple[int, int]]
    groups: tuple[Group, ...]
    sums: tuple[tuple[int, ...], ...]
    chains: dict[int, int]
    taken: frozenset[int]


def layout_of(analysis: Analysis) -> Layout:
    """Lay the parameters of a text out."""
    return _Maker(analysis).make()


class _Maker:
    def __init__(self, analysis: Analysis) -> None:
        self.analysis, self.graph = analysis, analysis.graph
        below = analysis.needed
        self.parents = self.graph.parents(below)
        self.below = below
        self.product_nodes = {
            (self.graph.nodes[i].args[0], self.graph.nodes[i].value): i
            for i in sorted(below)
            if self.graph.nodes[i].op == "product"
        }
        self.parameter_nodes = {
            self.graph.nodes[i].value: i
            for i in sorted(below)
            if self.graph.nodes[i].op == "parameter"
        }

    def make(self) -> Layout:
        parameters = list(self.analysis.parameters.values())
        weights = self.matrices([p for p in parameters if p.is_matrix])
        names = {w.name for w in weights}
        groups = [g for i, w in enumerate(weights) for g in self.products(i, w)]
        biases = {p.name: p for p in parameters if p.role == "bias"}
        groups, aligned, taken = self.with_biases(groups, biases)
        if biases:
            order = [*aligned, *(name for name in biases if name not in aligned)]
            widths = tuple(biases[name].shape[0] for name in order)
            weights.append(Weight("bias", "bias", tuple(order), None, widths, False))
            names.add("bias")
        for parameter in parameters:
            if parameter.role in ("vector", "scalar"):
                name = _free_name(parameter.name, names)
                names.add(name)
                recurrent = parameter.role == "vector" and self.meets_state(parameter.name)
                weights.append(
                    Weight(
                        name,
                        parameter.role,
                        (parameter.name,),
                        None,
                        parameter.shape,
                        recurrent,
                    )
                )
        where = {name: (i, j) for i, w in enumerate(weights) for j, name in enumerate(w.parameters)}
        chains = {
            node: chain
            for group in groups
            for node in group.nodes
            if (chain := self.chain(node)) is not None
        }
        return Layout(
            tuple(weights), where, tuple(groups), self.sums(groups), chains, frozenset(taken)
        )

    # Matrices ------------------------------------------------------------------------------------

    def matrices(self, parameters: list[Parameter]) -> list[Weight]:
        """Put matrices side by side that are applied to the same thing."""
        groups: dict[tuple[object, ...], list[Parameter]] = {}
        for parameter in parameters:
            key: tuple[object, ...] = (
                parameter.role,
                *self.base(parameter),
                parameter.shape[0],
            )
            groups.setdefault(key, []).append(parameter)
        first = self.analysis.declaration.input_names[0]
        states = [key[2] for key in groups if key[:2] == ("recurrent_kernel", "state")]
        main = next((state for state in self.analysis.states if state in states), None)
        named: dict[tuple[object, ...], str] = {}
        for key in groups:
            usual = None
            if key[:3] == ("kernel", "input", first):
                usual = "kernel"
            elif key[:3] == ("recurrent_kernel", "state", main):
                usual = "recurrent_kernel"
            if usual is not None and usual not in named.values():
                named[key] = usual
        found = []
        taken = {*named.values(), "kernel", "recurrent_kernel", "bias"}
        for key, members in groups.items():
            name = named.get(key) or _free_name(_common([p.name for p in members]), taken)
            taken.add(name)
            members = sorted(members, key=lambda p: [p.operands for p in members].index(p.operands))
            found.append(
                Weight(
                    name,
                    members[0].role,
                    tuple(p.name for p in members),
                    members[0].shape[0],
                    tuple(p.shape[1] for p in members),
                    members[0].role == "recurrent_kernel",
                )
            )
        return found

    def base(self, parameter: Parameter) -> tuple[str, object]:
        """Return what a matrix is applied to, leaving what weighs it element by element out."""
        for operand in parameter.operands:
            for kind, value in self.factors(operand):
                if kind == ("input" if parameter.role == "kernel" else "state"):
                    return kind, value
        if parameter.role == "kernel" and self.graph.levels[parameter.operands[0]] > INPUTS:
            return "input", self.analysis.declaration.input_names[0]  # with a new meaning
        return "node", parameter.operands

    def factors(self, index: int) -> list[tuple[str, object]]:
        node = self.graph.nodes[index]
        if node.op == "multiply":
            return [factor for i in node.args for factor in self.factors(i)]
        return [("state" if node.op == "drop" else node.op, node.value)]

    def products(self, index: int, weight: Weight) -> list[Group]:
        """Return the products with a weight."""
        parameters = self.analysis.parameters
        found, start = [], 0
        while start < len(weight.parameters):
            operands = parameters[weight.parameters[start]].operands
            stop = start + 1
            while (
                stop < len(weight.parameters)
                and parameters[weight.parameters[stop]].operands == operands
            ):
                stop += 1
            names = weight.parameters[start:stop]
            for operand in operands:
                nodes = tuple(self.product_nodes[operand, name] for name in names)
                found.append(Group(operand, index, start, stop, nodes))
            start = stop
        return found

    # Sums ----------------------------------------------------------------------------------------

    def chain(self, index: int) -> int | None:
        """Return the sum that a node is a term of, if it is used for nothing else."""
        above = self.parents.get(index, [])
        if len(above) != 1 or self.graph.nodes[above[0]].op != "add":
            return None
        while len(above) == 1 and self.graph.nodes[above[0]].op == "add":
            index, above = above[0], self.parents.get(above[0], [])
        return index

    def with_biases(
        self, groups: list[Group], biases: dict[str, Parameter]
    ) -> tuple[list[Group], list[str], set[int]]:
        """Add biases to whole products, where each block has one of its own."""
        by_chain: dict[int, list[str]] = {}
        for name in biases:
            node = self.parameter_nodes[name]
            chain = self.chain(node)
            if chain is not None:
                by_chain.setdefault(chain, []).append(name)
        order: list[str] = []
        taken: set[int] = set()
        found = list(groups)
        by_level = sorted(range(len(groups)), key=lambda i: self.graph.levels[groups[i].operand])
        for i in by_level:
            group = groups[i]
            chains = [self.chain(node) for node in group.nodes]
            names: list[str] = []
            for chain, node in zip(chains, group.nodes, strict=True):
                size = self.graph.sizes[node]
                for name in by_chain.get(-1 if chain is None else chain, ()):
                    if name not in names and name not in order and biases[name].shape[0] == size:
                        names.append(name)
                        break
            if len(names) == len(group.nodes) and len(set(chains)) == len(chains):
                bias = (len(order), len(order) + len(names))
                found[i] = dataclasses.replace(group, bias=bias)
                order += names
                taken |= {self.parameter_nodes[name] for name in names}
        return found, order, taken

    def sums(self, groups: list[Group]) -> tuple[tuple[int, ...], ...]:
        """Return the groups that are only ever added to each other, block by block."""
        found: dict[tuple[int | None, ...], list[int]] = {}
        for i, group in enumerate(groups):
            chains = tuple(self.chain(node) for node in group.nodes)
            sizes = [self.graph.sizes[node] for node in group.nodes]
            tops = [self.graph.sizes[c] for c in chains if c is not None]
            if None not in chains and len(set(chains)) == len(chains) > 1 and sizes == tops:
                found.setdefault(chains, []).append(i)
        return tuple(tuple(indices) for indices in found.values() if len(indices) > 1)

    def meets_state(self, name: str) -> bool:
        """Tell whether a vector of weights is multiplied with something that depends on a state."""
        node = self.parameter_nodes.get(name, -1)
        return any(
            self.graph.levels[i] > INPUTS and self.graph.nodes[i].op == "multiply"
            for i in self.parents.get(node, ())
        )


def _common(names: list[str]) -> str:
    """Return what names have in common before an underscore, or all of them."""
    heads = {name.partition("_")[0] for name in names}
    return heads.pop() if len(heads) == 1 and len(names) > 1 else "_".join(names)


def _free_name(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name
