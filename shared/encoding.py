"""Turn what stands on the screen, the record being worked on and the steps done into numbers.

The trainer and the runner call the same function, so equal screens give equal numbers. Nothing
here looks at element ids, classes, positions or the order of siblings: an application may shuffle
all of them between watching and acting. Text is hashed with CRC-32, never with `hash()`.

Reads and writes nothing. Not covered: images, and texts that are kept as keyed hashes only. Longer
than most files: the places of the numbers and what fills them must be read together.
"""

import re
import zlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from shared.schemas import Snapshot, SnapshotElement, Text

__all__ = [
    "ENCODING_VERSION",
    "FIELD_ROLES",
    "HASHED_CONTEXT_FEATURES",
    "HASHED_ELEMENT_FEATURES",
    "MAX_CANDIDATES",
    "MAX_SLOTS",
    "NUM_CONTEXT_FEATURES",
    "NUM_ELEMENT_FEATURES",
    "Encoded",
    "HistoryStep",
    "Tree",
    "at_words",
    "candidate_of",
    "encode",
    "label_of",
    "normalise",
    "path_of",
    "step_of",
]

ENCODING_VERSION = 1
MAX_CANDIDATES = 512  # equals shared.manifest.MAX_ELEMENTS; a test compares
MAX_SLOTS = 16

FIELD_ROLES = frozenset((
    "textbox", "searchbox", "combobox", "listbox", "spinbutton", "checkbox", "radio", "switch",
    "slider",
))  # fmt: skip
_OTHER_CONTROLS = frozenset((
    "button", "link", "tab", "option", "treeitem", "menuitem", "menuitemcheckbox",
    "menuitemradio",
))  # fmt: skip
_CONTROL_ROLES = FIELD_ROLES | _OTHER_CONTROLS
_ITEM_ROLES = frozenset(("row", "listitem"))  # what a list repeats
_DATA_ROLES = frozenset(("link", "option", "treeitem")) | _ITEM_ROLES
_ROLES = (*sorted(_CONTROL_ROLES), *sorted(_ITEM_ROLES))
_STATES = ("checked", "selected", "disabled", "required", "expanded", "readonly", "invalid")
_PLACES = ("row", "dialog", "form", "navigation")
_OPS = ("click", "double_click", "type_text", "select_option", "press_key")
_SPEAKING_ROLES = frozenset(("heading", "status", "alert"))  # they say what state a page is in

_WORDS, _WHOLE = 96, 64  # hash buckets of a control's words and of its whole label
_PATH, _LAST, _PAST, _SAID = 32, 48, 64, 48  # hash buckets of the context

# Offsets into one element's features.
_AT_ROLE = 0
_AT_STATE = _AT_ROLE + len(_ROLES)
_AT_FILLED = _AT_STATE + len(_STATES)
_AT_PLACE = _AT_FILLED + 2
_AT_PAST = _AT_PLACE + len(_PLACES)
_AT_ROW = _AT_PAST + len(_OPS) + 1
_AT_WORDS = _AT_ROW + 3
_AT_WHOLE = _AT_WORDS + _WORDS
_AT_EQUAL = _AT_WHOLE + _WHOLE
_AT_CONTAINS = _AT_EQUAL + MAX_SLOTS
_AT_HOLDS = _AT_CONTAINS + MAX_SLOTS
_AT_ROW_EQUAL = _AT_HOLDS + MAX_SLOTS
_AT_ROW_CONTAINS = _AT_ROW_EQUAL + MAX_SLOTS
_AT_OPTION = _AT_ROW_CONTAINS + MAX_SLOTS
NUM_ELEMENT_FEATURES = _AT_OPTION + MAX_SLOTS

