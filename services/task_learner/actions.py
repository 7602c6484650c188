"""UI events -> normalised actions: the words that mining counts, with their values kept apart.

A token never holds a text that is data (a link's, a cell's, a row's); numbers, dates and ids are
masked in what it does hold. Reads and writes nothing.

Does not cover: choosing which link texts are controls after all (`segment.Vocabulary`).
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from shared.schemas import Action, Digest, Level, Target, Text, UiEvent

__all__ = [
    "DATA_ROLES",
    "Collapse",
    "Token",
    "UserAction",
    "collapse",
    "is_data",
    "lowest_level",
    "mask",
    "needs_place",
    "normalise",
    "record_of",
    "target_key",
    "value_of",
]

DATA_ROLES = frozenset(
    {
        "", "article", "cell", "generic", "gridcell", "heading", "image", "img", "link", "listitem",
        "option", "paragraph", "row", "rowheader", "statictext", "text", "treeitem",
    }
)  # fmt: skip
"""ARIA roles whose text is content rather than the name of a control."""

_TYPED_IN = frozenset({"textbox", "searchbox", "spinbutton"})
_ENTERING = frozenset({Action.EDIT, Action.PASTE, Action.SELECT})
_DROPPED = frozenset({Action.FOCUS, Action.SCROLL, Action.COPY, Action.CUT, Action.CLOSE})
_KEPT_KEYS = frozenset({"Enter"})  # the others move a caret or a focus
_CLIPBOARD = frozenset("acvxyz")
_CLICKS = frozenset({Action.CLICK, Action.DOUBLE_CLICK})
_DOUBLED_MS = 300  # one press logged twice
_DOUBLE_CLICK_MS = 1_000
_CAUSED_MS = 3_000  # a page that loads this soon after an action is its consequence

_IDS = re.compile(
    r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"  # UUID
    r"|(?=[0-9a-fA-F]*\d)[0-9a-fA-F]{12,}"  # digest
    r"|\d+(?:[-./:]\d+)*"  # number, date, time, version
)


class Token(NamedTuple):
    """What makes two actions the same step."""

    application: str
    document: str
    role: str
    label: str  # label or control name; for data the column header or the place in the tree
    action: str


@dataclass(slots=True)
class UserAction:
    """One action of the log: its event, its token and what became of the screen after it."""

    position: int
    event: UiEvent
    token: Token
    text: str | None = None  # of a data element; may turn out to be a control's name
    after: Digest | None = None  # first later snapshot of the same target
    settled: bool = False  # `after` is final
    after_place: tuple[tuple[str, str, int], ...] = ()  # of the event that saw it


class Collapse(StrEnum):
    """What a new action does to the one before it."""

    KEEP = "keep"
    REPLACE = "replace"
    DROP = "drop"


@lru_cache(maxsize=4096)
def mask(text: str) -> str:
    """Return `text` with numbers, dates and ids replaced by #, white space collapsed."""
    return " ".join(_IDS.sub("#", text).split())


def normalise(event: UiEvent, place: str | None = None) -> tuple[Token, str | None] | None:
    """Return the event's token and its data text, or None for an event that is no step.

    `place` says where in the tree the element is (`dataflow.Screen.place`), if that is known.
    """
    if event.action in _DROPPED or not _kept_key(event):
        return None
    element = event.element
    role = element.role.lower() if element is not None else ""
    label, text = "", None
    if element is not None:
        name = element.name
        if element.label:
            label = mask(element.label)
        elif role not in DATA_ROLES and name is not None and name.clear:
            label = mask(name.clear)
        elif place or element.selector:
            label = "@" + mask(place or element.selector or "")
        elif element.element_id:
            label = "@" + mask(element.element_id)
        if role in DATA_ROLES and name is not None and event.action in _CLICKS:
            text = name.clear
    action = Action.EDIT if event.action is Action.PASTE else event.action
    word = f"{action.value} {event.keys}" if event.keys else action.value
    return Token(event.application, mask(event.document or ""), role, label, word), text


