"""Scanner of equations: one token after the other, as the parser asks for them.

It scans no further than the parser has come, because a remark may hold anything.
"""

from __future__ import annotations

import bisect
import dataclasses
import re

from cellkit.equations.syntax import Place

_TOKEN = re.compile(
    r"(?P<name>[^\W\d]\w*~?'*)"
    r"|(?P<number>(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?(?![^\W_]))"
    r"|(?P<sign>\.\.|:=|\*\*|<=|>=|==|!=|[-+*/^@%()\[\],;=:<>])"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Token:
    """A piece of a text.

    Args:
        kind: "name", "number", "sign", "end" (of a line) or "other".
        text: The piece.
        start: Index of its first character.
        gap: Number of spaces before it.
    """

    kind: str
    text: str
    start: int
    gap: int


class Scanner:
    """Reads a text.

    Args:
        source: The text.

    Attributes:
        position: Index of the next character.
        depth: The number of open brackets; inside of them a line goes on on the next one.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.position = 0
        self.depth = 0
        self._starts = [0, *(m.end() for m in re.finditer("\n", source))]
        self._known: tuple[int, int, Token] | None = None

    def peek(self) -> Token:
        """Return the next token without taking it."""
        if self._known is None or self._known[:2] != (self.position, self.depth):
            self._known = (self.position, self.depth, self._read())
        return self._known[2]

    def take(self) -> Token:
        """Take the next token. The end of a line stays: `next_line` goes beyond it."""
        token = self.peek()
        if token.kind != "end":
            self.position = token.start + len(token.text)
        return token

    def _read(self) -> Token:
        source, start = self.source, self.position
        at = start
        while at < len(source):
            if source[at] == " " or (self.depth and source[at] == "\n"):
                at += 1
            elif self.depth and source[at] == "#":
                at = self._line_end(at)
            else:
                break
        if at >= len(source) or source[at] in "\n#":
            return Token("end", "", at, at - start)
        found = _TOKEN.match(source, at)
        if found is None:
            return Token("other", source[at], at, at - start)
        return Token(str(found.lastgroup), found[0], at, at - start)

    def _line_end(self, at: int) -> int:
        end = self.source.find("\n", at)
        return len(self.source) if end < 0 else end

    def rest_of_line(self) -> str:
        """Take what is left of the line, without a comment sign."""
        end = self._line_end(self.position)
        rest = self.source[self.position : end]
        self.position = end
        return rest.strip().lstrip("#").strip()

    def next_line(self) -> bool:
        """Go to the next line that holds something; tell whether there is one."""
        while self.position < len(self.source):
            if self.position == 0 or self.source[self.position - 1] == "\n":
                end = self._line_end(self.position)
                if self.source[self.position : end].split("#")[0].strip():
                    return True
            self.position = min(self._line_end(self.position) + 1, len(self.source))
        return False

    def indent(self) -> int:
        """Return the number of spaces at the start of the line that the position is at."""
        found = re.compile(" *").match(self.source, self.position)
        return 0 if found is None else len(found[0])

    def place(self, token: Token) -> Place:
        """Return where a token stands."""
        return self.place_at(token.start, max(1, len(token.text)))

    def place_at(self, start: int, length: int = 1) -> Place:
        """Return where a character stands."""
        line = bisect.bisect_right(self._starts, start) - 1
        return Place(line + 1, start - self._starts[line], length)
