"""Equations as they are printed: LaTeX for papers, MathML for pages.

Both come from the syntax tree, so what is shown is what was parsed. A product with a matrix is
written side by side, an elementwise product with a circled dot, a quotient as a fraction; names
that begin with a Greek letter's name get the letter. MathML is drawn by browsers themselves: pages
need neither a renderer nor a network.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from html import escape

from cellkit.equations.syntax import (
    Binary,
    Call,
    Compare,
    Conditional,
    Definition,
    Expression,
    Function,
    Guard,
    Indicator,
    Logical,
    Name,
    Negative,
    Number,
    Repeat,
    Statement,
    Text,
    Variant,
)

__all__ = ["GREEK", "Row", "latex", "mathml", "rows"]

GREEK = {
    "alpha": "α",
    "beta": "β",
    "gamma": "γ",
    "delta": "δ",
    "Delta": "Δ",
    "epsilon": "ε",
    "eps": "ε",
    "zeta": "ζ",
    "eta": "η",
    "theta": "θ",
    "Theta": "Θ",
    "kappa": "κ",
    "lambda": "λ",
    "Lambda": "Λ",
    "mu": "μ",
    "nu": "ν",
    "xi": "ξ",
    "pi": "π",
    "rho": "ρ",
    "sigma": "σ",
    "Sigma": "Σ",
    "tau": "τ",
    "phi": "φ",
    "Phi": "Φ",
    "chi": "χ",
    "psi": "ψ",
    "Psi": "Ψ",
    "omega": "ω",
    "Omega": "Ω",
}
"""The Greek letters by their names."""

# Precedences, from what binds least.
_OR, _NOT, _COMPARE, _SUM, _PRODUCT, _NEGATIVE, _POWER, _ATOM = range(8)

_COMPARISONS = {"<": "<", "<=": "≤", ">": ">", ">=": "≥", "==": "=", "!=": "≠"}


@dataclasses.dataclass(frozen=True)
class Row:
    """One printed line.

    Args:
        left: The name that is defined, or the head of a block.
        sign: The sign between left and right, empty for a head.
        right: Its definition.
        remark: The remark behind it, as plain text.
        depth: The number of blocks around it.
    """

    left: str
    sign: str
    right: str
    remark: str
    depth: int


class _Style:
    """A way of writing: how each kind of formula is put together."""

    def identifier(self, text: str, upright: bool) -> str:
        raise NotImplementedError

    def number(self, text: str) -> str:
        raise NotImplementedError

    def operator(self, text: str) -> str:
        raise NotImplementedError

    def words(self, text: str) -> str:
        raise NotImplementedError

    def script(self, base: str, below: str, above: str) -> str:
        raise NotImplementedError

    def prime(self, base: str, below: str) -> str:
        raise NotImplementedError

    def accent(self, base: str) -> str:
        raise NotImplementedError

    def fraction(self, top: str, bottom: str) -> str:
        raise NotImplementedError

    def root(self, inner: str) -> str:
        raise NotImplementedError

    def fenced(self, opening: str, inner: str, closing: str) -> str:
        raise NotImplementedError

    def cases(self, cases: list[tuple[str, str]], otherwise: str) -> str:
        """Write values with their conditions, from the first to the one of all other cases."""
        raise NotImplementedError

    def row(self, *parts: str) -> str:
        raise NotImplementedError


class _LaTeX(_Style):
    _OPERATORS: dict[str, str] = {
        "⊙": r"\odot",
        "−": "-",
        "≤": r"\le",
        "≥": r"\ge",
        "≠": r"\ne",
        "∧": r"\wedge",
        "∨": r"\vee",
        "¬": r"\neg",
        "…": r"\dots",
        ":=": r"\mathrel{:=}",
        "": "",
    }
    _LETTERS: dict[str, str] = {symbol: "\\" + name for name, symbol in GREEK.items()}

    def identifier(self, text: str, upright: bool) -> str:
        if text in self._LETTERS:
            return r"\varepsilon" if text == "ε" else self._LETTERS[text]
        plain = text.replace("_", r"\_")
        return rf"\mathrm{{{plain}}}" if upright else plain

    def number(self, text: str) -> str:
        return r"\mathbb{1}" if text == "𝟙" else text

    def operator(self, text: str) -> str:
        return self._OPERATORS.get(text, text)

    def words(self, text: str) -> str:
        for sign in "\\{}$&#_%^~":
            text = text.replace(sign, {"\\": r"\textbackslash{}"}.get(sign, "\\" + sign))
        return rf"\text{{{text}}}"

    def script(self, base: str, below: str, above: str) -> str:
        return base + (f"_{{{below}}}" if below else "") + (f"^{{{above}}}" if above else "")

    def prime(self, base: str, below: str) -> str:
        return self.script(base, below, r"\prime")

    def accent(self, base: str) -> str:
        return rf"\tilde{{{base}}}"

    def fraction(self, top: str, bottom: str) -> str:
        return rf"\frac{{{top}}}{{{bottom}}}"

    def root(self, inner: str) -> str:
        return rf"\sqrt{{{inner}}}"

    def fenced(self, opening: str, inner: str, closing: str) -> str:
        return rf"\left{opening} {inner} \right{closing}"

    def cases(self, cases: list[tuple[str, str]], otherwise: str) -> str:
        lines = [rf"{value} & {self.words('if')}\ {condition}" for condition, value in cases]
        lines.append(f"{otherwise} & {self.words('otherwise')}")
        inner = r" \\ ".join(lines)
        return rf"\begin{{cases}} {inner} \end{{cases}}"

    def row(self, *parts: str) -> str:
        return " ".join(p for p in parts if p)


class _MathML(_Style):
    def identifier(self, text: str, upright: bool) -> str:
        if upright and len(text) == 1:
            return f'<mi mathvariant="normal">{escape(text)}</mi>'
        return f"<mi>{escape(text)}</mi>"

    def number(self, text: str) -> str:
        return f"<mn>{escape(text)}</mn>"

    def operator(self, text: str) -> str:
        if not text:
            return '<mspace width="0.17em"/>'
        # Quotes of a browser's dictionary would stretch a bar or a bracket to the whole line.
        return f"<mo>{escape(text)}</mo>"

    def words(self, text: str) -> str:
        return f"<mtext>{escape(text)}</mtext>"

    def script(self, base: str, below: str, above: str) -> str:
        if below and above:
            return f"<msubsup>{base}{self.row(below)}{self.row(above)}</msubsup>"
        if below:
            return f"<msub>{base}{self.row(below)}</msub>"
        return f"<msup>{base}{self.row(above)}</msup>" if above else base

    def prime(self, base: str, below: str) -> str:
        # Not as a superscript: the sign stands high by itself.
        sign = '<mo lspace="0.05em" rspace="0">′</mo>'
        return self.row(base, sign) if not below else self.script(self.row(base, sign), below, "")

    def accent(self, base: str) -> str:
        return f'<mover accent="true">{base}<mo stretchy="false">~</mo></mover>'

    def fraction(self, top: str, bottom: str) -> str:
        return f"<mfrac>{self.row(top)}{self.row(bottom)}</mfrac>"

    def root(self, inner: str) -> str:
        return f"<msqrt>{inner}</msqrt>"

    def fenced(self, opening: str, inner: str, closing: str) -> str:
        return self.row(f"<mo>{opening}</mo>", inner, f"<mo>{closing}</mo>")

    def cases(self, cases: list[tuple[str, str]], otherwise: str) -> str:
        def line(value: str, *words: str) -> str:
            return f"<mtr>{_cell('left', value)}{_cell('left', ''.join(words))}</mtr>"

        gap = '<mspace width="0.5em"/>'
        table = "".join(line(v, gap, self.words("if"), gap, c) for c, v in cases)
        table += line(otherwise, gap, self.words("otherwise"))
        # A line, because a brace stays small in a browser that has no font with its parts.
        return f'<mtable style="border-left:1.5px solid;border-radius:.5em">{table}</mtable>'

    def row(self, *parts: str) -> str:
        return "<mrow>" + "".join(parts) + "</mrow>"


class _Writer:
    """Writes expressions and statements in one style."""

    def __init__(self, style: _Style) -> None:
        self.style = style

    def name(self, name: str, primed: bool = False) -> str:
        """Write a name: a letter with what follows as its index, or a word."""
        style = self.style
        tilde = name.endswith("~")
        base, *index = name.rstrip("~").split("_")
        if not base:
            base, index = name.rstrip("~"), []
        letter = GREEK.get(base)
        digits = base[1:] if len(base) > 1 and base[0].isalpha() and base[1:].isdigit() else ""
        if digits and not letter:
            base, index = base[0], [digits, *index]
        written = style.identifier(letter or base, letter is None and len(base) > 1)
        if tilde:
            written = style.accent(written)
        below = style.operator(",").join(self._index(part) for part in index if part)
        return style.script(written, below, "") if not primed else style.prime(written, below)

    def _index(self, part: str) -> str:
        if part.isdigit():
            return self.style.number(part)
        letter = GREEK.get(part)
        return self.style.identifier(letter or part, letter is None and len(part) > 1)

    def expression(self, node: Expression, least: int = _OR) -> str:
        """Write an expression, in brackets where it binds less than its place asks for."""
        written, strength = self._written(node)
        return self.style.fenced("(", written, ")") if strength < least else written

    def _written(self, node: Expression) -> tuple[str, int]:
        style = self.style
        if isinstance(node, Number):
            return style.number(_number(node.value)), _ATOM
        if isinstance(node, Name):
            return self.name(node.name, node.primed), _ATOM
        if isinstance(node, Negative):
            inner = self.expression(node.operand, _NEGATIVE)
            return style.row(style.operator("−"), inner), _NEGATIVE
        if isinstance(node, Binary):
            return self._binary(node)
        if isinstance(node, Compare):
            parts = (self.expression(x, _SUM) for x in (node.left, node.right))
            return self._joined(_COMPARISONS[node.operator], parts), _COMPARE
        if isinstance(node, Logical):
            if node.operator == "not":
                inner = self.expression(node.operands[0], _COMPARE)
                return style.row(style.operator("¬"), inner), _NOT
            sign = "∧" if node.operator == "and" else "∨"
            return self._joined(sign, (self.expression(x, _NOT) for x in node.operands)), _OR
        if isinstance(node, Call):
            return self._call(node)
        if isinstance(node, Conditional):
            return self._cases(node), _SUM
        if isinstance(node, Indicator):
            inner = style.fenced("[", self.expression(node.condition), "]")
            return style.row(style.number("𝟙"), inner), _ATOM
        inner = self._joined(";", (self.expression(x) for x in node.parts))
        return style.fenced("[", inner, "]"), _ATOM

    def _joined(self, sign: str, parts: Iterator[str]) -> str:
        first, *others = parts
        return self.style.row(
            first, *(x for part in others for x in (self.style.operator(sign), part))
        )

    def _binary(self, node: Binary) -> tuple[str, int]:
        style, sign = self.style, node.operator
        if sign == "/":
            top, bottom = self.expression(node.left), self.expression(node.right)
            return style.fraction(top, bottom), _PRODUCT
        if sign == "^":
            base = self.expression(node.left, _ATOM)
            return style.script(base, "", self.expression(node.right)), _POWER
        if sign in "+-":
            left = self.expression(node.left, _SUM)
            right = self.expression(node.right, _PRODUCT if sign == "-" else _SUM)
            return style.row(left, style.operator("−" if sign == "-" else "+"), right), _SUM
        left, right = self.expression(node.left, _PRODUCT), self.expression(node.right, _POWER)
        if sign == "mod":
            return style.row(left, style.identifier("mod", True), right), _PRODUCT
        numbers = sign == "*" and (_is_number(node.left) or _is_number(node.right))
        between = "" if sign == "@" or numbers else "⊙"
        return style.row(left, style.operator(between), right), _PRODUCT

    def _call(self, node: Call) -> tuple[str, int]:
        style, name = self.style, node.function
        if name == "sqrt":
            return style.root(self.expression(node.arguments[0])), _ATOM
        if name == "abs":
            return style.fenced("|", self.expression(node.arguments[0]), "|"), _ATOM
        if name == "square":
            base = self.expression(node.arguments[0], _ATOM)
            return style.script(base, "", style.number("2")), _POWER
        if name == "where":
            return self._cases(node), _SUM
        inner = self._joined(",", (self.expression(x) for x in node.arguments))
        return style.row(self._function(name), style.fenced("(", inner, ")")), _ATOM

    def _cases(self, node: Expression) -> str:
        """Write a choice; one that stands in its last case goes on in the same list."""
        found: list[tuple[str, str]] = []
        while True:
            if isinstance(node, Conditional):
                condition, yes, no = node.condition, node.yes, node.no
            elif isinstance(node, Call) and node.function == "where":
                condition, yes, no = node.arguments
            else:
                return self.style.cases(found, self.expression(node))
            found.append((self.expression(condition), self.expression(yes)))
            node = no

    def _function(self, name: str) -> str:
        if name in ("s", "sigmoid"):
            return self.style.identifier("σ", False)
        base, *parts = name.split("_")
        if not parts:
            return self.style.identifier(name, True)
        # Such as hard_sigmoid: two words, and no word with an index.
        if len(base) > 1 and all(part.isalpha() and len(part) > 2 for part in parts):
            return self.style.words(" ".join((base, *parts)))
        return self.name(name)

    def rows(self, statements: tuple[Statement, ...], depth: int = 0) -> Iterator[Row]:
        """Write statements, one row for each definition and for each head of a block."""
        style = self.style
        for statement in statements:
            if isinstance(statement, Definition):
                yield self._definition(statement, depth)
            elif isinstance(statement, Function):
                arguments = self._joined(",", (self.name(x) for x in statement.arguments))
                left = style.row(self._function(statement.name), style.fenced("(", arguments, ")"))
                right = self.expression(statement.value)
                yield Row(left, style.operator("="), right, statement.remark, depth)
            else:
                yield Row(self._head(statement), "", "", "", depth)
                yield from self.rows(statement.body, depth + 1)

    def _definition(self, statement: Definition, depth: int) -> Row:
        style = self.style
        left = self._joined(",", (self.name(t.name, t.primed) for t in statement.targets))
        right = self.expression(statement.value)
        if statement.family is not None:
            family = statement.family
            last = (
                style.number(str(family.last))
                if isinstance(family.last, int)
                else self.name(family.last)
            )
            right = style.row(
                right,
                style.operator(","),
                style.words("  "),
                self.name(family.index),
                style.operator("="),
                style.number(str(family.first)),
                style.operator("…"),
                last,
            )
        remark = statement.remark
        if len(statement.targets) > 1 and not _is_split(statement.value):
            names = ", ".join(statement.own) if statement.own else "weights"
            own = f"each with {names} of its own"
            remark = f"{remark}; {own}" if remark else own
        sign = style.operator(":=" if statement.rebinds else "=")
        return Row(left, sign, right, remark, depth)

    def _head(self, statement: Statement) -> str:
        style = self.style
        if isinstance(statement, Variant):
            return style.words(f"with {statement.option}={statement.value!r}:")
        if isinstance(statement, Guard):
            parity = "odd" if statement.odd else "even"
            return style.words(f"for {parity} {statement.index}:")
        assert isinstance(statement, Repeat)  # noqa: S101 - the last kind of a block
        if statement.index is None:
            return style.words(f"repeat {statement.last} times:")
        return style.words(f"for {statement.index} = {statement.first}, …, {statement.last}:")


def rows(text: Text, style: Callable[[], _Style] = _LaTeX) -> list[Row]:
    """Return the printed lines of a text.

    Args:
        text: The result of `parse`.
        style: The way of writing.
    """
    return list(_Writer(style()).rows(text.statements))


def latex(text: Text) -> str:
    r"""Return a text as LaTeX, for the inside of ``\[ ... \]``.

    Args:
        text: The result of `cellkit.equations.parse.parse`.

    Example:
    >>> from cellkit.equations.parse import parse
    >>> print(latex(parse("z = s(W_z @ x + b_z)")))
    \begin{aligned}
      z &= \sigma \left( W_{z} x + b_{z} \right)
    \end{aligned}
    """
    lines = []
    for row in rows(text):
        indent = r"\quad " * row.depth
        line = f"{indent}{row.left} &{row.sign} {row.right}" if row.sign else f"&{indent}{row.left}"
        if row.remark:
            line += f" && {_LaTeX().words(row.remark)}"
        lines.append(line.rstrip())
    return "\\begin{aligned}\n  " + " \\\\\n  ".join(lines) + "\n\\end{aligned}"


def mathml(text: Text) -> str:
    """Return a text as MathML, a `math` element for a page.

    Args:
        text: The result of `cellkit.equations.parse.parse`.
    """
    lines = []
    for row in rows(text, _MathML):
        indent = f'<mspace width="{1.5 * row.depth:g}em"/>' if row.depth else ""
        if not row.sign:
            lines.append(f"<mtr>{_cell('left', indent + row.left, 4)}</mtr>")
            continue
        remark = f"<mtext>{escape(row.remark)}</mtext>" if row.remark else ""
        cells = [
            _cell("left", indent + row.left),
            _cell("center", row.sign),
            _cell("left", row.right),
            _cell("left", remark),
        ]
        lines.append(f"<mtr>{''.join(cells)}</mtr>")
    table = "".join(lines)
    return (
        '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">'
        f'<mtable displaystyle="true">{table}</mtable></math>'
    )


def _cell(align: str, inner: str, span: int = 1) -> str:
    # Browsers align the cells of formulas by their style alone.
    # The head of a block is set off from the line above: text is lower than a formula.
    columns, above, below = f' columnspan="{span}"', ".7em", ".3em"
    if span == 1:
        columns, above, below = "", ".15em", ".15em"
    style = f"text-align:{align};padding:{above} .4em {below}"
    return f'<mtd{columns} style="{style}">{inner}</mtd>'


def _number(value: float) -> str:
    if value == math.e:
        return "e"
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(value)


def _is_number(node: Expression) -> bool:
    if isinstance(node, Negative):
        return _is_number(node.operand)
    if isinstance(node, Binary):
        return _is_number(node.left) and _is_number(node.right)
    return isinstance(node, Number)


def _is_split(node: Expression) -> bool:
    return isinstance(node, Call) and node.function == "split"