# Offsets into the context's features.
_G_PATH = 0
_G_WHOLE_PATH = _G_PATH + _PATH
_G_GIVEN = _G_WHOLE_PATH + _PATH
_G_USED = _G_GIVEN + MAX_SLOTS
_G_HELD = _G_USED + MAX_SLOTS
_G_SHOWN = _G_HELD + MAX_SLOTS
_G_LAST_OP = _G_SHOWN + MAX_SLOTS
_G_LAST_WORDS = _G_LAST_OP + len(_OPS)
_G_PAST = _G_LAST_WORDS + _LAST
_G_SAID = _G_PAST + _PAST
_G_DIALOG = _G_SAID + _SAID
_G_ALERT = _G_DIALOG + 1
_G_STEPS = _G_ALERT + 1
NUM_CONTEXT_FEATURES = _G_STEPS + 1

HASHED_ELEMENT_FEATURES = range(_AT_WORDS, _AT_EQUAL)
HASHED_CONTEXT_FEATURES = range(_G_LAST_WORDS, _G_DIALOG)
"""Where words were hashed to: what a policy should not lean on one by one."""

_WORD = re.compile(r"[^\W\d_]+|\d+")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class HistoryStep:
    """One step that was done, with its element as it was at that time."""

    op: str  # one of shared.manifest.OPS
    role: str
    label: str | None = None
    name: str | None = None
    slot: str | None = None
    key: str = ""  # encoding 4: what the element is known by, and all of the screen's
    screen: frozenset[str] = frozenset()
    style: str = ""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Numbers of one observation: N candidates with F features each, G features of the context."""

    elements: tuple[int, ...]  # indices in the snapshot, one for each row of x
    x: "array[float]"  # f32, N * F, row after row
    g: "array[float]"  # f32, G


@lru_cache(maxsize=8192)
def normalise(text: str) -> str:
    """Return `text` for comparing: case folded, white space collapsed."""
    return _SPACE.sub(" ", text).strip().casefold()


@lru_cache(maxsize=8192)
def _bucket(text: str, buckets: int) -> int:
    return zlib.crc32(text.encode()) % buckets


@lru_cache(maxsize=8192)
def _words(text: str) -> tuple[str, ...]:
    return tuple("0" if w[0].isdigit() else w for w in _WORD.findall(text))


def _clear(text: Text | None) -> str:
    return normalise(text.clear) if text is not None and text.clear else ""


def path_of(document: str | None) -> str:
    """Return a document's path without its origin: an application may move to another port."""
    rest = (document or "").split("://", 1)[-1]
    return "/" + rest.split("/", 1)[1] if "/" in rest else "/"


def label_of(element: SnapshotElement) -> str:
    """Return what a person calls the control: its label, else its name, else its own text."""
    return normalise(element.label or "") or _clear(element.name) or _clear(element.text)


class Tree:
    """A snapshot's elements by index, with their parents' chains."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.elements = {e.index: e for e in snapshot.elements}
        self.children: dict[int, list[int]] = {}
        for element in snapshot.elements:
            if element.parent is not None and element.parent in self.elements:
                self.children.setdefault(element.parent, []).append(element.index)
        self.candidates = tuple(e.index for e in snapshot.elements if self._is_candidate(e))

    def ancestors(self, index: int) -> list[SnapshotElement]:
        """Return an element's ancestors, the nearest first."""
        found: list[SnapshotElement] = []
        seen = {index}
        parent = self.elements[index].parent
        while parent is not None and parent in self.elements and parent not in seen:
            seen.add(parent)
            found.append(self.elements[parent])
            parent = self.elements[parent].parent
        return found

    def descendants(self, index: int) -> list[SnapshotElement]:
        """Return an element's descendants; a chain of parents that loops is cut."""
        found: list[SnapshotElement] = []
        seen = {index}
        waiting = list(self.children.get(index, ()))
        while waiting:
            child = waiting.pop()
            if child not in seen:
                seen.add(child)
                found.append(self.elements[child])
                waiting.extend(self.children.get(child, ()))
        return found

    def item_of(self, index: int) -> int | None:
        """Return the nearest row or list item that the element is or is in."""
        for element in (self.elements[index], *self.ancestors(index)):
            if element.role in _ITEM_ROLES:
                return element.index
        return None

    def _is_candidate(self, element: SnapshotElement) -> bool:
        if element.role == "option":
            parent = self.elements.get(element.parent if element.parent is not None else -1)
            return parent is None or not parent.options  # a native select is acted on as a whole
        if element.role in _CONTROL_ROLES:
            return True
        if element.role not in _ITEM_ROLES:
            return False
        roles = {e.role for e in self.descendants(element.index)}
        return not roles & (_CONTROL_ROLES | _ITEM_ROLES | {"columnheader"})