def collapse(previous: UserAction, event: UiEvent, token: Token) -> Collapse:
    """Say whether `event` adds to `previous`, the user's last action, stands for it, or doubles it.

    A field's repeated edits are one, with the last value; a click that opens what is then edited,
    or moves the caret in it, and the clicks of a double-click, are part of it; a page load that an
    action caused is no step. Each option chosen in a list is one.
    """
    before = previous.event
    if before.target != event.target:
        return Collapse.KEEP
    lag_ms = event.time_ms - before.time_ms
    if event.action is Action.NAVIGATE:
        caused = before.action is not Action.NAVIGATE and lag_ms <= _CAUSED_MS
        return Collapse.DROP if caused or previous.token == token else Collapse.KEEP
    same_place = previous.token[:4] == token[:4] and _same_element(before, event)
    if not same_place:
        return Collapse.KEEP
    if event.action in _ENTERING and (before.action in _ENTERING or before.action in _CLICKS):
        return Collapse.KEEP if _is_another_option(before, event) else Collapse.REPLACE
    if event.action in _CLICKS and before.action in _ENTERING and token.role in _TYPED_IN:
        return Collapse.DROP  # it moves the caret
    if event.action is Action.DOUBLE_CLICK and before.action is Action.CLICK:
        return Collapse.REPLACE if lag_ms <= _DOUBLE_CLICK_MS else Collapse.KEEP
    if before.action is event.action and event.action in _CLICKS and lag_ms <= _DOUBLED_MS:
        return Collapse.DROP
    return Collapse.KEEP


def _is_another_option(before: UiEvent, event: UiEvent) -> bool:
    """Tell whether two options of a list were chosen that can have several."""
    in_list = event.element is not None and event.element.role.lower() == "listbox"
    both = before.action is event.action is Action.SELECT
    return in_list and both and before.value != event.value


def value_of(event: UiEvent) -> Text | None:
    """Return the value the step carries: what was entered or chosen, or clicked data's text."""
    if event.action in _ENTERING:
        return event.value
    if event.element is not None and (is_data(event) or _is_choice(event)):
        return event.element.name
    return None


def _is_choice(event: UiEvent) -> bool:
    """Tell whether one of a labelled group of alternatives was chosen: its name is the value."""
    element = event.element
    return (
        event.action in _CLICKS and element is not None and bool(element.label)
        and element.role.lower() == "radio"
    )  # fmt: skip


def record_of(event: UiEvent) -> str:
    """Return the numbers and ids in what the event acted on: they name the record; '' for none."""
    element = event.element
    place = (element.selector or "") if element is not None and is_data(event) else ""
    return " ".join(_IDS.findall(f"{event.document or ''} {place}"))


def needs_place(event: UiEvent) -> bool:
    """Tell whether only its place can tell what the event acted on from other data."""
    element = event.element
    return (
        is_data(event) and element is not None and not element.label and not element.selector
        and element.index is not None and event.snapshot is not None
    )  # fmt: skip


def is_data(event: UiEvent) -> bool:
    """Tell whether the event clicked on content rather than on a control."""
    element = event.element
    return event.action in _CLICKS and element is not None and element.role.lower() in DATA_ROLES


def target_key(target: Target | None) -> str:
    """Return a target as one hashable text; '' for none."""
    return f"{target.endpoint}\n{target.surface}" if target is not None else ""


def lowest_level(events: list[UiEvent]) -> Level:
    """Return the level that all events have at least."""
    structure = any(event.level is Level.STRUCTURE for event in events)
    return Level.STRUCTURE if structure else Level.VALUES


def _kept_key(event: UiEvent) -> bool:
    if event.action is Action.KEY:
        return event.keys in _KEPT_KEYS
    if event.action is Action.HOT_KEY:
        return (event.keys or "").rsplit("+", 1)[-1].lower() not in _CLIPBOARD
    return True


def _same_element(first: UiEvent, second: UiEvent) -> bool:
    a, b = first.element, second.element
    if a is None or b is None:
        return a is b
    return (
        a.element_id == b.element_id
        and a.selector == b.selector
        and (is_data(first) is False or a.name == b.name)
    )
