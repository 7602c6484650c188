"""UiEvent: one event of a UI log, and the snapshot of the element tree it may refer to.

Source: the attributes follow the reference data model for UI logs of Abb & Rehse (2022): a UI
action with time and user, inside application, window, document and element.
"""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from shared.schemas.base import Digest, Frozen, Record, Text, derive_id

__all__ = [
    "Action",
    "Box",
    "Element",
    "Level",
    "Shown",
    "Snapshot",
    "SnapshotElement",
    "Source",
    "Target",
    "UiEvent",
    "event_id",
]


class Source(StrEnum):
    """Where an event was captured."""

    INPUT = "input"
    WINDOW = "window"
    BROWSER = "browser"
    REPLAY = "replay"


class Action(StrEnum):
    """What the user did."""

    CLICK = "click"
    DOUBLE_CLICK = "double-click"
    EDIT = "edit"  # one field's final value, not its key strokes
    KEY = "key"  # a navigation key: Enter, Tab, Escape, arrows …
    HOT_KEY = "hot-key"  # a key with Control, Alt or Meta
    SELECT = "select"  # an option of a list, or text
    COPY = "copy"
    PASTE = "paste"
    CUT = "cut"
    SCROLL = "scroll"
    HOVER = "hover"  # the pointer rested, and something opened
    FOCUS = "focus"
    NAVIGATE = "navigate"
    OPEN = "open"
    CLOSE = "close"
    FILE = "file"


class Level(StrEnum):
    """How much of an application's texts the user allows to be kept."""

    STRUCTURE = "structure"
    VALUES = "values"


class Box(Frozen):
    """Position and size in CSS pixels of the viewport."""

    x_px: float
    y_px: float
    width_px: float
    height_px: float


class Element(Frozen):
    """The element an event acted on."""

    role: str = Field(description="ARIA role, for example button, textbox, combobox, link, cell")
    element_id: str | None = Field(None, description="stable id, or None")
    selector: str | None = Field(None, description="path of role and position, ids masked")
    name: Text | None = Field(None, description="accessible name")
    label: str | None = Field(None, description="text of the label or column header; always clear")
    box: Box | None = None
    index: int | None = Field(None, description="its index in the snapshot's elements")


class Target(Frozen):
    """What an event happened in, as run marks name it: a browser tab, or a window on a display."""

    endpoint: str = Field(description="browser instance or X display")
    surface: str = Field(description="tab (CDP target id) or window id")


class Shown(Frozen):
    """A visible text that a secret field's value equals; where it stands, never what it is."""

    index: int = Field(description="of the element in the snapshot")
    start: int = Field(description="first character of its text")
    end: int = Field(description="the character behind the last")


class UiEvent(Record):
    """One UI event. Key on the topic: `user_id`."""

    record_type: ClassVar[str] = "ui-event"

    user_id: str
    source: Source
    session: str = Field(description="one start of one source; a replay's file digest")
    seq: Annotated[int, Field(ge=0, description="counts up by one per (source, session)")]
    boot_id: str | None = None
    boottime_ms: int | None = Field(None, description="CLOCK_BOOTTIME; None for replays")
    action: Action
    application: str
    level: Level = Level.STRUCTURE
    window: Text | None = Field(None, description="window title")
    url: Text | None = Field(None, description="full at level values, else origin and masked path")
    document: str | None = Field(None, description="origin and path with ids masked; always clear")
    target: Target | None = None
    element: Element | None = None
    value: Text | None = None
    shown: Shown | None = Field(None, description="of a secret field: its value stands there")
    keys: str | None = Field(None, description="a navigation key or hot-key, as in Control+C")
    activity: str | None = Field(
        None, description="replay: what the log's recorder called the action, where not as we do"
    )
    count: int | None = Field(None, description="key strokes or scroll steps merged into this")
    snapshot: Digest | None = Field(None, description="the element tree before the action")
    demonstration: str | None = Field(None, description="teaching: the name of what is shown")
    showing: int | None = Field(None, description="teaching: counts its demonstrations, from 1")


def event_id(user_id: str, source: Source, session: str, seq: int) -> str:
    """Return the id of the event at this place."""
    return derive_id(user_id, source.value, session, seq)


class SnapshotElement(Frozen):
    """One visible element of a snapshot."""

    index: int
    parent: int | None = None
    role: str
    tag: str = ""
    element_id: str | None = None
    name: Text | None = None
    label: str | None = None
    text: Text | None = Field(None, description="own text, without its children's")
    value: Text | None = Field(None, description="of a field; a password field has none")
    states: tuple[str, ...] = Field((), description="checked disabled focused required expanded …")
    options: tuple[Text, ...] = Field((), description="of a native select")
    classes: tuple[str, ...] | None = Field(None, description="style classes, ids masked")
    colour: str | None = Field(None, description="of what shows no text: rgb(0, 0, 0)")
    box: Box | None = None


class Snapshot(Frozen):
    """The visible element tree at one instant, in document order. An artifact, not a record."""

    schema_version: int = 1
    application: str
    level: Level
    document: str | None = None
    title: Text | None = None
    elements: tuple[SnapshotElement, ...]
