"""A drawing of a cell: the dataflow of one step, as an SVG in one style for all cells.

Old states and inputs enter on the left, new states and the output leave on the right. Elements
stand in columns, each behind all that it is made of; their order within a column is the one that
crosses fewest lines, and their heights let lines run straight where they can.

The SVG needs nothing from outside and follows the colours of the page it stands on, bright or dark.
"""

from __future__ import annotations

import dataclasses
import re
from html import escape

from cellkit.equations.analyse import Analysis
from cellkit.equations.dataflow import Element, Flow, flow_of
from cellkit.equations.typeset import GREEK

__all__ = ["svg"]

_ROW = 46  # between the middles of two neighbours
_PORT = 19  # between two lines that enter one element
_GAP = 30  # between two columns, labels apart
_MARGIN = 18
_CHARACTER = 7.6
_SMALL = 0.78
_SWEEPS = 24
_TILDE = "\N{COMBINING TILDE}"
_NAME = re.compile(r"(?P<name>[^\W\d_]\w*)(?P<tilde>~?)(?P<primes>'*)")

_STYLE = """
.cell-drawing{font:italic 15px 'STIX Two Text','Cambria Math',Georgia,serif;--ink:#24292f;
--paper:#fff;--gate:#fbe9c6;--gate-line:#c58a1b;--op:#e3ecf7;--op-line:#4a78b5;
--state:#2f6fb3;--input:#2f8f5b}
@media (prefers-color-scheme:dark){.cell-drawing{--ink:#e6edf3;--paper:#0d1117;--gate:#4a3a17;
--gate-line:#d9a441;--op:#1f3350;--op-line:#7aa7dd;--state:#79b3f0;--input:#6cc796}}
[data-md-color-scheme="default"] .cell-drawing{--ink:#24292f;--paper:#fff;--gate:#fbe9c6;
--gate-line:#c58a1b;--op:#e3ecf7;--op-line:#4a78b5;--state:#2f6fb3;--input:#2f8f5b}
[data-md-color-scheme="slate"] .cell-drawing{--ink:#e6edf3;--paper:var(--md-default-bg-color);
--gate:#4a3a17;--gate-line:#d9a441;--op:#1f3350;--op-line:#7aa7dd;--state:#79b3f0;--input:#6cc796}
.cell-drawing text{fill:var(--ink);stroke:var(--paper);stroke-width:3px;paint-order:stroke;
stroke-linejoin:round}
.cell-drawing rect+text{stroke:none}
.cell-drawing .note{font-size:12px;opacity:.85}
.cell-drawing .label{font-size:13px}
.cell-drawing .line{fill:none;stroke:var(--ink);stroke-width:1.3;opacity:.75}
.cell-drawing .line.state{stroke:var(--state);stroke-width:2.2;opacity:1}
.cell-drawing .line.input{stroke:var(--input);opacity:1}
.cell-drawing .head{fill:var(--ink);opacity:.85}
.cell-drawing .head.state{fill:var(--state);opacity:1}
.cell-drawing .head.input{fill:var(--input);opacity:1}
.cell-drawing .gate{fill:var(--gate);stroke:var(--gate-line);stroke-width:1.4}
.cell-drawing .circle,.cell-drawing .box{fill:var(--op);stroke:var(--op-line);stroke-width:1.4}
.cell-drawing .plain{font-style:normal}
.cell-drawing .terminal{font-size:18px}
""".strip()


@dataclasses.dataclass
class _Spot:
    """An element, or a bend of a line, with its place.

    Args:
        element: Number of the element, or -1 for a bend.
        column: Its column.
        width: Its width.
        height: Its height.
        x: Its left edge.
        y: Its middle.
    """

    element: int
    column: int
    width: float = 0.0
    height: float = 0.0
    x: float = 0.0
    y: float = 0.0


@dataclasses.dataclass
class _Route:
    """A line with the spots that it passes, from its source to its target."""

    line: int
    spots: list[int]


def svg(analysis: Analysis, title: str = "") -> str:
    """Return the drawing of a step.

    Args:
        analysis: The result of `cellkit.equations.analyse.analyse`.
        title: Text for readers of the drawing that can't see it; the name of the cell by default.
    """
    return _Drawing(flow_of(analysis)).svg(title or analysis.declaration.name)


