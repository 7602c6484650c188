"""What an instruction says of things that are drawn, and what stands in line on a screen.

"Click on a large yellow circle", "How many 9s are there?": kind, size, colour and sign of figures
are compared with the words. What is not known of a figure contradicts nothing: recordings may lack
colours that a live page has. Reads and writes nothing. Not covered: pictures, and figures that are
told by what is beside them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from shared.schemas import Box, SnapshotElement

__all__ = [
    "COLOURS",
    "COLOUR_WORDS",
    "SHAPE_TAGS",
    "Figures",
    "colour_name",
    "lines_of",
    "tells_figure",
]

SHAPE_TAGS = frozenset(("circle", "ellipse", "rect", "polygon", "path", "text", "tspan", "line"))
COLOURS = {
    "black": (0, 0, 0), "white": (255, 255, 255), "red": (255, 0, 0), "green": (0, 128, 0),
    "lime": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0), "aqua": (0, 255, 255),
    "magenta": (255, 0, 255), "purple": (128, 0, 128), "orange": (255, 165, 0),
    "grey": (128, 128, 128), "pink": (255, 192, 203), "olive": (128, 128, 0),
}  # fmt: skip
SAME_COLOURS = {"cyan": "aqua", "gray": "grey", "fuchsia": "magenta"}
COLOUR_WORDS = frozenset((*COLOURS, *SAME_COLOURS))

_KINDS = {
    "circle": {"circle", "shape"}, "ellipse": {"ellipse", "oval", "shape"},
    "rect": {"rectangle", "square", "shape"}, "polygon": {"triangle", "polygon", "shape"},
}  # fmt: skip
_KIND_WORDS = frozenset((
    "circle", "ellipse", "oval", "rectangle", "square", "triangle", "polygon", "shape", "letter",
    "digit", "number",
))  # fmt: skip
_SIZES = {"small": -1, "little": -1, "tiny": -1, "large": 1, "big": 1, "huge": 1}
_LEADS = 12  # of 255, by which the strongest of red, green and blue gives a pale tint its name
_LARGER = 1.4  # times the smallest or under the largest, from which sizes differ
_GLYPH = re.compile(r"([^\W_])s?$")
_MAX_LINED = 16  # elements of one kind among which lines are looked for
_SAME_PX = 4  # borders and rounding move what stands in line by a pixel or two


@lru_cache(maxsize=4096)
def colour_name(text: str) -> tuple[str, str | None]:
    """Return the nearest colour's name, and red, green or blue where one of them leads."""
    r, g, b = (int(v) for v in re.findall(r"\d+", text)[:3])
    name = min(
        COLOURS,
        key=lambda n: sum((x - y) ** 2 for x, y in zip(COLOURS[n], (r, g, b), strict=True)),
    )
    ranked = sorted(((r, "red"), (g, "green"), (b, "blue")), reverse=True)
    return name, ranked[0][1] if ranked[0][0] >= ranked[1][0] + _LEADS else None


def tells_figure(text: str) -> bool:
    """Tell whether a text is no name but what a figure looks like: large yellow circles, 9s."""
    words = text.casefold().split()
    singular = {word.removesuffix("s") for word in words} | set(words)
    return bool(singular & (_KIND_WORDS | COLOUR_WORDS | _SIZES.keys())) or any(
        _GLYPH.match(part) for part in text.split()
    )


