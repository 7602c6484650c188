"""Encoding 4: a screen with an instruction on it -> numbers, one row for each thing to act on.

Encoding 1 knows controls by their names and a record by its slots. Many pages have neither: what
is clicked is a bare word, an icon, a shape, and what is wanted stands in a sentence. So here every
element that shows something is a candidate; it is told by tag, words, style classes and place, by
how its text, label, value and row agree with the instruction's spans, and by what was done to it.
The same function trains and runs. All numbers are multiples of 1/16. Longer than most files: the
places of the numbers and what fills them must be read together.
"""

import re
import zlib
from array import array
from collections.abc import Sequence
from functools import lru_cache

from shared.encoding import Encoded, HistoryStep, at_words, normalise
from shared.encoding_figures import (
    COLOURS,
    SAME_COLOURS,
    SHAPE_TAGS,
    Figures,
    colour_name,
    lines_of,
)
from shared.goal import Goal, GoalSource, find_goal, month_of, read_goal
from shared.meanings import alike, means
from shared.schemas import Snapshot, SnapshotElement

__all__ = [
    "GOAL_ENCODING_VERSION",
    "GOAL_HASHED_CONTEXT",
    "GOAL_HASHED_ELEMENT",
    "GOAL_NUM_STEPS",
    "GOAL_PLACES",
    "GOAL_STEPS",
    "NUM_GOAL_CONTEXT",
    "NUM_GOAL_ELEMENT",
    "Page",
    "encode_goal",
    "is_control",
    "meant_by",
    "step_on",
]

GOAL_ENCODING_VERSION = 4
GOAL_STEPS = 16  # numbers are multiples of 1 / GOAL_STEPS
_MAX_CANDIDATES = 200

_TAGS = (
    "a", "button", "input", "textarea", "select", "option", "label", "span", "div", "p", "li",
    "ul", "td", "th", "tr", "h1", "h2", "h3", "h4", "img", "circle", "rect", "path", "polygon",
    "text", "tspan", "form",
)  # fmt: skip
_KINDS = ("field", "checkbox", "radio", "button")
_CONTROL_TAGS = frozenset(("a", "button", "input", "textarea", "select", "summary"))
_CONTROL_ROLES = frozenset((
    "textbox", "searchbox", "combobox", "listbox", "spinbutton", "checkbox", "radio", "switch",
    "slider", "button", "link", "tab", "option", "treeitem", "menuitem",
))  # fmt: skip
_FIELD_TAGS = frozenset(("input", "textarea", "select"))
# Not "focused": a person's click has moved the focus before the first key, an agent's has not.
_STATES = ("checked", "disabled")
_OPS = ("click", "double_click", "hover", "type_text", "select_option", "press_key")
_SLOTS = 6
_WORDS, _STYLE, _ABOVE, _NEAR, _BEFORE = 64, 64, 32, 32, 24
_GOAL, _LAST, _SAID = 64, 48, 24
_VIEWS = 4  # own text, label, value, row
_LINED, _TRIED, _BOUND = 16, 16, 12
_STEM = 5  # letters that words of one stem share
_MORE = frozenset(("higher", "more", "greater", "above", "larger", "bigger", "later", "after"))
_LESS = frozenset(("lower", "less", "smaller", "below", "fewer", "under", "earlier", "before"))


def _layout(sizes: dict[str, int]) -> tuple[dict[str, int], int]:
    places, at = {}, 0
    for name, size in sizes.items():
        places[name] = at
        at += size
    return places, at