class _Drawing:
    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.spots: list[_Spot] = []
        self.routes: list[_Route] = []
        self._columns()
        self._order()
        self._heights()
        self._widths()

    # Columns ------------------------------------------------------------------------------------

    def _columns(self) -> None:
        """Put every element behind its arguments, and bends where lines pass columns."""
        flow = self.flow
        column = [0] * len(flow.elements)
        # Elements stand behind what they are made of, but for ends, which are drawn early.
        for _ in flow.elements:
            moved = False
            for line in flow.lines:
                if column[line.target] <= column[line.source]:
                    column[line.target] = column[line.source] + 1
                    moved = True
            if not moved:
                break
        last = max(column)
        for i, element in enumerate(flow.elements):
            if element.kind in ("new", "output"):
                column[i] = last
            self.spots.append(_Spot(i, column[i], *_size(element, self._entering(i))))
        for number, line in enumerate(flow.lines):
            spots = [line.source]
            for at in range(column[line.source] + 1, column[line.target]):
                spots.append(len(self.spots))
                self.spots.append(_Spot(-1, at, 0.0, 6.0))
            self.routes.append(_Route(number, [*spots, line.target]))

    def _entering(self, element: int) -> int:
        return sum(line.target == element for line in self.flow.lines)

    def _links(self) -> list[tuple[int, int, float]]:
        """Return the neighbours in two columns, with the weight of a straight line."""
        found = []
        for route in self.routes:
            line = self.flow.lines[route.line]
            ends = (self.flow.elements[line.source].kind, self.flow.elements[line.target].kind)
            main = ends[0] == "state" or ends[1] == "new"
            for a, b in zip(route.spots, route.spots[1:], strict=False):
                bends = (self.spots[a].element < 0) + (self.spots[b].element < 0)
                found.append((a, b, (1.0, 2.0, 8.0)[bends] * (3.0 if main else 1.0)))
        return found

    # Order within a column ----------------------------------------------------------------------

    def _order(self) -> None:
        count = max(s.column for s in self.spots) + 1
        self.columns: list[list[int]] = [[] for _ in range(count)]
        for i, spot in enumerate(self.spots):
            self.columns[spot.column].append(i)
        links = self._links()
        best, fewest = [list(c) for c in self.columns], self._crossings(links)
        for sweep in range(_SWEEPS):
            forwards = sweep % 2 == 0
            order = range(1, count) if forwards else range(count - 2, -1, -1)
            for at in order:
                self._sort(at, links, forwards)
            crossings = self._crossings(links)
            if crossings < fewest:
                best, fewest = [list(c) for c in self.columns], crossings
        self.columns = best

    def _sort(self, at: int, links: list[tuple[int, int, float]], forwards: bool) -> None:
        rank = {s: i for column in self.columns for i, s in enumerate(column)}
        pulls: dict[int, list[float]] = {}
        for a, b, weight in links:
            near, far = (b, a) if forwards else (a, b)
            if self.spots[near].column == at:
                size = max(1, len(self.columns[self.spots[far].column]))
                pulls.setdefault(near, []).extend([rank[far] / size] * int(weight))

        def key(spot: int) -> float:
            pull = pulls.get(spot)
            size = max(1, len(self.columns[at]))
            return sum(pull) / len(pull) if pull else rank[spot] / size

        self.columns[at].sort(key=key)
        if at == 0:
            # States above, inputs below, each in the order of the cell.
            self.columns[0].sort(key=lambda s: (self._kind(s) == "input", s))

    def _kind(self, spot: int) -> str:
        element = self.spots[spot].element
        return self.flow.elements[element].kind if element >= 0 else ""

    def _crossings(self, links: list[tuple[int, int, float]]) -> int:
        rank = {s: i for column in self.columns for i, s in enumerate(column)}
        between: dict[int, list[tuple[int, int]]] = {}
        for a, b, _ in links:
            between.setdefault(self.spots[a].column, []).append((rank[a], rank[b]))
        return sum(
            (a[0] - b[0]) * (a[1] - b[1]) < 0
            for pairs in between.values()
            for i, a in enumerate(pairs)
            for b in pairs[:i]
        )

    # Heights and widths -------------------------------------------------------------------------

    def _heights(self) -> None:
        """Move neighbours towards each other, without letting any two overlap."""
        for column in self.columns:
            top = 0.0
            for s in column:
                top += self.spots[s].height / 2
                self.spots[s].y = top
                top += self.spots[s].height / 2 + _ROW / 3
        links = self._links()
        for turn in range(60):
            forwards = turn % 2 == 0
            columns = self.columns if forwards else self.columns[::-1]
            for column in columns:
                self._settle(column, links)
        low = min(spot.y - spot.height / 2 for spot in self.spots)
        for spot in self.spots:
            spot.y += _MARGIN - low

    def _settle(self, column: list[int], links: list[tuple[int, int, float]]) -> None:
        wishes = {s: (0.0, 0.0) for s in column}
        for a, b, weight in links:
            for near, far in ((a, b), (b, a)):
                if near in wishes:
                    total, sum_ = wishes[near]
                    wishes[near] = (total + weight, sum_ + weight * self.spots[far].y)
        # Blocks of neighbours that touch move as one: each block has a weight, a wish for its
        # first member, and its members' distances from it.
        blocks: list[list[float]] = []
        members: list[list[tuple[int, float]]] = []
        for s in column:
            weight, sum_ = wishes[s]
            weight, wish = (weight, sum_ / weight) if weight else (0.01, self.spots[s].y)
            blocks.append([weight, weight * wish])
            members.append([(s, 0.0)])
            while len(blocks) > 1 and self._touch(blocks, members):
                weight_b, sum_b = blocks.pop()
                later = members.pop()
                end, offset = members[-1][-1]
                distance = offset + self._distance(end, later[0][0])
                blocks[-1][0] += weight_b
                blocks[-1][1] += sum_b - weight_b * distance
                members[-1] += [(m, o + distance) for m, o in later]
        for (weight, sum_), block in zip(blocks, members, strict=True):
            for s, offset in block:
                self.spots[s].y = sum_ / weight + offset

    def _touch(self, blocks: list[list[float]], members: list[list[tuple[int, float]]]) -> bool:
        (end, offset), (first, _) = members[-2][-1], members[-1][0]
        upper = blocks[-2][1] / blocks[-2][0] + offset
        lower = blocks[-1][1] / blocks[-1][0]
        return lower < upper + self._distance(end, first)

    def _distance(self, a: int, b: int) -> float:
        first, second = self.spots[a], self.spots[b]
        apart = _ROW / 3 if first.element >= 0 and second.element >= 0 else 8
        note = 14 if first.element >= 0 and self.flow.elements[first.element].note else 0
        name = 12 if second.element >= 0 and self._titled(second.element) else 0
        return (first.height + second.height) / 2 + apart + note + name

    def _titled(self, element: int) -> bool:
        shown = self.flow.elements[element]
        return bool(shown.name) and shown.kind in ("circle", "box", "gate")

    def _widths(self) -> None:
        x = float(_MARGIN)
        for at, column in enumerate(self.columns):
            width = max(self.spots[s].width for s in column)
            for s in column:
                self.spots[s].x = x + (width - self.spots[s].width) / 2
            labels = [
                _width(self.flow.lines[r.line].label) * 13 / 15
                for r in self.routes
                if self.spots[r.spots[-1]].column == at + 1
            ]
            # Lines that fan out from few elements to many need room to do so.
            fan = 5.0 * max(0, len(labels) - 2 * len(column)) if at == 0 else 0.0
            x += width + _GAP + fan + (max(labels, default=0.0) + 14 if any(labels) else 0.0)
        self.width = x - _GAP + _MARGIN
        notes = [
            s.y + s.height / 2 + (16 if self.flow.elements[s.element].note else 0)
            for s in self.spots
            if s.element >= 0
        ]
        names = [
            s.y - s.height / 2 - 16
            for s in self.spots
            if s.element >= 0 and self._titled(s.element)
        ]
        self.top = min([0.0, *names])
        self.height = max([*notes, *(s.y + 4 for s in self.spots)]) + _MARGIN - self.top

    # Output -------------------------------------------------------------------------------------

    def svg(self, title: str) -> str:
        """Return the SVG."""
        parts = [*self._lines()]
        for spot in self.spots:
            if spot.element >= 0:
                parts += _shape(spot, self.flow.elements[spot.element])
        size = f"{self.width:.0f} {self.height:.0f}"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="cell-drawing" role="img" '
            f'viewBox="0 {self.top:.0f} {size}" width="{self.width:.0f}" '
            f'height="{self.height:.0f}"><title>{escape(title)}</title>'
            f"<style>{_STYLE}</style>" + "".join(parts) + "</svg>\n"
        )

    def _ports(self) -> dict[int, float]:
        """Return the height at which each line enters its target."""
        entering: dict[int, list[int]] = {}
        for number, route in enumerate(self.routes):
            entering.setdefault(route.spots[-1], []).append(number)
        ports = {}
        for target, routes in entering.items():
            routes.sort(key=lambda r: self.spots[self.routes[r].spots[-2]].y)
            for i, number in enumerate(routes):
                ports[number] = self.spots[target].y + (i - (len(routes) - 1) / 2) * _PORT
        return ports

    def _lines(self) -> list[str]:
        """Return the lines, and above all of them their labels."""
        parts, labels = [], []
        ports = self._ports()
        for number, route in enumerate(self.routes):
            line = self.flow.lines[route.line]
            start, end = self.spots[route.spots[0]], self.spots[route.spots[-1]]
            target = self.flow.elements[line.target]
            y = ports[number]
            left = end.x
            if target.kind == "circle":
                # The edge of a circle at this height.
                radius = end.width / 2
                inside = min(1.0, abs(y - end.y) / (end.height / 2))
                left += radius * (1 - (1 - inside**2) ** 0.5) if end.height == end.width else 0.0
            points = [(start.x + start.width, start.y)]
            for s in route.spots[1:-1]:
                bend = self.spots[s]
                points.append((bend.x, bend.y))
            label = line.label
            room = _width(label) * 13 / 15 + 8 if label else 0.0
            points.append((left - 7 - room, y))
            kind = self.flow.elements[line.source].kind
            role = kind if kind in ("state", "input") else "state" if target.kind == "new" else ""
            path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
            for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
                middle = (x1 - x0) / 2
                path += f"C{x0 + middle:.1f} {y0:.1f} {x1 - middle:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"
            path += f"H{left - 6:.1f}"
            parts.append(f'<path class="line {role}" d="{path}"/>')
            parts.append(f'<path class="head {role}" d="M{left:.1f} {y:.1f}l-7-3.6v7.2z"/>')
            if label:
                labels.append(_text(left - 10, y - 4, label, "label", "end"))
            elif line.sign:
                labels.append(_text(left - 9, y + 12, line.sign, "label plain", "middle"))
        return parts + labels


