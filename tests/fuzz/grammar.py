"""The grammar of steps: lines of Python that compute values of rows from values of rows.

A value is a name and the shape of one of its rows. Rules are expressions, with `{0}` and `{1}` in
the place of operands and names like `W42` in the place of a weight of this shape. What else an
expression reads of the cell (`self.gain`, `self.inner`) stands in `parts`.
"""

from __future__ import annotations

import dataclasses
import re

from .choices import Choices
from .parts import EFFECTS, PARTS

Tail = tuple[int, ...]

FULL, HALF, ONE, MATRIX = (4,), (2,), (1,), (2, 2)
TAILS = (FULL, HALF, ONE, MATRIX)

# Operations on each element.
UNARY = (
    "ops.tanh({0})",
    "ops.sigmoid({0})",
    "0.7 * {0}",
    "{0} + 0.3",
    "1 - {0}",
    "-{0}",
    "ops.relu({0})",
    "ops.gelu({0})",
    "ops.silu({0})",
    "ops.softplus({0})",
    "ops.elu({0})",
    "ops.leaky_relu({0}, 0.1)",
    "ops.hard_sigmoid({0})",
    "ops.hard_tanh({0})",
    "ops.hard_silu({0})",
    "ops.selu({0})",
    "ops.celu({0})",
    "ops.relu6({0})",
    "keras.activations.mish({0})",
    "ops.softsign({0})",
    "ops.log_sigmoid({0})",
    "ops.squareplus({0})",
    "ops.tanh_shrink({0})",
    "ops.soft_shrink({0})",
    "ops.threshold({0}, 0.1, -0.2)",
    "ops.sparse_plus({0})",
    "ops.abs({0})",
    "ops.square({0})",
    "{0} ** 2",
    "ops.clip({0}, -0.8, 0.6)",
    "ops.sqrt(ops.abs({0}) + 0.1)",
    "ops.rsqrt(1 + {0} * {0})",
    "ops.exp(-ops.abs({0}))",
    "ops.expm1(ops.tanh({0}))",
    "ops.log1p(ops.abs({0}))",
    "ops.log(ops.abs({0}) + 0.2)",
    "ops.sin({0})",
    "ops.cos({0})",
    "ops.arctan({0})",
    "ops.arcsinh({0})",
    "ops.erf({0})",
    "2 / (3 + {0} * {0})",
    "ops.sign({0}) * 0.1",
    "ops.reciprocal(1.5 + {0} * {0})",
    "ops.stop_gradient({0})",
    "ops.nan_to_num({0})",
    "ops.round({0}) * 0.2",
    "ops.floor({0}) * 0.2",
    "ops.cast(ops.cast({0} * 3, 'int32'), {0}.dtype)",
    "ops.cast({0} > 0.1, {0}.dtype)",
    "ops.where({0} > 0, {0}, 0.2 * {0})",
    "ops.where(ops.isfinite({0}), {0}, ops.zeros_like({0}))",
    "{0} * ops.cast(ops.logical_not({0} < 0.2), {0}.dtype)",
    "{0} * ops.ones_like({0})",
    "{0} + ops.full_like({0}, 0.2)",
    "ops.copy({0})",
    "ops.real(ops.exp(ops.cast({0}, complex_like({0})) * 1j))",
    "ops.cast(ops.cast({0}, 'float32'), {0}.dtype)",
    "keras.activations.swish({0})",
    "keras.activations.exponential(-ops.abs({0}))",
)
BINARY = (
    "{0} + {1}",
    "{0} * {1}",
    "{0} - {1}",
    "{0} / (1 + ops.abs({1}))",
    "ops.maximum({0}, {1})",
    "ops.minimum({0}, {1})",
    "ops.where({0} > {1}, {0}, {1} * 0.5)",
    "ops.logaddexp({0}, {1})",
    "ops.arctan2({0}, 1 + ops.abs({1}))",
    "ops.power(ops.abs({0}) + 0.2, ops.tanh({1}))",
    "ops.add({0}, ops.multiply({1}, {0}))",
    "ops.where(ops.logical_and({0} > 0, {1} > 0), {0}, -{1})",
    "ops.where(ops.equal(ops.sign({0}), ops.sign({1})), {0}, {1})",
    "ops.hypot({0}, 1 + ops.abs({1}))",
    "ops.sigmoid({0}) * {0} + (1 - ops.sigmoid({0})) * {1}",
)
# (result, operands): expressions.
SHAPED: dict[tuple[Tail, tuple[Tail, ...]], tuple[str, ...]] = {
    (FULL, (FULL,)): (
        "cellkit.cells.matmul({0}, W44)",
        "ops.matmul({0}, W44)",
        "{0} @ W44",
        "ops.dot({0}, W44)",
        "ops.einsum('bi,ij->bj', {0}, W44)",
        "ops.matmul({0}, W44 - ops.transpose(W44))",
        "ops.matmul({0}, ops.tril(W44))",
        "cellkit.cells.matmul({0}, W48, slice(2, 6))",
        "ops.tensordot({0}, W44, axes=1)",
        "{0} * V4",
        "{0} + V4",
        "ops.matmul({0}, W42 @ W24)",
        "ops.softmax({0}, axis=-1)",
        "ops.softmax({0})",
        "ops.log_softmax({0}, axis=-1)",
        "ops.cumsum({0}, axis=-1)",
        "ops.cumsum({0}, axis=1)",
        "ops.cumprod(ops.tanh({0}), axis=-1)",
        "ops.roll({0}, 1, axis=-1)",
        "ops.roll({0}, 1, axis=1)",
        "ops.flip({0}, axis=-1)",
        "ops.sort({0}, axis=-1)",
        "ops.take({0}, [2, 0, 1, 3], axis=-1)",
        "ops.take({0}, [1, 1, 3, 0], axis=1)",
        "ops.take_along_axis({0}, ops.argsort({0}, axis=-1), axis=-1)",
        "{0} / ops.sqrt(ops.sum({0} * {0}, axis=-1, keepdims=True) + 1)",
        "ops.normalize({0} + 2, axis=-1)",
        "{0} - ops.mean({0}, axis=-1, keepdims=True)",
        "{0} * ops.one_hot(ops.argmax({0}, axis=-1), 4, dtype={0}.dtype)",
        "ops.concatenate([{0}[:, 1:], {0}[:, :1]], axis=1)",
        "ops.concatenate(ops.split({0}, 2, axis=-1)[::-1], axis=-1)",
        "ops.concatenate(ops.split({0}, [1, 3], axis=-1)[::-1], axis=-1)",
        "ops.stack(ops.unstack({0}, axis=-1)[::-1], axis=-1)",
        "ops.pad({0}[:, 1:], [[0, 0], [1, 0]])",
        "ops.broadcast_to(ops.sum({0}, axis=-1, keepdims=True), ops.shape({0})) * 0.2",
        "ops.reshape(ops.transpose(ops.reshape({0}, (-1, 2, 2)), (0, 2, 1)), (-1, 4))",
        "ops.repeat({0}[:, :2], 2, axis=-1)",
        "ops.tile({0}[:, 2:], [1, 2])",
        "ops.einsum('bi,bj->bij', {0}, {0})[:, 1]",
        "ops.sum({0}[:, None, :] * {0}[:, :, None], axis=2)",
        "ops.squeeze(ops.expand_dims({0}, 1), 1)",
        "ops.top_k({0}, 4)[0]",
        "ops.vectorized_map(ops.tanh, {0})",
        "ops.layer_normalization({0} * 1.0) + 0.1",
        "ops.rms_normalization({0} + 0.3)",
        "ops.slice_update({0}, [0, 0], 0.5 * {0})",
        "ops.where(ops.arange(4) > 1, {0}, 0.3 * {0})",
        "{0} * ops.arange(4, dtype={0}.dtype) * 0.3",
        "{0} + 0.1 * ops.eye(4, dtype={0}.dtype)[2]",
        "ops.diff(ops.pad({0}, [[0, 0], [1, 0]]), axis=-1)",
        "ops.associative_scan(ops.add, {0}, axis=-1)",
        "ops.logsumexp(ops.stack([{0}, 0.5 * {0}], axis=1), axis=1)",
    ),
    (FULL, (FULL, FULL)): (
        "ops.einsum('bi,bi->b', {0}, {1})[:, None] * {0}",
        "ops.einsum('bi,bj,j->bi', {0}, {1}, V4)",
        "ops.sum(ops.stack([{0}, {1}], axis=1), axis=1)",
        "ops.mean(ops.stack([{0}, {1}], axis=-1), axis=-1)",
        "ops.concatenate([{0}, {1}], axis=-1)[:, 2:6]",
        "ops.matmul(ops.concatenate([{0}, {1}], axis=-1), W84)",
        "ops.max(ops.stack([{0}, {1}], axis=0), axis=0)",
        "ops.where(ops.any({0} > {1}, axis=-1, keepdims=True), {0}, {1})",
        "{0} - ops.sum({0} * {1}, axis=-1, keepdims=True) * {1} * 0.2",
        "ops.matmul({0}[:, None, :], {1}[:, :, None])[:, 0] * {0}",
        "ops.select([{0} > 0.2, {1} > 0], [{0}, {1}], 0.1)",
    ),
    (HALF, (FULL,)): (
        "{0}[:, :2]",
        "{0}[:, 2:]",
        "{0}[:, 1::2]",
        "{0}[..., -2:]",
        "ops.split({0}, 2, axis=-1)[1]",
        "ops.split({0}, 2, axis=1)[0]",
        "cellkit.cells.matmul({0}, W42)",
        "ops.matmul({0}, W42)",
        "ops.mean(ops.reshape({0}, (-1, 2, 2)), axis=1)",
        "ops.max(ops.reshape({0}, (-1, 2, 2)), axis=-1)",
    ),
    (ONE, (FULL,)): (
        "ops.sum({0}, axis=-1, keepdims=True)",
        "ops.mean({0}, axis=-1, keepdims=True)",
        "ops.max({0}, axis=-1, keepdims=True)",
        "ops.min({0}, axis=1, keepdims=True)",
        "ops.prod({0}, axis=-1, keepdims=True)",
        "ops.var({0}, axis=-1, keepdims=True)",
        "ops.std({0} + V4, axis=-1, keepdims=True)",
        "ops.logsumexp({0}, axis=-1, keepdims=True)",
        "ops.norm({0} + 0.1 + {0} * {0}, axis=-1, keepdims=True)",
        "ops.sum({0}, axis=1)[:, None]",
        "{0}[:, 2:3]",
        "{0}[:, 1][:, None]",
        "ops.cast(ops.any({0} > 0.5, axis=-1, keepdims=True), {0}.dtype)",
        "ops.cast(ops.count_nonzero({0} > 0, axis=-1), {0}.dtype)[:, None]",
        "ops.cast(ops.argmax({0}, axis=-1), {0}.dtype)[:, None] * 0.1",
        "ops.median({0}, axis=-1, keepdims=True)",
        "{0} @ W41",
    ),
    (FULL, (HALF,)): (
        "cellkit.cells.matmul({0}, W24)",
        "ops.concatenate([{0}, -{0}], axis=-1)",
        "ops.repeat({0}, 2, axis=-1)",
        "ops.tile({0}, [1, 2])",
        "ops.pad({0}, [[0, 0], [1, 1]])",
    ),
    (FULL, (HALF, HALF)): (
        "ops.concatenate([{0}, {1}], axis=-1)",
        "ops.reshape(ops.stack([{0}, {1}], axis=-1), (-1, 4))",
        "ops.reshape(ops.einsum('bi,bj->bij', {0}, {1}), (-1, 4))",
    ),
    (FULL, (FULL, ONE)): (
        "{0} * {1}",
        "{0} + {1}",
        "{0} - 0.5 * {1}",
        "ops.where({1} > 0.3, {0}, 0.2 * {0})",
        "{0} / (1 + {1} * {1})",
    ),
    (FULL, (ONE,)): ("{0} * V4", "ops.repeat({0}, 4, axis=-1)", "ops.matmul({0}, W14)"),
    (MATRIX, (FULL,)): (
        "ops.reshape({0}, (-1, 2, 2))",
        "ops.reshape({0}, (ops.shape({0})[0], 2, 2))",
        "ops.einsum('bi,bj->bij', {0}[:, :2], {0}[:, 2:])",
        "{0}[:, :2, None] * {0}[:, None, 2:]",
    ),
    (MATRIX, (MATRIX,)): (
        "ops.transpose({0}, (0, 2, 1))",
        "ops.swapaxes({0}, 1, 2)",
        "ops.matmul({0}, W22)",
        "ops.einsum('bij,jk->bik', {0}, W22)",
        "ops.tril({0})",
        "ops.softmax({0}, axis=1)",
        "ops.softmax({0}, axis=-1)",
        "ops.cumsum({0}, axis=1)",
        "{0} - ops.mean({0}, axis=(1, 2), keepdims=True)",
        "ops.flip({0}, axis=2)",
    ),
    (MATRIX, (MATRIX, MATRIX)): ("ops.matmul({0}, {1})", "ops.einsum('bij,bjk->bik', {0}, {1})"),
    (FULL, (MATRIX,)): (
        "ops.reshape({0}, (-1, 4))",
        "ops.concatenate([{0}[:, 0], {0}[:, 1]], axis=-1)",
        "ops.matmul(ops.sum({0}, axis=1), W24)",
        "ops.concatenate(ops.unstack({0}, axis=1), axis=-1)",
    ),
    (HALF, (MATRIX, HALF)): (
        "ops.einsum('bij,bj->bi', {0}, {1})",
        "ops.matmul({0}, {1}[:, :, None])[:, :, 0]",
        "ops.sum({0} * {1}[:, None, :], axis=-1)",
    ),
    (ONE, (MATRIX,)): (
        "ops.trace({0}, axis1=1, axis2=2)[:, None]",
        "ops.sum({0}, axis=(1, 2))[:, None]",
        "ops.mean({0}, axis=(-2, -1))[:, None]",
        "ops.diagonal({0}, axis1=1, axis2=2)[:, :1]",
    ),
}