_E, NUM_GOAL_ELEMENT = _layout({
    "words": _WORDS, "style": _STYLE, "above": _ABOVE, "near": _NEAR, "before": _BEFORE,
    "tag": len(_TAGS) + 1, "kind": len(_KINDS), "state": len(_STATES), "filled": 2,
    "match": _VIEWS * 5, "slot": _VIEWS * _SLOTS, "asked": _SLOTS, "style_goal": 2,
    "exact": 1, "starts": 1, "near_match": 2, "count": 3,
    "place": 8, "last_of": 1, "box": 5, "ordinal": 1, "done": 4, "after": 2, "row_done": 1,
    "new": 1, "colour": 3 + len(COLOURS), "number": 3, "day": 1, "left": 1, "row_unique": 2,
    "option": 1, "fits": 2, "counted": 1, "named": 1, "id_told": 1, "last_span": 1,
    "lined": 2 * _LINED, "meant": 1,
})  # fmt: skip
_G, NUM_GOAL_CONTEXT = _layout({
    "goal": _GOAL, "last": _LAST, "said": _SAID, "op": len(_OPS), "steps": 8, "left": 4,
    "spans": 6, "used": _SLOTS, "held": _SLOTS, "shown": _SLOTS, "number": 3, "month": 3,
    "matched": 2, "changed": 1, "bias": 1, "tried": _TRIED, "above": _BOUND, "below": _BOUND,
})  # fmt: skip
GOAL_HASHED_ELEMENT = range(0, _E["tag"])
GOAL_HASHED_CONTEXT = range(0, _G["op"])
GOAL_NUM_STEPS = range(_G["steps"], _G["steps"] + 8)  # how many steps were done
GOAL_PLACES = range(_E["count"], _E["box"] + 5)  # where an element stands among others

_WORD = re.compile(r"[^\W\d_]+|\d+")
_CAMEL = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?$")


@lru_cache(maxsize=16384)
def _bucket(text: str, buckets: int) -> int:
    return zlib.crc32(text.encode()) % buckets


@lru_cache(maxsize=16384)
def _words(text: str) -> tuple[str, ...]:
    return tuple("0" if w[0].isdigit() else w for w in _WORD.findall(text)[:8])


@lru_cache(maxsize=16384)
def _tokens(name: str) -> tuple[str, ...]:
    return tuple("0" if w[0].isdigit() else w.casefold() for w in _CAMEL.findall(name))


def is_control(element: SnapshotElement) -> bool:
    """Tell whether an element is a control by its tag or role."""
    return element.tag in _CONTROL_TAGS or element.role in _CONTROL_ROLES


