"""Parser of equations: from a text to the tree of `cellkit.equations.syntax`.

A parser of its own and no Python: nothing in a text is ever executed, and there is neither an
attribute nor an import that could be written. The size of a text and the depth of an expression are
limited, so that every text is answered quickly, with a tree or with an error that shows the place.
"""

from __future__ import annotations

import re
import textwrap

from cellkit.equations.errors import wrong
from cellkit.equations.parse_expression import OPERATORS, ExpressionParser
from cellkit.equations.scan import Token
from cellkit.equations.syntax import (
    Definition,
    Family,
    Function,
    Guard,
    Literal,
    Place,
    Repeat,
    Statement,
    Target,
    Text,
    Variant,
)
from cellkit.errors import problem

__all__ = ["parse"]

MAX_LENGTH = 20_000
MAX_BLOCKS = 10

_LITERAL = r"\"[^\"\n]*\"|'[^'\n]*'|True|False|-?\d+"
_VARIANT = re.compile(rf" *(?P<option>[^\W\d]\w*) *= *(?P<value>{_LITERAL}) *:(?!=)")
_WITH = re.compile(rf" *(?:with +)?(?P<option>[^\W\d]\w*) *= *(?P<value>{_LITERAL}) *(?=[;#\n]|$)")
_REPEAT = re.compile(
    r" *(?:repeat|for) +(?:(?P<index>[^\W\d]\w*) *= *(?P<first>\d{1,6}) *\.\. *)?"
    r"(?P<last>[^\W\d]\w*|\d{1,6})(?: +times)? *:(?!=)"
)
_GUARD = re.compile(r" *(?P<parity>odd|even) +(?P<index>[^\W\d]\w*) *:(?!=)")
_FAMILY = re.compile(
    r" *,? *(?P<for>for +)?(?P<index>[^\W\d]\w*) *(?:=|in\b) *(?P<first>\d{1,6}) *\.\. *"
    r"(?P<last>[^\W\d]\w*|\d{1,6})"
)
_EMPTY = re.compile(r"\n *(?=\n)")
_OWN = re.compile(r" *with own (?P<names>\w+(?:(?: *, *| +and +)\w+)*) +each\b")


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
            fix='pass for example "h\' = tanh(W @ x + U @ h + b)"',
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
    statements = parser.block(0)
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


class _Parser(ExpressionParser):
    blocks = 0

    # Lines and blocks ----------------------------------------------------------------------------

    def block(self, indent: int) -> tuple[Statement, ...]:
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

    def paragraph(self, indent: int) -> tuple[Statement, ...]:
        """Parse the lines under a head that are not indented: up to an empty line or a head."""
        scanner = self.scanner
        statements: list[Statement] = []
        empty = False
        while not empty and scanner.indent() == indent and not self.at_head():
            statements.extend(self.line())
            before = scanner.position
            if not scanner.next_line():
                break
            empty = _EMPTY.search(self.source, before, scanner.position) is not None
        return tuple(statements)

    def at_head(self) -> bool:
        """Tell whether a line begins a block."""
        return _opens_block(self.source[self.scanner.position :].split("\n", 1)[0])

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
        if self.blocks > MAX_BLOCKS:
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
            if scanner.next_line():
                if scanner.indent() > indent:
                    body = self.block(scanner.indent())
                elif scanner.indent() == indent:
                    body = self.paragraph(indent)
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
        operator = token.kind == "sign" and token.text in OPERATORS
        if token.kind == "end" or (token.gap >= 2 and not operator):
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