# Rows see each other, or their number. All from vectors of four to vectors of four.
ACROSS = (
    "{0} / {0}.shape[0]",
    "{0} / len({0})",
    "{0} / ops.cast(ops.shape({0})[0], {0}.dtype)",
    "{0} * (0.5 if {0}.shape[0] == 3 else 1.0)",
    "{0} * (0.5 if ops.shape({0})[0] > 2 else 1.0)",
    "{0} - ops.mean({0}, axis=0)",
    "{0} - ops.mean({0}, axis=0, keepdims=True)",
    "{0} - ops.max({0}, axis=0, keepdims=True)",
    "{0} / (1 + ops.std({0}, axis=0) + ops.var({0}, axis=0))",
    "ops.softmax({0}, axis=0)",
    "ops.cumsum({0}, axis=0)",
    "ops.roll({0}, 1, axis=0)",
    "ops.flip({0}, axis=0)",
    "ops.sort({0}, axis=0)",
    "{0} * ops.mean({0})",
    "{0} * ops.sum({0}) * 0.1",
    "{0} + 0.3 * {0}[:1]",
    "{0} + 0.3 * {0}[0]",
    "{0} + 0.3 * {0}[-1:]",
    "ops.matmul(ops.matmul({0}, ops.transpose({0})), {0}) * 0.1",
    "ops.einsum('bi,ci,cj->bj', {0}, {0}, {0}) * 0.1",
    "{0} * 0.1 * ops.cast(ops.arange({0}.shape[0]), {0}.dtype)[:, None]",
    "{0} / ops.sqrt(ops.sum({0} * {0}) + 1)",
    "ops.reshape(ops.transpose({0}), ops.shape({0}))",
    "ops.concatenate([{0}[1:], {0}[:1]], axis=0)",
    "{0} / int(ops.size({0}))",
    "{0} - 0.1 * ops.reshape({0}, (-1,))[:4]",
    "{0} + 0.1 * ops.take({0}, [0], axis=0)",
    "sum(ops.unstack({0}, axis=0)) * 0.1 + {0}",
    "ops.stack([2.0 / (2 + i) * row for i, row in enumerate(ops.unstack({0}, axis=0))])",
    "{0} * ops.ones(({0}.shape[0], 4), dtype={0}.dtype) / np.prod({0}.shape)",
    "ops.pad({0}[1:], [[0, 1], [0, 0]])",
    "ops.slice({0}, [0, 0], [{0}.shape[0], 4]) / {0}.shape[0]",
    "ops.logsumexp({0}, axis=0) * 0.1 + {0}",
    "ops.normalize({0} + 2, axis=0)",
    "ops.where(ops.any({0} > 0.8), {0}, 0.5 * {0})",
    "ops.where(ops.argmax({0}, axis=0) == 0, {0}, 0.5 * {0})",
    "ops.diff(ops.pad({0}, [[1, 0], [0, 0]]), axis=0)",
    "ops.tensordot({0}, ops.transpose({0}), axes=1) @ ops.cast({0}, 'float32') * 0.1",
    "ops.linalg.norm({0}) * 0.1 * {0}",
    "ops.repeat({0}, {0}.shape[0], axis=0)[:: {0}.shape[0]] / {0}.shape[0]",
    "{0} / functools.reduce(lambda a, b: a * b, {0}.shape)",
    "{0} / (sum({0}.shape) - 3)",
)