def candidate_of(snapshot: Snapshot, index: int, tree: Tree | None = None) -> int | None:
    """Return the candidate that stands for element `index`: itself, what it is in, or its row's.

    None where nothing an agent can act on stands for it.
    """
    tree = tree or Tree(snapshot)
    if index not in tree.elements:
        return None
    candidates = set(tree.candidates)
    for element in (tree.elements[index], *tree.ancestors(index)):
        if element.index in candidates:
            return element.index
    item = tree.item_of(index)
    inside = [e.index for e in tree.descendants(item)] if item is not None else []
    acting = [i for i in inside if i in candidates]
    return acting[0] if len(acting) == 1 else None


def step_of(element: SnapshotElement, op: str, slot: str | None = None) -> HistoryStep:
    """Return the history entry for an action on `element` as it was before the action."""
    name = element.name or element.text
    return HistoryStep(op, element.role, element.label, name.clear if name else None, slot)


class _Slots:
    """The record's values, prepared for comparing; a result is a pair of slot bit sets."""

    def __init__(self, slots: Sequence[tuple[str, str]]) -> None:
        self.names = {name: i for i, (name, _) in enumerate(slots[:MAX_SLOTS])}
        self.values = [normalise(value) for _, value in slots[:MAX_SLOTS]]
        self._seen: dict[str, tuple[int, int]] = {"": (0, 0)}

    def match(self, text: str) -> tuple[int, int]:
        """Return (slots whose value `text` equals, slots whose value it contains as words)."""
        if text not in self._seen:
            equal = contains = 0
            for i, value in enumerate(self.values):
                if value and value == text:
                    equal |= 1 << i
                elif value and value in text and at_words(value, text):
                    contains |= 1 << i
            self._seen[text] = (equal, contains)
        return self._seen[text]

    def words(self, text: str) -> tuple[str, ...]:
        """Return the words of `text` without those of the record's values."""
        equal, contains = self.match(text)
        if equal:
            return ()
        for i in _bits(contains):
            text = text.replace(self.values[i], " ")
        return _words(text)


def at_words(value: str, text: str) -> bool:
    """Tell whether `value` stands in `text` with no letter or digit right beside it."""
    at = text.find(value)
    while at >= 0:
        end = at + len(value)
        if not (at and text[at - 1].isalnum()) and not (end < len(text) and text[end].isalnum()):
            return True
        at = text.find(value, at + 1)
    return False


def _bits(mask: int) -> Iterable[int]:
    return (i for i in range(mask.bit_length()) if mask >> i & 1)


def _past(history: Sequence[HistoryStep]) -> Mapping[tuple[str, str, str], set[str]]:
    """Map (role, label, name) to the operations done on it; the last step's has "last" too."""
    done: dict[tuple[str, str, str], set[str]] = {}
    for i, step in enumerate(history):
        key = (step.role, normalise(step.label or ""), normalise(step.name or ""))
        done.setdefault(key, set()).add(step.op)
        if i == len(history) - 1:
            done[key].add("last")
    return done


