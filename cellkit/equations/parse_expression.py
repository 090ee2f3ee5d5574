"""Parser of the expressions of equations; see `cellkit.equations.parse`."""

from __future__ import annotations

import re
from typing import NoReturn

from cellkit.equations.errors import wrong
from cellkit.equations.scan import Scanner, Token
from cellkit.equations.syntax import (
    Binary,
    Call,
    Compare,
    Concatenation,
    Conditional,
    Expression,
    Indicator,
    Logical,
    Name,
    Negative,
    Number,
    Place,
    children,
)

__all__ = ["OPERATORS", "ExpressionParser"]

MAX_DEPTH = 40  # of brackets, signs and powers within each other
MAX_HEIGHT = 100  # of the tree of an expression: a sum of so many terms

# Words that can't be names, because an expression goes on with them.
KEYWORDS = frozenset("if else for with and or not mod".split())

# The strength with which operators bind.
OPERATORS = {
    "or": 1,
    "and": 2,
    "<": 4,
    "<=": 4,
    ">": 4,
    ">=": 4,
    "==": 4,
    "!=": 4,
    "+": 5,
    "-": 5,
    "*": 6,
    "/": 6,
    "mod": 6,
    "%": 6,
    "@": 8,
    "^": 9,
    "**": 9,
}
_NEGATIVE, _NOT = 7, 3
_COMPARISONS = frozenset("< <= > >= == !=".split())
_WRITTEN = {"**": "^", "%": "mod"}

_STRING = re.compile(r"[\"']")