# Values of tensors reach Python. All from vectors of four to vectors of four.
HOST = (
    "{0} * float(ops.convert_to_numpy({0}).mean())",
    "{0} + float(ops.convert_to_numpy({0})[0, 0])",
    "{0} * (0.5 if ops.convert_to_numpy({0}).mean() > 0.1 else 1.0)",
    "({0} if ops.convert_to_numpy({0})[0, 1] > 0.1 else 0.3 * {0})",
    "{0} * (1.0 + sum(ops.convert_to_numpy({0}).tolist()[-1]))",
    "{0} * np.tanh(ops.convert_to_numpy({0}).sum()).item()",
    "{0} * float(f'{ops.convert_to_numpy({0})[0, 0]:.3f}')",
    "{0} * (0.5 if float(ops.convert_to_numpy({0}).max()) > 0.3 else 1.0)",
    "{0} * float(ops.convert_to_numpy(ops.mean({0})))",
    "{0} + ops.convert_to_numpy({0}).tolist()[0][1]",
    "{0} * float(ops.max(ops.stop_gradient({0})))",
    "{0} * float(np.asarray(ops.stop_gradient({0})).mean())",
    "({0} if bool(ops.any({0} > 0.4)) else -{0})",
    "({0} if ops.max({0}) > 0.4 else 0.3 * {0})",
    "({0} if ops.sum({0}) > 0 else 0.3 * {0})",
    "{0} * (0.5 if '-' in str(float(ops.sum(ops.stop_gradient({0})))) else 1.0)",
    "{0} * (0.1 * (len(str(ops.convert_to_numpy({0}))) % 7))",
    "{0} + 0.2 * {0}[:, int(ops.argmax(ops.sum({0}, axis=0)))][:, None]",
    "{0} * ops.convert_to_tensor(ops.convert_to_numpy({0}))",
    "{0} + ops.convert_to_tensor(np.sort(ops.convert_to_numpy({0}), axis=-1))",
    "{0} * (0.5 if (ops.convert_to_numpy({0}) > 0.2).any() else 1.0)",
    "{0} * float(ops.convert_to_numpy(W44)[0, 1])",
    "{0} * float(ops.sum(W44))",
    "({0} if ops.convert_to_numpy(V4)[0] > 0.1 else 0.3 * {0})",
    "{0} * math.tanh(ops.convert_to_numpy({0})[0, 0])",
    "{0} * float(np.linalg.norm(ops.convert_to_numpy({0})))",
    "halved({0})",
    "guarded({0})",
    "{0} * float(ops.convert_to_numpy({0})[0, 0] > 0)",
    "{0} * (1 + int(ops.count_nonzero({0} > 0.1))) * 0.1",
    "{0} * (0.5 if float(ops.stop_gradient({0})[0, 0]) > 0.1 else 1.0)",
    "{0} * ops.convert_to_numpy({0}).std().item()",
    "(ops.tanh({0}) if not ops.all({0} > 0) else {0})",
    "{0} * (0.5 if ops.convert_to_numpy({0}).tobytes()[7] > 63 else 1.0)",
    "{0} * (0.2 * (hash(tuple(ops.convert_to_numpy({0}).ravel().tolist())) % 5))",
    "{0} * sum(0.1 for v in ops.convert_to_numpy({0}).flat if v > 0)",
    "{0} * (0.5 if repr(ops.stop_gradient({0})).count('-') > 3 else 1.0)",
    "{0} * complex(ops.convert_to_numpy({0})[0, 0]).real",
    "({0} if {0}[0, 0] > 0 else 0.3 * {0})",
    "({0} if {0}[0, 0] > 0 and {0}[0, 1] < 0.5 else 0.3 * {0})",
    "ops.stack([0.5 * row if row[0] > 0 else row for row in ops.unstack({0}, axis=0)])",
)