class Figures:
    """The figures of one screen, `all` of them by index, against one instruction's words.

    `colours` are those that are named; `fitting` maps a figure that is nowhere known to be another
    than what is told to the number of respects in which it is known to be it.
    """

    def __init__(
        self,
        elements: Iterable[SnapshotElement],
        texts: Mapping[int, str],
        words: Sequence[str],
        spans: Sequence[str],
        colours: Iterable[str],
    ) -> None:
        singular = {word.removesuffix("s") for word in words} | set(words)
        self._texts = texts
        self._kinds = singular & _KIND_WORDS
        self.colours = {SAME_COLOURS.get(w, w) for w in words if w in COLOUR_WORDS} | set(colours)
        self._size = next((_SIZES[w] for w in words if w in _SIZES), 0)
        found = (_GLYPH.match(part) for span in spans for part in span.split())
        self._glyph = next((m[1] for m in found if m), None)
        self.all = {e.index: e for e in elements if _is_figure(e)}
        sizes = [max(e.box.width_px, e.box.height_px) for e in self.all.values() if e.box]
        self._smallest, self._largest = min(sizes, default=0.0), max(sizes, default=0.0)
        told = [t for t in (self._kinds, self.colours, self._size, self._glyph) if t]
        known = {i: self._known(e) for i, e in self.all.items()} if told else {}
        self.fitting = {i: count for i, count in known.items() if count is not None}
        # Whether all that is told is known of each of them.
        self.sure = all(count == len(told) for count in self.fitting.values())

    def _known(self, e: SnapshotElement) -> int | None:
        """Return in how many respects a figure is known to be what is told, None if it is not."""
        text, count = self._texts.get(e.index, "").strip(), 0
        if self._kinds:
            if not self._kinds <= _kinds_of(e, text):
                return None
            count += 1
        if self._glyph is not None:
            if text != self._glyph:
                return None
            count += 1
        if self.colours and e.colour:
            if colour_name(e.colour)[0] not in self.colours:
                return None
            count += 1
        if self._size and e.box and self._largest > _LARGER * self._smallest:
            size = max(e.box.width_px, e.box.height_px)
            if (1 if size * _LARGER > self._largest else -1) != self._size:
                return None
            count += 1
        return count

    def counted(self, text: str) -> bool:
        """Tell whether a text is the number of the figures that fit, all of them for certain."""
        counts = self.sure and bool(self.all) and text.isdigit()
        return counts and int(text) == len(self.fitting)

    def named(self, text: str) -> bool:
        """Tell whether a text names the kind of the one figure there is."""
        if len(self.all) != 1 or not text.isalpha():
            return False
        (figure,) = self.all.values()
        shown = self._texts.get(figure.index, "").strip()
        return text.casefold().removesuffix("s") in _kinds_of(figure, shown)


def _is_figure(e: SnapshotElement) -> bool:
    return e.tag in _KINDS or e.tag == "text" or (bool(e.colour) and e.tag not in SHAPE_TAGS)


def _kinds_of(e: SnapshotElement, text: str) -> set[str]:
    if e.tag == "text":
        if len(text) == 1 and text.isalpha():
            return {"letter"}
        return {"digit", "number"} if text.isdigit() else set()
    return _KINDS.get(e.tag, set())


def lines_of(
    elements: Sequence[SnapshotElement],
) -> dict[int, list[tuple[str | None, str | None]]]:
    """Return the styles of the two others on each line of three cells, for each element in a grid.

    Lines are rows, columns and diagonals of elements alike in tag and size; a style is the first
    class. Empty where all elements look alike: then lines tell nothing.
    """
    kinds: dict[tuple[str, int, int], list[tuple[SnapshotElement, Box]]] = {}
    for e in elements:
        if e.box is not None:
            kind = e.tag, round(e.box.width_px), round(e.box.height_px)
            kinds.setdefault(kind, []).append((e, e.box))
    found: dict[int, list[tuple[str | None, str | None]]] = {}
    for own in kinds.values():
        if not 3 <= len(own) <= _MAX_LINED or len({_style(e) for e, _ in own}) < 2:
            continue
        columns = _ranks(box.x_px + box.width_px / 2 for _, box in own)
        rows = _ranks(box.y_px + box.height_px / 2 for _, box in own)
        cells = {cell: e for cell, (e, _) in zip(zip(columns, rows, strict=True), own, strict=True)}
        for x, y in cells:
            for dx, dy in ((1, 0), (0, 1), (1, 1), (1, -1)):
                line = [cells.get((x + i * dx, y + i * dy)) for i in range(3)]
                one, two, three = line
                if one is None or two is None or three is None:
                    continue
                for e, left, right in ((one, two, three), (two, one, three), (three, one, two)):
                    found.setdefault(e.index, []).append((_style(left), _style(right)))
    return found


def _ranks(values: Iterable[float]) -> list[int]:
    """Return each value's place among the different ones; what is nearly equal is one."""
    given = list(values)
    ranks, rank, last = {}, -1, float("-inf")
    for value in sorted(set(given)):
        rank += value - last > _SAME_PX
        ranks[value], last = rank, value
    return [ranks[value] for value in given]


def _style(e: SnapshotElement) -> str | None:
    return e.classes[0] if e.classes else None