class ExpressionParser:
    """Parses expressions.

    Args:
        source: The text.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.scanner = Scanner(source)
        self.nesting = 0
        self.heights: dict[int, int] = {}
        self.kept: list[Expression] = []  # so that no other node gets the id of one of them

    def fail(self, at: Token | Place, what: str, *, expected: str, fix: str) -> NoReturn:
        """Raise the error of a place in the text."""
        place = at if isinstance(at, Place) else self.scanner.place(at)
        raise wrong(self.source, place, what, expected=expected, fix=fix)

    def name(self, token: Token) -> tuple[str, bool]:
        """Return a name and whether it has a prime."""
        name = token.text.rstrip("'")
        if len(token.text) - len(name) > 1:
            self.fail(
                token,
                "A name has more than one prime.",
                expected="one prime, for the new value of a state",
                fix=f"write `{name}'`",
            )
        if name in KEYWORDS:
            self.fail(
                token,
                f"`{name}` can't be a name here.",
                expected="a name of a quantity",
                fix="give it another name",
            )
        return name, name != token.text

    # Expressions ---------------------------------------------------------------------------------

    def expression(self, strength: int = 0) -> Expression:
        """Parse an expression of operators that bind more strongly than `strength`."""
        self.nesting += 1
        if self.nesting > MAX_DEPTH:
            self.too_deep(self.scanner.place(self.scanner.peek()))
        left = self.operand()
        while True:
            token = self.operator()
            if token is None:
                break
            own = OPERATORS[token.text]
            if own <= strength:
                break
            self.go_on()
            self.scanner.take()
            self.go_on()
            right_binds = token.text in ("^", "**", "@")
            right = self.expression(own - 1 if right_binds else own)
            left = self.binary(token, left, right)
        if strength == 0:
            token = self.scanner.peek()
            if token.text == "if" and not (self.in_remark(token) and not self.has_else()):
                left = self.conditional(left)
        self.nesting -= 1
        return left

    def operator(self) -> Token | None:
        """Return the operator that comes next, if one does: here, or on the next line."""
        scanner = self.scanner
        token = scanner.peek()
        if token.kind == "end" and scanner.depth == 0:
            before = scanner.position
            scanner.position = token.start
            if scanner.next_line():
                following = scanner.peek()
                if following.kind == "sign" and following.text in OPERATORS:
                    return following
            scanner.position = before
            return None
        if token.kind == "name" and self.in_remark(token):
            return None
        return token if token.kind in ("sign", "name") and token.text in OPERATORS else None

    def in_remark(self, token: Token) -> bool:
        """Tell whether a word that could go on with an expression begins a remark."""
        return self.scanner.depth == 0 and token.gap >= 2

    def has_else(self) -> bool:
        """Tell whether an `else` follows on the line."""
        return re.match(r"[^#\n]*\belse\b", self.source[self.scanner.position :]) is not None

    def go_on(self) -> None:
        """Go to the next line where this one ends in the middle of an expression."""
        scanner = self.scanner
        if scanner.depth == 0 and scanner.peek().kind == "end":
            before = scanner.position
            scanner.position = scanner.peek().start
            if not scanner.next_line():
                scanner.position = before

    def binary(self, token: Token, left: Expression, right: Expression) -> Expression:
        """Return the node of two operands and the operator between them."""
        place, sign = self.scanner.place(token), _WRITTEN.get(token.text, token.text)
        if sign in _COMPARISONS:
            if isinstance(left, Compare):
                self.fail(
                    token,
                    "Two comparisons follow each other.",
                    expected="one comparison, or two joined by `and`",
                    fix="write `a < b and b < c`",
                )
            return self.known(Compare(place, sign, left, right))
        if sign in ("and", "or"):
            return self.known(Logical(place, sign, (left, right)))
        return self.known(Binary(place, sign, left, right))

    def conditional(self, yes: Expression) -> Expression:
        """Parse the rest of ``a if c else b``."""
        token = self.scanner.take()
        condition = self.expression(0)
        following = self.scanner.peek()
        if following.text != "else":
            self.fail(
                following,
                "A condition has no `else`.",
                expected="`a if condition else b`",
                fix="say what holds otherwise, or write `where(condition, a, b)`",
            )
        self.scanner.take()
        self.go_on()
        no = self.expression(0)
        return self.known(Conditional(self.scanner.place(token), condition, yes, no))

    def operand(self) -> Expression:
        """Parse a number, a name, a call, a bracket, or one of them with a sign before it."""
        self.go_on()
        token = self.scanner.take()
        place = self.scanner.place(token)
        if token.text == "-":
            return self.known(Negative(place, self.expression(_NEGATIVE)))
        if token.text == "+":
            return self.expression(_NEGATIVE)
        if token.text == "not":
            return self.known(Logical(place, "not", (self.expression(_NOT),)))
        if token.kind == "number":
            return self.number(token)
        if token.kind == "name":
            following = self.scanner.peek()
            if following.text == "(" and following.gap == 0:
                return self.call(token)
            return self.known(Name(place, *self.name(token)))
        if token.text == "(":
            self.scanner.depth += 1
            inner = self.expression(0)
            self.close(token, ")")
            return inner
        if token.text == "[":
            parts = self.several(token, "]", (";", ","))
            return parts[0] if len(parts) == 1 else self.known(Concatenation(place, parts))
        if token.kind == "other" and _STRING.match(token.text):
            self.fail(
                token,
                "Equations hold no texts.",
                expected="numbers, names and operators",
                fix='write the value of an option before a colon: `form="paper":`',
            )
        self.fail(
            token,
            "An expression is not complete." if token.kind == "end" else "A sign is out of place.",
            expected="a number, a name, a function or a bracket",
            fix="write what is missing, or remove the operator before it",
        )

    def number(self, token: Token) -> Expression:
        """Parse what a number begins."""
        place, value = self.scanner.place(token), float(token.text)
        if value == float("inf"):
            self.fail(
                token,
                "A number is too large.",
                expected="a number of double precision, below 1.8e308",
                fix="write a smaller one",
            )
        following = self.scanner.peek()
        if following.text == "[" and following.gap == 0:
            if value != 1:
                self.fail(
                    token,
                    "Only a 1 can stand before a condition in brackets.",
                    expected="`1[condition]`, which is one where the condition holds",
                    fix="write `number * 1[condition]`",
                )
            self.scanner.take()
            (condition,) = self.several(following, "]", (), 1)
            return self.known(Indicator(place, condition))
        if following.kind in ("name", "other", "number") and following.gap == 0:
            self.fail(
                following,
                "A number runs into something else.",
                expected="an operator behind a number",
                fix="write `2 * x`; complex numbers are not part of the language",
            )
        return self.known(Number(place, value))

    def call(self, token: Token) -> Expression:
        """Parse the arguments of a function."""
        name, primed = self.name(token)
        if primed:
            self.fail(
                token,
                "A new state can't be called.",
                expected="an operator between a state and a bracket",
                fix=f"write `{token.text} * (...)`",
            )
        opening = self.scanner.take()
        arguments = self.several(opening, ")", (",",))
        return self.known(Call(self.scanner.place(token), name, arguments))

    def several(
        self, opening: Token, closing: str, between: tuple[str, ...], most: int = 64
    ) -> tuple[Expression, ...]:
        """Parse expressions up to a closing bracket, and what stands between them."""
        self.scanner.depth += 1
        parts = [self.expression(0)]
        while len(parts) < most and self.scanner.peek().text in between:
            self.scanner.take()
            parts.append(self.expression(0))
        self.close(opening, closing)
        return tuple(parts)

    def close(self, opening: Token, closing: str) -> None:
        """Take a closing bracket."""
        token = self.scanner.peek()
        if token.text != closing:
            if token.kind == "end":
                self.fail(
                    opening,
                    "A bracket is never closed.",
                    expected=f"a `{closing}` for it",
                    fix=f"add the `{closing}` that is missing",
                )
            self.fail(
                token,
                "Something in a bracket does not belong there.",
                expected=f"an operator, or the `{closing}` that closes the bracket",
                fix="write products as `a * b` or `W @ x`, without attributes",
            )
        self.scanner.take()
        self.scanner.depth -= 1

    def known(self, node: Expression) -> Expression:
        """Note how high the tree below a node is, and refuse one that is too high."""
        height = 1 + max((self.heights.get(id(c), 1) for c in children(node)), default=0)
        self.heights[id(node)] = height
        self.kept.append(node)
        if height > MAX_HEIGHT:
            self.too_deep(node.place)
        return node

    def too_deep(self, place: Place) -> NoReturn:
        """Refuse an expression that no reader could follow."""
        self.fail(
            place,
            "An expression is too deep, or too long.",
            expected=f"brackets, signs and powers up to {MAX_DEPTH} deep, and at most "
            f"{MAX_HEIGHT} operations in a row",
            fix="give a part of it a name on a line of its own",
        )