class Page:
    """A snapshot's elements with what several features need; independent of the instruction."""

    def __init__(self, snapshot: Snapshot, source: GoalSource | None) -> None:
        self.elements = {e.index: e for e in snapshot.elements}
        self.children: dict[int, list[int]] = {}
        for e in snapshot.elements:
            if e.parent is not None and e.parent in self.elements and e.parent != e.index:
                self.children.setdefault(e.parent, []).append(e.index)
        self.roots = [e.index for e in snapshot.elements if e.parent not in self.elements]
        goal = find_goal(snapshot, source) if source is not None else None
        self.goal_text = goal.text.clear if goal is not None and goal.text else None
        hidden = {goal.index, *self._below(goal.index)} if goal is not None else set()
        self.goal_colours = frozenset(
            colour_name(e.colour)[0] for e in snapshot.elements if e.index in hidden and e.colour
        )
        self.shown = [e for e in snapshot.elements if e.index not in hidden]
        self.texts = {e.index: self._text(e) for e in self.shown}
        self.labels = {e.index: self._label(at) for at, e in enumerate(self.shown)}
        self.items = {e.index: self._item(e) for e in self.shown}
        self.keys = {e.index: self._key(e) for e in self.shown}

    def _below(self, index: int) -> set[int]:
        found, waiting = set(), list(self.children.get(index, ()))
        while waiting:
            child = waiting.pop()
            if child not in found:
                found.add(child)
                waiting.extend(self.children.get(child, ()))
        return found

    def candidates(self, *, controls: bool) -> list[int]:
        """Return what can be acted on: controls alone, or everything that shows something."""
        if controls:
            return [
                e.index for e in self.shown
                if e.tag in _CONTROL_TAGS or (is_control(e) and e.index not in self.children)
            ]  # fmt: skip
        found = []
        for e in self.shown:
            if e.tag in ("body", "form", "html", "ul", "table", "tr"):
                continue
            # A widget's roles and names are its script's: by tag it is known without it too.
            shows = e.text or e.tag in _CONTROL_TAGS or e.index not in self.children
            if shows:
                found.append(e.index)
        return found

    def figures(self, goal: Goal | None) -> Figures:
        """Return what is drawn, against an instruction."""
        words, spans = (goal.words, goal.spans) if goal is not None else ((), ())
        return Figures(self.shown, self.texts, words, spans, self.goal_colours)

    def _text(self, e: SnapshotElement) -> str:
        for text in (e.name, e.text):
            if text is not None and text.clear:
                return text.clear
        return ""

    def _label(self, at: int) -> str:
        """Return a field's label: its own, else the text before it."""
        e = self.shown[at]
        if e.label:
            return normalise(e.label)
        if e.tag not in _FIELD_TAGS or e.role == "button":
            return ""
        for other in reversed(self.shown[max(0, at - 3) : at]):
            if other.tag in _FIELD_TAGS or other.tag == "button":
                return ""
            if text := self._text(other):
                return normalise(text)
        return ""

    def _item(self, e: SnapshotElement) -> int | None:
        """Return the nearest element that repeats: a row, a list item, or one built like others."""
        seen, at = set(), e
        while at.index not in seen:
            seen.add(at.index)
            if (
                at.tag in ("li", "tr")
                or at.role in ("row", "listitem")
                or (self.children.get(at.index) and self.repeats(at))
            ):
                return at.index
            if at.parent is None or at.parent not in self.elements:
                return None
            at = self.elements[at.parent]
        return None

    def repeats(self, e: SnapshotElement) -> bool:
        """Tell whether a sibling is built alike."""
        if not e.classes:
            return False
        siblings = (
            self.children.get(e.parent, ())
            if e.parent is not None
            else [i for i, other in self.elements.items() if other.parent is None]
        )
        kind = (e.tag, e.classes[0])
        alike = 0
        for i in siblings:
            other = self.elements[i]
            alike += (other.tag, *(other.classes or ())[:1]) == kind
        return alike > 1

    def _key(self, e: SnapshotElement) -> str:
        """Return what an element is known by within one run of a chore."""
        item = self.items[e.index]
        row = self.item_texts(item)[:3] if item is not None and item != e.index else ()
        own = normalise(self.texts[e.index])
        if own:
            return "\t".join((e.tag, own, *(e.classes or ())[:1], *row))
        # A class may be what a click changes, so where nothing is written only the place is left.
        return "\t".join((e.tag, f"{e.element_id}{self._nth(e)}", *row))

    def _nth(self, e: SnapshotElement) -> int:
        inside = e.parent is not None and e.parent in self.elements
        siblings = (
            self.children.get(e.parent, ()) if e.parent is not None and inside else self.roots
        )
        return list(siblings).index(e.index) if e.index in siblings else -1

    def item_texts(self, item: int) -> list[str]:
        """Return the texts of an item's elements, folded."""
        found = [normalise(self._text(self.elements[item]))]
        found += [normalise(self._text(self.elements[i])) for i in sorted(self._below(item))]
        return [t for t in found if t]


class _Spans:
    """The instruction's spans, prepared for comparing."""

    def __init__(self, goal: Goal | None) -> None:
        spans = goal.spans if goal is not None else ()
        self.raw = frozenset(spans)
        self.values = [normalise(s) for s in spans]
        self.joined = f" {' '.join(goal.words)} " if goal is not None else " "
        self.last = 1 << len(self.values) - 1 if self.values else 0
        self.words = {w for v in self.values for w in re.findall(r"[^\W_]+", v)}
        self._seen: dict[str, tuple[int, int, float]] = {"": (0, 0, 0.0)}

    def match(self, text: str) -> tuple[int, int, float]:
        """Return (slots equal, slots contained, share of the words that spans have)."""
        if text not in self._seen:
            equal = contains = 0
            for i, value in enumerate(self.values):
                if not value:
                    continue
                if value == text or value.rstrip(".") == text.rstrip("."):
                    equal |= 1 << i
                if value in text and at_words(value, text):
                    contains |= 1 << i
            words = re.findall(r"[^\W_]+", text)
            share = sum(w in self.words for w in words) / len(words) if words else 0.0
            self._seen[text] = equal, contains, share
        return self._seen[text]

    def told(self, words: Sequence[str]) -> bool:
        """Tell whether the instruction has one of the words anywhere."""
        return any(len(w) > 2 and f" {w} " in self.joined for w in words)


def _fill(out: list[float], at: int, size: int, words: Sequence[str]) -> None:
    for word in words:
        out[at + _bucket(word, size)] = 1.0


@lru_cache(maxsize=16384)
def _akin(one: str, other: str) -> bool:
    """Tell whether words are equal or of one stem: directed, director."""
    return one == other or (min(len(one), len(other)) >= _STEM and one[:_STEM] == other[:_STEM])