# Operations that Keras rounds to float32 on some backend, also where all that they are given is
# float64 (3.15.1).
ROUNDING = re.compile(
    r"ops\.(floor|maximum|minimum|logaddexp|arctan2|hypot|matmul|dot|tensordot|cumsum|cumprod|"
    r"associative_scan|prod|var|std|norm|median|layer_normalization)\b|float32"
)

# Of these alone half of the cells are made: the more kinds of operations, the fewer engines take a
# cell, and what they take is what shows their mistakes.
COMMON = frozenset(
    "tanh sigmoid relu gelu silu softplus elu leaky_relu abs square clip sqrt rsqrt exp expm1 log "
    "log1p sin cos erf where sum mean softmax concatenate stack split multiply add sign ones_like "
    "full_like stop_gradient hard_sigmoid hard_tanh hard_silu selu celu relu6".split()
)
# Elementwise operations whose result Keras rounds to float32 on JAX (3.15.1).
NARROWED = re.compile(r"ops\.(expm1|sin|cos|arctan|arcsinh|exp\(ops.cast)\b")

# Names that an expression reads of the cell, or of the module.
READ = r"(?<=self\.)\w+|\bLEVEL\b|\bthrough\b"

FLAVOURS = {"plain": 5, "attributes": 8, "across": 5, "host": 5, "effects": 3, "inner": 3}
"""What a step has beside row-wise operations, and how often."""