def _size(element: Element, entering: int) -> tuple[float, float]:
    height = max(30.0, 12.0 + _PORT * entering)
    if element.kind in ("input", "state", "new", "output"):
        return _width(element.text) * 1.25 + 10, 26.0
    if element.kind == "circle":
        return 30.0, max(30.0, 8.0 + _PORT * entering)
    if element.kind == "gate" and not element.text:
        return 14.0, height
    return max(40.0, _width(element.text) + 18), height


def _shape(spot: _Spot, element: Element) -> list[str]:
    middle, top = spot.x + spot.width / 2, spot.y - spot.height / 2
    parts = []
    if element.kind in ("input", "state", "new", "output"):
        parts.append(_text(middle, spot.y + 5, element.text, "terminal", "middle"))
        if element.note:
            parts.append(_text(middle, spot.y + 22, element.note, "note plain", "middle"))
        return parts
    radius = spot.width / 2 if element.kind == "circle" else 6 if element.kind == "gate" else 12
    parts.append(
        f'<rect class="{element.kind}" x="{spot.x:.1f}" y="{top:.1f}" width="{spot.width:.1f}" '
        f'height="{spot.height:.1f}" rx="{radius:g}"/>'
    )
    plain = "" if element.text.isidentifier() and len(element.text) == 1 else "plain"
    if element.text:
        parts.append(_text(middle, spot.y + 5, element.text, plain, "middle"))
    if element.name:
        parts.append(_text(middle, top - 5, element.name, "note", "middle"))
    if element.note:
        parts.append(_text(middle, top + spot.height + 14, f"+ {element.note}", "note", "middle"))
    return parts


