"""Parser of equations: from a text to the tree of `cellkit.equations.syntax`.

A parser of its own and no Python: nothing in a text is ever executed, and there is neither an
attribute nor an import that could be written. The size of a text and the depth of an expression are
limited, so that every text is answered quickly, with a tree or with an error that shows the place.
"""

from __future__ import annotations

import re
import textwrap
from typing import NoReturn

from cellkit._errors import problem
from cellkit.equations.errors import wrong
from cellkit.equations.scan import Scanner, Token
from cellkit.equations.syntax import (
    Binary,
    Call,
    Compare,
    Concatenation,
    Conditional,
    Definition,
    Expression,
    Family,
    Function,
    Guard,
    Indicator,
    Literal,
    Logical,
    Name,
    Negative,
    Number,
    Place,
    Repeat,
    Statement,
    Target,
    Text,
    Variant,
    children,
)

__all__ = ["parse"]

MAX_LENGTH = 20_000
MAX_DEPTH = 40  # of brackets, signs and powers within each other
MAX_HEIGHT = 200  # of the tree of an expression: a sum of so many terms

# Words that can't be names, because an expression goes on with them.
KEYWORDS = frozenset("if else for with and or not mod".split())

# The strength with which operators bind.
_STRENGTH = {
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

_LITERAL = r"\"[^\"\n]*\"|'[^'\n]*'|True|False|-?\d+"
_VARIANT = re.compile(rf" *(?P<option>[^\W\d]\w*) *= *(?P<value>{_LITERAL}) *:(?!=)")
_WITH = re.compile(rf" *(?:with +)?(?P<option>[^\W\d]\w*) *= *(?P<value>{_LITERAL}) *(?=[;#\n]|$)")
_STRING = re.compile(r"[\"']")
_REPEAT = re.compile(
    r" *(?:repeat|for) +(?:(?P<index>[^\W\d]\w*) *= *(?P<first>\d{1,6}) *\.\. *)?"
    r"(?P<last>[^\W\d]\w*|\d{1,6})(?: +times)? *:(?!=)"
)
_GUARD = re.compile(r" *(?P<parity>odd|even) +(?P<index>[^\W\d]\w*) *:(?!=)")
_FAMILY = re.compile(
    r" *,? *(?P<for>for +)?(?P<index>[^\W\d]\w*) *(?:=|in\b) *(?P<first>\d{1,6}) *\.\. *"
    r"(?P<last>[^\W\d]\w*|\d{1,6})"
)
_OWN = re.compile(r" *with own (?P<names>\w+(?: *(?:,|and) *\w+)*) each\b")


def parse(text: str) -> Text:
    """Parse a text of equations.

    Args:
        text: The text.

    Returns:
        Its tree.

    Raises:
        ValueError: The text is not well formed; in three parts, with the line and a caret.

    Example:
    >>> tree = parse("h' = tanh(W @ x + U @ h + b)")
    >>> tree.statements[0].targets
    (Target(name='h', primed=True),)
    """
    if not isinstance(text, str):
        raise problem(
            "Equations are written as a text.",
            received=f"a {type(text).__name__}",
            expected="a text with one definition a line",
            fix="pass for example \"h' = tanh(W @ x + U @ h + b)\"",
        )
    source = _without_indentation(text)
    parser = _Parser(source)
    if len(source) > MAX_LENGTH:
        raise wrong(
            source,
            parser.scanner.place_at(MAX_LENGTH),
            f"The equations are longer than {MAX_LENGTH} characters.",
            expected=f"at most {MAX_LENGTH} characters; the limit is at the caret",
            fix="write what repeats as a family, `for k = 0..7`, or as a function",
        )
    statements = parser.block(0, None)
    if not statements:
        raise wrong(
            source,
            Place(1, 0, 1),
            "The equations define nothing.",
            expected="one definition a line, among them a new state",
            fix="write for example `h' = tanh(W @ x + U @ h + b)`",
        )
    return Text(source, statements)


def _without_indentation(text: str) -> str:
    """Return a text without what all of its lines are indented by."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").expandtabs(4)
    first, newline, rest = text.partition("\n")
    # The first line of a text in quotes stands right behind them.
    if first.strip() and not first.startswith(" ") and not _opens_block(first):
        return first.rstrip() + newline + textwrap.dedent(rest).rstrip()
    return textwrap.dedent(text).rstrip()


def _opens_block(line: str) -> bool:
    return bool(_VARIANT.match(line) or _REPEAT.match(line) or _GUARD.match(line))


class _Parser:
    def __init__(self, source: str) -> None:
        self.source = source
        self.scanner = Scanner(source)
        self.nesting = 0
        self.blocks = 0
        self.heights: dict[int, int] = {}
        self.kept: list[Expression] = []  # so that no other node gets the id of one of them

    def fail(self, at: Token | Place, what: str, *, expected: str, fix: str) -> NoReturn:
        place = at if isinstance(at, Place) else self.scanner.place(at)
        raise wrong(self.source, place, what, expected=expected, fix=fix)

    # Lines and blocks ----------------------------------------------------------------------------

    def block(self, indent: int, header: Place | None) -> tuple[Statement, ...]:
        """Parse the lines that are indented by `indent`, up to one that is indented less."""
        statements: list[Statement] = []
        while self.scanner.next_line():
            here = self.scanner.indent()
            if here < indent:
                break
            if here > indent:
                self.fail(
                    self.scanner.place_at(self.scanner.position + here),
                    "A line is indented further than the one before, and begins no block.",
                    expected=f"an indentation of {indent} spaces, or an operator that goes on "
                    "with the line before",
                    fix="indent the line as the others, or put the expression into brackets",
                )
            statements.extend(self.line())
        return tuple(statements)

    def line(self) -> list[Statement]:
        """Parse one line, and the block that it may begin."""
        scanner = self.scanner
        for pattern in (_VARIANT, _REPEAT):
            found = pattern.match(self.source, scanner.position)
            if found is not None:
                return [self.headed(found)]
        return self.statements()

    def headed(self, head: re.Match[str]) -> Statement:
        """Parse what stands under a head, on its line or in a block."""
        scanner, start = self.scanner, head.end()
        indent = scanner.indent()
        place = scanner.place_at(scanner.position + indent, len(head[0].strip()))
        scanner.position = start
        self.blocks += 1
        if self.blocks > 10:
            self.fail(
                place,
                "Blocks of equations stand too deep within each other.",
                expected="at most ten blocks within each other",
                fix="write fewer options, or simpler repetitions",
            )
        token = scanner.peek()
        if token.kind == "end" or token.gap >= 2 and not self._begins_statement():
            scanner.rest_of_line()
            body: tuple[Statement, ...] = ()
            if scanner.next_line() and scanner.indent() > indent:
                body = self.block(scanner.indent(), place)
        else:
            body = tuple(self.line())
        self.blocks -= 1
        if not body:
            self.fail(
                place,
                "Nothing stands under the head of a block.",
                expected="definitions on the same line, or indented on the lines below",
                fix="indent the definitions that belong to it, or remove the head",
            )
        groups = head.groupdict()
        if "option" in groups:
            return Variant(place, groups["option"], _literal(groups["value"]), body)
        return Repeat(
            place,
            groups["index"],
            int(groups["first"] or 1),
            _count(groups["last"]),
            body,
        )

    def statements(self) -> list[Statement]:
        """Parse the statements of a line."""
        scanner = self.scanner
        found: list[Statement] = []
        pending: list[int] = []  # definitions that a family at the end of the line may be for
        guard: tuple[Place, str, bool, list[Statement]] | None = None

        def add(statement: Statement) -> None:
            if guard is not None:
                guard[3].append(statement)
            else:
                found.append(statement)
                pending.append(len(found) - 1)

        def close() -> None:
            if guard is not None:
                if not guard[3]:
                    self.fail(
                        guard[0],
                        "Nothing stands behind a condition on an index.",
                        expected="a definition on the same line",
                        fix="write for example `odd k: x := 2 * s(Q @ h) * x`",
                    )
                found.append(Guard(*guard[:3], tuple(guard[3])))

        while True:
            match = _GUARD.match(self.source, scanner.position)
            if match is not None:
                close()
                token = scanner.peek()
                place = scanner.place_at(token.start, len(match[0].strip()))
                guard = (place, match["index"], match["parity"] == "odd", [])
                scanner.position = match.end()
            add(self.definition())
            family = self.family()
            if family is not None:
                for i in pending:
                    statement = found[i]
                    if isinstance(statement, Definition) and statement.family is None:
                        found[i] = _with_family(statement, family)
                pending.clear()
            self.variant_of(found if guard is None else guard[3])
            if self.separator():
                continue
            remark = self.remark()
            if remark and found and isinstance(found[-1], (Definition, Function)):
                found[-1] = _with_remark(found[-1], remark)
            break
        close()
        return found

    def variant_of(self, statements: list[Statement]) -> None:
        """Parse ``with reset_after=True`` behind a definition."""
        token = self.scanner.peek()
        match = _WITH.match(self.source, self.scanner.position)
        if match is None or not (token.gap >= 2 or "with " in match[0]):
            return
        if not match[0].lstrip().startswith("with ") and re.fullmatch(r"-?\d+", match["value"]):
            return  # another definition, of a number
        place = self.scanner.place_at(token.start, len(match[0].strip()))
        self.scanner.position = match.end()
        last = statements.pop()
        statements.append(Variant(place, match["option"], _literal(match["value"]), (last,)))

    def separator(self) -> bool:
        """Take what stands between two definitions of a line, if another one follows."""
        token = self.scanner.peek()
        if token.kind == "sign" and token.text in (";", ","):
            before = self.scanner.position
            self.scanner.take()
            if self._begins_statement():
                return True
            if token.text == ";" and self.scanner.peek().kind == "end":
                return False
            self.scanner.position = before
            return False
        return token.kind == "name" and self._begins_statement()

    def remark(self) -> str:
        """Take the remark at the end of a line."""
        token = self.scanner.peek()
        if token.kind == "end" or (token.gap >= 2 and token.text not in _STRENGTH):
            return self.scanner.rest_of_line()
        if token.kind == "sign" and token.text in (")", "]"):
            self.fail(
                token,
                "A bracket is closed that was never opened.",
                expected="one closing bracket for each opening one",
                fix="remove it, or add the opening one",
            )
        if token.text == ".":
            self.fail(
                token,
                "Equations have no attributes.",
                expected="names, numbers and operators",
                fix="write a product as `a * b`, or `W @ x` with a matrix",
            )
        self.fail(
            token,
            "A definition goes on with something that does not belong there.",
            expected="an operator, the end of the line, `;`, or a remark after two spaces",
            fix="write products as `a * b` or `W @ x`, and remarks after two spaces or `#`",
        )

    def _begins_statement(self) -> bool:
        """Tell whether the next tokens are the left side of a definition, or a condition."""
        scanner = self.scanner
        before = scanner.position
        try:
            if _GUARD.match(self.source, before):
                return True
            if _FAMILY.match(self.source, before):
                return False
            for _ in range(64):
                if scanner.take().kind != "name":
                    return False
                token = scanner.take()
                if token.text == "(":
                    return self._closes_arguments()
                if token.text != ",":
                    return token.text in ("=", ":=")
            return False
        finally:
            scanner.position = before

    def _closes_arguments(self) -> bool:
        """Tell whether ``v, w) =`` follows."""
        for _ in range(64):
            if self.scanner.take().kind != "name":
                return False
            token = self.scanner.take()
            if token.text == ")":
                return self.scanner.take().text == "="
            if token.text != ",":
                return False
        return False

    # Definitions ---------------------------------------------------------------------------------

    def definition(self) -> Definition | Function:
        """Parse one definition."""
        scanner = self.scanner
        start = scanner.peek()
        if not self._begins_statement():
            self.fail(
                start,
                "A line does not define anything.",
                expected="a name, `=`, and what it is",
                fix="write for example `z = s(W_z @ x + b_z)`; begin a remark with `#`",
            )
        targets = [self.target()]
        token = scanner.take()
        if token.text == "(":
            return self.function(targets[0])
        while token.text == ",":
            targets.append(self.target())
            token = scanner.take()
        value = self.expression()
        own = None
        match = _OWN.match(self.source, scanner.position)
        if match is not None:
            own = tuple(re.findall(r"\w+", re.sub(r"\band\b", " ", match["names"])))
            scanner.position = match.end()
        last = targets[-1].place
        length = last.column + last.length - targets[0].place.column
        place = Place(last.line, targets[0].place.column, length)
        return Definition(place, tuple(targets), value, token.text == ":=", None, own)

    def target(self) -> Target:
        """Parse a name on the left side."""
        token = self.scanner.take()
        name, primed = self.name(token)
        return Target(self.scanner.place(token), name, primed)

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

    def function(self, head: Target) -> Function:
        """Parse a function of the text, from behind its first bracket."""
        arguments: list[str] = []
        token = Token("sign", ",", 0, 0)
        while token.text == ",":
            argument = self.target()
            if argument.primed or argument.name in arguments or head.primed:
                self.fail(
                    argument.place,
                    "The arguments of a function must be plain, different names.",
                    expected="names such as `v`, each once, without a prime",
                    fix="rename the argument",
                )
            arguments.append(argument.name)
            token = self.scanner.take()
        self.scanner.take()  # the equals sign, which `_closes_arguments` has seen
        return Function(head.place, head.name, tuple(arguments), self.expression())

    def family(self) -> Family | None:
        """Parse ``for k = 0..7``, if it is there."""
        match = _FAMILY.match(self.source, self.scanner.position)
        if match is None:
            return None
        token = self.scanner.peek()
        place = self.scanner.place_at(token.start, len(match[0].strip(" ,")))
        self.scanner.position = match.end()
        return Family(place, match["index"], int(match["first"]), _count(match["last"]))

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
            own = _STRENGTH[token.text]
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
            if token.text == "if":
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
                if following.kind == "sign" and following.text in _STRENGTH:
                    return following
            scanner.position = before
            return None
        return token if token.kind in ("sign", "name") and token.text in _STRENGTH else None

    def go_on(self) -> None:
        """Go to the next line where this one ends in the middle of an expression."""
        scanner = self.scanner
        if scanner.depth == 0 and scanner.peek().kind == "end":
            before = scanner.position
            scanner.position = scanner.peek().start
            if not scanner.next_line():
                scanner.position = before

    def binary(self, token: Token, left: Expression, right: Expression) -> Expression:
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
                fix="write the value of an option before a colon: `form=\"paper\":`",
            )
        self.fail(
            token,
            "An expression is not complete." if token.kind == "end" else "A sign is out of place.",
            expected="a number, a name, a function or a bracket",
            fix="write what is missing, or remove the operator before it",
        )

    def number(self, token: Token) -> Expression:
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
        self.fail(
            place,
            "An expression is too deep, or too long.",
            expected=f"brackets, signs and powers up to {MAX_DEPTH} deep, and at most "
            f"{MAX_HEIGHT} operations in a row",
            fix="give a part of it a name on a line of its own",
        )


def _literal(text: str) -> Literal:
    if text in ("True", "False"):
        return text == "True"
    return text[1:-1] if text[0] in "\"'" else int(text)


def _count(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def _with_family(statement: Definition, family: Family) -> Definition:
    return Definition(
        statement.place,
        statement.targets,
        statement.value,
        statement.rebinds,
        family,
        statement.own,
        statement.remark,
    )


def _with_remark(statement: Definition | Function, remark: str) -> Definition | Function:
    if isinstance(statement, Function):
        return Function(
            statement.place, statement.name, statement.arguments, statement.value, remark
        )
    return Definition(
        statement.place,
        statement.targets,
        statement.value,
        statement.rebinds,
        statement.family,
        statement.own,
        remark,
    )