def _grid(value: float) -> float:
    return round(min(max(value, 0.0), 4.0) * GOAL_STEPS) / GOAL_STEPS


def _compare(text: str, number: float | None) -> int | None:
    if number is None or not _NUMBER.match(text):
        return None
    value = float(text)
    return 0 if value < number else 1 if value == number else 2


class _Reading:
    """One snapshot against one instruction and history."""

    def __init__(
        self,
        page: Page,
        goal: Goal | None,
        history: Sequence[HistoryStep],
        indices: list[int],
        meanings: bool,
    ) -> None:
        self.page, self.goal, self.history = page, goal, history
        self.spans = _Spans(goal)
        self.meant = meant_by(page, goal, indices) if meanings else frozenset[str]()
        self.done: dict[str, list[str]] = {}
        for step in history:
            self.done.setdefault(step.key, []).append(step.op)
        self.last_key = history[-1].key if history else None
        self.before = history[-1].screen if history else frozenset[str]()
        self.rows: dict[int, tuple[int, int, float]] = {}
        self.indices = indices
        words = goal.words if goal is not None else ()
        self.figures = page.figures(goal)
        self.colours = {SAME_COLOURS.get(w, w) for w in words} | page.goal_colours
        self.lines = lines_of([page.elements[i] for i in indices])
        self._measure()

    def _measure(self) -> None:
        page, seen = self.page, [self.page.elements[i] for i in self.indices]
        boxes = [e.box for e in page.shown if e.box is not None]
        self.left = min((b.x_px for b in boxes), default=0.0)
        self.top = min((b.y_px for b in boxes), default=0.0)
        self.width = max((b.x_px + b.width_px for b in boxes), default=1.0) - self.left or 1.0
        self.height = max((b.y_px + b.height_px for b in boxes), default=1.0) - self.top or 1.0
        self.nth: dict[int, int] = {}
        counts: dict[tuple[str, str], int] = {}
        for e in seen:
            kind = e.tag, (e.classes or ("",))[0] if e.tag not in _FIELD_TAGS else e.role
            counts[kind] = counts.get(kind, 0) + 1
            self.nth[e.index] = counts[kind]
        self.total = {
            e.index: counts[e.tag, (e.classes or ("",))[0] if e.tag not in _FIELD_TAGS else e.role]
            for e in seen
        }
        self.order = {i: n for n, i in enumerate(self.indices)}
        keys = [page.keys[i] for i in self.indices]
        self.last_at = keys.index(self.last_key) if self.last_key in keys else None
        self.done_rows = {page.items[i] for i in self.indices if page.keys[i] in self.done} - {None}

    def row_match(self, item: int) -> tuple[int, int, float]:
        if item not in self.rows:
            equal = contains = 0
            share = 0.0
            for text in self.page.item_texts(item):
                e, c, s = self.spans.match(text)
                equal, contains, share = equal | e, contains | c, max(share, s)
            self.rows[item] = equal, contains, share
        return self.rows[item]

    def row(self, index: int) -> list[float]:
        page, e = self.page, self.page.elements[index]
        out = [0.0] * NUM_GOAL_ELEMENT
        raw = page.texts[index]
        text, label = normalise(raw), page.labels[index]
        value = normalise(e.value.clear or "") if e.value is not None else ""
        item = page.items[index]
        own = self.spans.match(text)
        named = self.spans.match(label)
        holds = self.spans.match(value)
        row = self.row_match(item) if item is not None else (0, 0, 0.0)
        style = [t for c in (e.element_id or "", *(e.classes or ())) for t in _tokens(c)]
        meant = bool(self.meant & {text, label})
        out[_E["meant"]] = float(meant)
        if not own[0] and not own[1] and not meant:
            _fill(out, _E["words"], _WORDS, _words(text))
        _fill(out, _E["style"], _STYLE, style)
        if e.parent is not None and e.parent in page.elements:
            above = page.elements[e.parent]
        else:
            above = None
        if above is not None and (above.tag not in ("div", "span") or page.repeats(above)):
            tokens = [
                t for c in (above.element_id or "", *(above.classes or ())) for t in _tokens(c)
            ]
            _fill(out, _E["above"], _ABOVE, [above.tag, *tokens])
        _fill(out, _E["near"], _NEAR, _words(label) if not meant else ())
        self._tell(e, out, value)
        for view, (equal, contains, share) in enumerate((own, named, holds, row)):
            at = _E["match"] + 5 * view
            out[at] = float(equal > 0)
            out[at + 1] = float(contains > 0)
            out[at + 2] = _grid(share)
            out[at + 3] = min(equal.bit_count(), 4) / 4
            out[at + 4] = float(
                equal.bit_count() > 0 and equal.bit_count() == len(self.spans.values)
            )
            for i in range(_SLOTS):
                out[_E["slot"] + _SLOTS * view + i] = float((equal | contains) >> i & 1)
        if self.goal is not None:
            self._against(e, raw, text, label, style, own[0] | own[1] | row[0], out)
        self._place(e, index, out)
        self._past(index, item, out)
        # Drawings have colours on live pages alone: they are told by what fits.
        if e.colour and e.tag not in SHAPE_TAGS:
            self._colour(e.colour, out)
        self._figure(e, text, own[0], out)
        for option in e.options:
            if self.spans.match(normalise(option.clear or ""))[0]:
                out[_E["option"]] = 1.0
        return out

    def _tell(self, e: SnapshotElement, out: list[float], value: str) -> None:
        tag = _TAGS.index(e.tag) if e.tag in _TAGS else len(_TAGS)
        out[_E["tag"] + tag] = 1.0
        if e.tag in _FIELD_TAGS:
            kind = e.role if e.role in _KINDS else "field"
            out[_E["kind"] + _KINDS.index(kind)] = 1.0
        for i, state in enumerate(_STATES):
            out[_E["state"] + i] = float(state in e.states)
        out[_E["filled"]] = float(bool(value))
        out[_E["filled"] + 1] = float(e.tag in _FIELD_TAGS and e.role == "textbox" and not value)

    def _against(
        self,
        e: SnapshotElement,
        raw: str,
        text: str,
        label: str,
        style: Sequence[str],
        matched: int,
        out: list[float],
    ) -> None:
        goal = self.goal
        assert goal is not None
        near = [w for w in (*_words(label), *style) if len(w) > 2]
        for i, leading in enumerate(goal.leading[:_SLOTS]):
            out[_E["asked"] + i] = float(any(_akin(w, n) for w in leading for n in near))
        for i, before in enumerate(goal.before):
            if matched >> i & 1:
                out[_E["before"] + _bucket(before, _BEFORE)] = 1.0
        out[_E["style_goal"]] = float(self.spans.told(style))
        out[_E["style_goal"] + 1] = float(any(t in self.spans.words for t in style))
        out[_E["exact"]] = float(raw in self.spans.raw)
        out[_E["starts"]] = float(
            any(v and text.startswith(v) and text != v for v in self.spans.values)
        )
        out[_E["near_match"]] = float(
            bool(text) and len(text) > 2 and f" {text} " in self.spans.joined
        )
        out[_E["near_match"] + 1] = float(self.spans.told(_words(text)))
        number = _compare(text, goal.number)
        if number is not None:
            out[_E["number"] + number] = 1.0
        out[_E["day"]] = float(goal.day is not None and text == str(goal.day))

    def _place(self, e: SnapshotElement, index: int, out: list[float]) -> None:
        nth, total = self.nth[index], self.total[index]
        out[_E["place"] + min(nth, 8) - 1] = 1.0
        out[_E["last_of"]] = float(nth == total)
        out[_E["count"] + min(total, 3) - 1] = 1.0
        if self.goal is not None:
            wanted = self.goal.ordinal or (
                int(self.goal.number) if self.goal.number is not None else None
            )
            out[_E["ordinal"]] = float(nth == wanted)
        if e.box is not None:
            at = _E["box"]
            out[at] = _grid((e.box.x_px - self.left + e.box.width_px / 2) / self.width)
            out[at + 1] = _grid((e.box.y_px - self.top + e.box.height_px / 2) / self.height)
            out[at + 2] = _grid(e.box.width_px / self.width)
            out[at + 3] = _grid(e.box.height_px / self.height)
            out[at + 4] = float(max(e.box.width_px, e.box.height_px) <= 16)

    def _past(self, index: int, item: int | None, out: list[float]) -> None:
        key = self.page.keys[index]
        ops = self.done.get(key, ())
        out[_E["done"]] = float(bool(ops))
        out[_E["done"] + 1] = float(len(ops) > 1)
        out[_E["done"] + 2] = float("type_text" in ops or "select_option" in ops)
        out[_E["done"] + 3] = float(key == self.last_key)
        if self.last_at is not None:
            out[_E["after"]] = float(self.order[index] > self.last_at)
            out[_E["after"] + 1] = float(self.order[index] == self.last_at + 1)
        out[_E["row_done"]] = float(item is not None and item in self.done_rows)
        out[_E["new"]] = float(bool(self.history) and key not in self.before)

    def _colour(self, colour: str, out: list[float]) -> None:
        name, hue = colour_name(colour)
        out[_E["colour"]] = float(name in self.colours)
        out[_E["colour"] + 1] = float(hue is not None and hue in self.colours)
        out[_E["colour"] + 2] = 1.0
        out[_E["colour"] + 3 + list(COLOURS).index(name)] = 1.0

    def _figure(self, e: SnapshotElement, text: str, equal: int, out: list[float]) -> None:
        fitting = self.figures.fitting.get(e.index)
        out[_E["fits"]] = float(fitting is not None)
        out[_E["fits"] + 1] = (fitting or 0) / 4
        if e.tag not in SHAPE_TAGS:
            out[_E["counted"]] = float(self.figures.counted(text))
            out[_E["named"]] = float(self.figures.named(text))
        name = e.element_id or ""
        out[_E["id_told"]] = float(
            len(name) > 2 and not name.isalpha() and name in (self.page.goal_text or "")
        )
        out[_E["last_span"]] = float(bool(equal & self.spans.last))
        for left, right in self.lines.get(e.index, ()):
            if left == right and left is not None:
                out[_E["lined"] + _bucket(left, _LINED)] = 1.0
            elif (left is None) != (right is None):
                out[_E["lined"] + _LINED + _bucket(left or right or "", _LINED)] = 1.0

    def compare(self, rows: Sequence[list[float]]) -> int:
        """Fill in what compares candidates; return how many matching ones are left to do."""
        left = 0
        own, label, row = _E["match"], _E["match"] + 5, _E["match"] + 15
        best = max((out[row + 3] for out in rows), default=0.0)
        items = {
            self.page.items[i]
            for i, out in zip(self.indices, rows, strict=True)
            if out[row + 3] == best > 0
        }
        for out in rows:
            looks = out[_E["colour"]] or out[_E["colour"] + 1] or out[_E["fits"]]
            icon = out[row + 3] == best > 0 and out[_E["style_goal"]] and not out[own]
            matched = out[own] or out[label] or looks or icon or out[_E["meant"]]
            todo = bool(matched) and not out[_E["done"]] and not out[_E["state"]]
            out[_E["left"]] = float(todo)
            left += todo
            out[_E["row_unique"]] = float(out[row + 3] == best > 0)
            out[_E["row_unique"] + 1] = float(out[row + 3] == best > 0 and len(items) == 1)
        return left

    def context(self, left: int, rows: Sequence[list[float]]) -> list[float]:
        out = [0.0] * NUM_GOAL_CONTEXT
        out[_G["bias"]] = 1.0
        goal = self.goal
        if goal is not None:
            words = [w for w in goal.words if w not in self.spans.words]
            _fill(out, _G["goal"], _GOAL, words)
            out[_G["spans"] + min(len(goal.spans), 5)] = 1.0
        if self.history:
            last = self.history[-1]
            if last.op in _OPS:
                out[_G["op"] + _OPS.index(last.op)] = 1.0
            name = normalise(last.name or last.label or "")
            equal, contains, _ = self.spans.match(name)
            out[_G["matched"]] = float(bool(equal | contains))
            told = _words(name) if not equal else ()
            _fill(out, _G["last"], _LAST, [*told, *_tokens(last.style)])
            out[_G["changed"]] = float(self.before != frozenset(self.page.keys.values()))
        out[_G["steps"] + min(len(self.history), 7)] = 1.0
        # "At least so many", so that a number no demonstration has is not like none left.
        out[_G["left"]] = float(not left)
        for i in range(1, 4):
            out[_G["left"] + i] = float(left >= i)
        used = {step.slot for step in self.history}
        held = shown = 0
        following = [normalise(self.page.texts[e.index]) for e in self.page.shown[1:]] + [""]
        for e, after in zip(self.page.shown, following, strict=False):
            value = normalise(e.value.clear or "") if e.value is not None else ""
            held |= self.spans.match(value)[0]
            text = normalise(self.page.texts[e.index])
            shown |= self.spans.match(text)[0]
            if goal is not None:
                number = _compare(value, goal.number)
                if number is not None:
                    out[_G["number"] + number] = 1.0
                month = None
                if goal.month is not None:
                    month = month_of(text) or month_of(f"{text} {after}")
                if month is not None and goal.month is not None:
                    out[_G["month"] + (month > goal.month) - (month < goal.month) + 1] = 1.0
            if e.role == "heading" or e.tag in ("h1", "h2", "h3", "h4", "th", "label"):
                _fill(out, _G["said"], _SAID, _words(text)[:3])
        for i in range(_TRIED):
            out[_G["tried"] + i] = float(f"constant_{i + 1}" in used)
        self._bounds(out)
        for i in range(_SLOTS):
            out[_G["used"] + i] = float(f"goal_{i + 1}" in used)
            out[_G["held"] + i] = float(held >> i & 1)
            out[_G["shown"] + i] = float(shown >> i & 1)
        out[_G["matched"] + 1] = float(any(r[_E["match"]] or r[_E["match"] + 5] for r in rows))
        return out

    def _bounds(self, out: list[float]) -> None:
        """Tell between which small numbers the wanted one lies, by all that was answered so far."""
        told = [normalise(text) for text in self.page.texts.values()]
        told += [key.split("\t")[1] for step in self.history for key in step.screen]
        above, below = -1, _BOUND
        for number, more in filter(None, map(_bound, set(told))):
            if more:
                above = max(above, number)
            else:
                below = min(below, number)
        if above >= 0:
            out[_G["above"] + min(above, _BOUND - 1)] = 1.0
        if below < _BOUND:
            out[_G["below"] + below] = 1.0