def _pieces(text: str) -> list[tuple[str, bool]]:
    """Return a text in pieces, each with whether it is an index."""
    found: list[tuple[str, bool]] = []
    end = 0
    for name in _NAME.finditer(text):
        found.append((text[end : name.start()], False))
        end = name.end()
        base, *index = name["name"].split("_")
        if base not in GREEK and base[1:].isdigit():
            base, index = base[0], [base[1:], *index]
        tilde = _TILDE if name["tilde"] else ""
        found.append((GREEK.get(base, base) + tilde, False))
        found.append((",".join(GREEK.get(part, part) for part in index if part), True))
        found.append(("′" * len(name["primes"]), False))
    found.append((text[end:], False))
    return [(piece, low) for piece, low in found if piece]


def _width(text: str) -> float:
    pieces = ((len(piece.replace(_TILDE, "")), low) for piece, low in _pieces(text))
    return sum(count * _CHARACTER * (_SMALL if low else 1.0) for count, low in pieces)


def _text(x: float, y: float, text: str, classes: str, anchor: str) -> str:
    inner, lowered = "", False
    for piece, low in _pieces(text):
        shift = f' dy="{4 if low else -4}"' if low != lowered else ""
        size = ' font-size="78%"' if low else ""
        inner += f"<tspan{shift}{size}>{escape(piece)}</tspan>" if shift or size else escape(piece)
        lowered = low
    kind = f' class="{classes}"' if classes else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{inner}</text>'