def _is_common(expression: str) -> bool:
    return COMMON.issuperset(re.findall(r"ops\.(\w+)", expression))


@dataclasses.dataclass
class Value:
    """A value of a step: its name, and the shape of one of its rows."""

    name: str
    tail: Tail


class Body:
    """Lines of a function that is drawn line by line.

    Args:
        choices: The source of choices.
        host: True if values of tensors may reach Python, and effects of Python the numbers.
        weights: Takes the weights, by name; bodies of one cell share them.
        parts: Takes the names of the parts that are read.
        exact: True if no operation may round to float32.
        common: True to take common operations only.
        rules: Takes the expressions that were drawn.
    """

    def __init__(
        self,
        choices: Choices,
        host: bool,
        weights: dict[str, Tail],
        parts: set[str],
        exact: bool = False,
        common: bool = False,
        rules: set[str] | None = None,
    ) -> None:
        self.choices, self.host, self.exact, self.common = choices, host, exact, common
        self.weights, self.parts = weights, parts
        self.rules = set() if rules is None else rules
        self.lines: list[str] = []
        self.values: list[Value] = []
        self._count = 0

    def give(self, name: str, tail: Tail) -> Value:
        """Let later lines use a value that there is already."""
        value = Value(name, tail)
        self.values.append(value)
        return value

    def let(self, expression: str, tail: Tail, *operands: Value) -> Value:
        """Add a line that computes a new value."""
        for place, operand in enumerate(operands):
            expression = expression.replace(f"{{{place}}}", operand.name)
        expression = re.sub(r"\b[WV]\d+\b", self._weight, expression)
        self.parts.update(re.findall(READ, expression))
        self._count += 1
        self.lines.append(f"v{self._count} = {expression}")
        return self.give(f"v{self._count}", tail)

    def _weight(self, match: re.Match[str]) -> str:
        token = match.group()
        known = [name for name in self.weights if name.startswith(f"{token}_")]
        if not known or self.choices.chance(40):
            known = [f"{token}_{len(known)}"]
            self.weights[known[0]] = tuple(int(digit) for digit in token[1:])
        return f"self.{self.choices.one(known)}"

    def rule(self, expressions: tuple[str, ...], common: bool = False) -> str:
        """Draw one of these expressions."""
        if self.exact:
            expressions = tuple(e for e in expressions if not ROUNDING.search(e)) or expressions
            if not self.host:
                expressions = tuple(e for e in expressions if not NARROWED.search(e))
        if common:
            expressions = tuple(filter(_is_common, expressions)) or expressions
        rule = self.choices.one(expressions)
        self.rules.add(rule)
        return rule

    def pick(self, tail: Tail) -> Value:
        """Return a value with this shape, the newest ones most often."""
        fitting = [v for v in self.values if v.tail == tail]
        if fitting:
            newest = fitting[::-1]
            return self.choices.one([*newest[:2], *newest])
        if tail == FULL:
            source = self.values[-1]
            return self.let(self.rule(SHAPED[FULL, (source.tail,)], self.common), FULL, source)
        return self.let(self.rule(SHAPED[tail, (FULL,)], self.common), tail, self.pick(FULL))

    def grow(self, flavour: str = "plain") -> None:
        """Add one operation."""
        choices = self.choices
        if flavour == "across":
            self.let(self.rule(ACROSS), FULL, self.pick(FULL))
        elif flavour == "host":
            self.let(self.rule(HOST), FULL, self.pick(FULL))
        elif flavour in ("attributes", "inner"):
            names = [
                name
                for name, part in PARTS.items()
                if (part.kind == "inner") == (flavour == "inner")
                and not (self.exact and part.rounds)
            ]
            part = PARTS[choices.one(names)]
            self.let(self.rule(part.uses), FULL, self.pick(FULL))
        elif flavour == "effects":
            name = choices.one(list(EFFECTS))
            effect = EFFECTS[name]
            self.parts.add(name)
            self.lines.append(effect.line)
            if self.host and choices.chance(50):
                self.let(self.rule(effect.uses), FULL, self.pick(FULL))
        else:
            self._grow_plainly()

    def _grow_plainly(self) -> None:
        choices = self.choices
        kind = choices.weighted({"shaped": 4, "unary": 3, "binary": 3})
        if kind == "unary":
            value = choices.one(self.values[::-1])
            self.let(self.rule(UNARY, self.common), value.tail, value)
        elif kind == "binary":
            first = choices.one(self.values[::-1])
            self.let(self.rule(BINARY, self.common), first.tail, first, self.pick(first.tail))
        else:
            shapes = [s for s in SHAPED if not self.common or any(map(_is_common, SHAPED[s]))]
            result, operands = choices.one(shapes)
            expressions = SHAPED[result, operands]
            values = [self.pick(tail) for tail in operands]
            self.let(self.rule(expressions, self.common), result, *values)

    def bounded(self, tail: Tail, old: Value | None = None) -> str:
        """Return an expression for a value that does not grow without limit."""
        value = self.pick(tail)
        form = self.choices.one(
            ["ops.tanh({0})", "ops.clip({0}, -2.0, 2.0)", "0.5 * ops.tanh({0}) + 0.5 * {1}"]
        )
        other = old or self.pick(tail)
        return form.replace("{0}", value.name).replace("{1}", other.name)

    def tidied(self) -> list[str]:
        """Return the lines without values that nothing uses."""
        kept: list[str] = []
        for line in reversed(self.lines):
            name, assigned, _ = line.partition(" = ")
            used = any(re.search(rf"\b{name}\b", other) for other in kept)
            if not assigned or not re.fullmatch(r"[vrsn]\d+|[abc]", name) or used:
                kept.append(line)
        return kept[::-1]