@lru_cache(maxsize=16384)
def _bound(text: str) -> tuple[int, bool] | None:
    """Read "higher than 5" as (5, True), "lower than 5" as (5, False), anything else as None."""
    words = _WORD.findall(text)
    numbers = [w for w in words if w.isdigit()]
    if len(numbers) != 1 or int(numbers[0]) >= _BOUND:
        return None
    more, less = bool(_MORE & set(words)), bool(_LESS & set(words))
    return (int(numbers[0]), more) if more != less else None


def meant_by(page: Page, goal: Goal | None, indices: Sequence[int]) -> frozenset[str]:
    """Return which single words on the screen are most like what the instruction names.

    Each named word that does not stand there itself means one of them.
    """
    if goal is None:
        return frozenset()
    offered = {t for i in indices for t in (normalise(page.texts[i]), page.labels[i]) if means(t)}
    wanted = {normalise(span) for span in goal.spans}
    return frozenset(alike(sorted(wanted - offered), sorted(offered - wanted)))


def step_on(page: Page, index: int, op: str, slot: str | None) -> HistoryStep:
    """Return the history entry for an action on an element of `page`."""
    e = page.elements[index]
    return HistoryStep(
        op,
        e.role,
        page.labels.get(index) or None,
        page.texts.get(index) or None,
        slot,
        key=page.keys.get(index, ""),
        screen=frozenset(page.keys.values()),
        style=" ".join((e.tag, e.element_id or "", *(e.classes or ()))),
    )


def encode_goal(
    page: Page,
    vocabulary: tuple[str, ...],
    history: Sequence[HistoryStep],
    *,
    controls: bool,
    meanings: bool = False,
) -> Encoded:
    """Return the numbers of one observation; without any candidate `elements` is empty."""
    goal = read_goal(page.goal_text, vocabulary) if page.goal_text else None
    indices = page.candidates(controls=controls)[:_MAX_CANDIDATES]
    reading = _Reading(page, goal, history, indices, meanings)
    rows = [reading.row(index) for index in indices]
    left = reading.compare(rows)
    x = array("f")
    for row in rows:
        x.extend(row)
    return Encoded(tuple(indices), x, array("f", reading.context(left, rows)))