class _Screen:
    """One snapshot against one record; holds what several features need."""

    def __init__(self, snapshot: Snapshot, slots: _Slots) -> None:
        self.tree = Tree(snapshot)
        self.slots = slots
        self.texts = {
            e.index: _clear(e.name) or _clear(e.text) or normalise(e.label or "")
            for e in snapshot.elements
        }
        self.values = {e.index: _clear(e.value) for e in snapshot.elements}
        self._items: dict[int, tuple[int, int]] = {}
        self._shown: dict[str, set[int]] | None = None

    def item_match(self, index: int) -> tuple[int, int]:
        """Return the slots that a cell of the element's row equals, and those its row contains."""
        item = self.tree.item_of(index)
        if item is None:
            return 0, 0
        if item not in self._items:
            equal = contains = 0
            for element in (self.tree.elements[item], *self.tree.descendants(item)):
                for text in (_clear(element.name), _clear(element.text)):
                    found = self.slots.match(text)
                    equal |= found[0]
                    contains |= found[1]
            self._items[item] = equal, contains
        return self._items[item]

    def candidates(self) -> tuple[int, ...]:
        """Return at most MAX_CANDIDATES, those that show one of the record's values first."""
        found = self.tree.candidates
        if len(found) > MAX_CANDIDATES:
            rank = {i: not any(self.item_match(i) + self.slots.match(self.texts[i])) for i in found}
            field = {i: self.tree.elements[i].role not in FIELD_ROLES for i in found}
            found = tuple(sorted(sorted(found, key=lambda i: (rank[i], field[i]))[:MAX_CANDIDATES]))
        return found

    def row(self, index: int, past: Mapping[tuple[str, str, str], set[str]]) -> list[float]:
        """Return one candidate's features; those that compare candidates are left 0."""
        element = self.tree.elements[index]
        out = [0.0] * NUM_ELEMENT_FEATURES
        out[_AT_ROLE + _ROLES.index(element.role)] = 1.0
        for i, state in enumerate(_STATES):
            out[_AT_STATE + i] = float(state in element.states)
        value = self.values[index]
        out[_AT_FILLED] = float(bool(value))
        out[_AT_FILLED + 1] = float(bool(element.options))
        self._place(index, out)
        key = (element.role, normalise(element.label or ""), _clear(element.name or element.text))
        done = past.get(key, ())
        for i, op in enumerate((*_OPS, "last")):
            out[_AT_PAST + i] = float(op in done)
        text = self.texts[index]
        label = normalise(element.label or "")
        named = text != label and not self._is_data(index, text)
        words = (*self.slots.words(label), *(self.slots.words(text) if named else ()))
        for word in words:
            out[_AT_WORDS + _bucket(word, _WORDS)] = 1.0
        if words:
            out[_AT_WHOLE + _bucket(" ".join(words), _WHOLE)] = 1.0
        self._match_slots(index, text, value, out)
        return out

    def _is_data(self, index: int, text: str) -> bool:
        """Tell whether the text is content: what stands in one item of a list and in no other."""
        item = self.tree.item_of(index)
        if item is None or self.tree.elements[index].role not in _DATA_ROLES:
            return False
        if any(e.role == "navigation" or e.tag == "nav" for e in self.tree.ancestors(item)):
            return False
        return len(self._items_showing().get(text, ())) < 2

    def _items_showing(self) -> dict[str, set[int]]:
        if self._shown is None:
            self._shown = {}
            for candidate in self.tree.candidates:
                item = self.tree.item_of(candidate)
                if item is not None:
                    self._shown.setdefault(self.texts[candidate], set()).add(item)
        return self._shown

    def _place(self, index: int, out: list[float]) -> None:
        inside = {e.role for e in self.tree.ancestors(index)}
        tags = {e.tag for e in self.tree.ancestors(index)}
        where = (
            bool(inside & _ITEM_ROLES),
            bool(inside & {"dialog", "alertdialog"}),
            "form" in inside or "form" in tags,
            "navigation" in inside or "nav" in tags,
        )
        out[_AT_PLACE : _AT_PLACE + len(where)] = map(float, where)

    def _match_slots(self, index: int, text: str, value: str, out: list[float]) -> None:
        element = self.tree.elements[index]
        equal, contains = self.slots.match(text)
        holds, _ = self.slots.match(value)
        row_equal, row_contains = self.item_match(index)
        option = 0
        for choice in element.options:
            option |= self.slots.match(_clear(choice))[0]
        for at, mask in (
            (_AT_EQUAL, equal),
            (_AT_CONTAINS, contains),
            (_AT_HOLDS, holds),
            (_AT_ROW_EQUAL, row_equal),
            (_AT_ROW_CONTAINS, row_contains),
            (_AT_OPTION, option),
        ):
            for i in _bits(mask):
                out[at + i] = 1.0

    def compare(self, elements: Sequence[int], rows: Sequence[list[float]]) -> None:
        """Fill in how a candidate's row compares with the other rows."""
        counts = [self.item_match(i)[0].bit_count() for i in elements]
        most = max(counts, default=0)
        best = {self.tree.item_of(i) for i, n in zip(elements, counts, strict=True) if n == most}
        for n, out in zip(counts, rows, strict=True):
            out[_AT_ROW] = min(n, 4) / 4
            out[_AT_ROW + 1] = float(n > 0 and n == most)
            out[_AT_ROW + 2] = float(n > 0 and n == most and len(best) == 1)

    def context(self, path: str, history: Sequence[HistoryStep]) -> list[float]:
        """Return the context's features."""
        out = [0.0] * NUM_CONTEXT_FEATURES
        for word in _words(path):
            out[_G_PATH + _bucket(word, _PATH)] = 1.0
        out[_G_WHOLE_PATH + _bucket(" ".join(_words(path)), _PATH)] = 1.0
        for i, value in enumerate(self.slots.values):
            out[_G_GIVEN + i] = float(bool(value))
        held = shown = 0
        for index, element in self.tree.elements.items():
            held |= self.slots.match(self.values[index])[0]
            if element.role not in FIELD_ROLES:
                shown |= self.slots.match(_clear(element.text) or _clear(element.name))[0]
        for i in range(len(self.slots.values)):
            out[_G_HELD + i] = float(held >> i & 1)
            out[_G_SHOWN + i] = float(shown >> i & 1)
        self._remember(history, out)
        self._listen(out)
        return out

    def _remember(self, history: Sequence[HistoryStep], out: list[float]) -> None:
        for step in history:
            if step.slot in self.slots.names:
                out[_G_USED + self.slots.names[step.slot]] = 1.0
            words = self._step_words(step)
            out[_G_PAST + _bucket(" ".join((step.op, *words)), _PAST)] = 1.0
        if history:
            last = history[-1]
            if last.op in _OPS:
                out[_G_LAST_OP + _OPS.index(last.op)] = 1.0
            for word in self._step_words(last):
                out[_G_LAST_WORDS + _bucket(word, _LAST)] = 1.0
        out[_G_STEPS] = min(len(history), 32) / 32

    def _step_words(self, step: HistoryStep) -> tuple[str, ...]:
        label, name = normalise(step.label or ""), normalise(step.name or "")
        return (
            *self.slots.words(label),
            *(self.slots.words(name) if name != label else ()),
        )

    def _listen(self, out: list[float]) -> None:
        for index, element in self.tree.elements.items():
            if element.role in _SPEAKING_ROLES:
                for word in self.slots.words(self.texts[index]):
                    out[_G_SAID + _bucket(word, _SAID)] = 1.0
            if element.role in ("dialog", "alertdialog"):
                out[_G_DIALOG] = 1.0
            if element.role == "alert":
                out[_G_ALERT] = 1.0


def encode(
    snapshot: Snapshot, slots: Sequence[tuple[str, str]], history: Sequence[HistoryStep]
) -> Encoded:
    """Return the numbers of one observation.

    `slots` are (name, value) in the manifest's order; `history` the steps done, oldest first.
    Without any candidate `elements` and `x` are empty.
    """
    screen = _Screen(snapshot, _Slots(slots))
    elements = screen.candidates()
    past = _past(history)
    rows = [screen.row(index, past) for index in elements]
    screen.compare(elements, rows)
    x = array("f")
    for row in rows:
        x.extend(row)
    return Encoded(elements, x, array("f", screen.context(path_of(snapshot.document), history)))
