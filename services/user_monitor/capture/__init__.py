"""What a source of UI events is, and what it hands over.

A source yields `RawCapture`s: unfiltered candidates that live in memory only. Nothing here is
fit for a disk, a log line or a metric before `services.user_monitor.privacy` has turned it into
a UiEvent. Values of secret fields (passwords, card numbers, one-time codes) are the exception:
a source never even reads them.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from shared.clock import Clock
from shared.schemas.base import Text
from shared.schemas.raw_events import Action, Box, Shown, Target
from shared.schemas.raw_events import Source as SourceKind

__all__ = [
    "BrowserSpec",
    "InputSpec",
    "LogFormat",
    "RawCapture",
    "RawElement",
    "RawSnapshot",
    "RawText",
    "ReplaySpec",
    "Source",
    "SourceKind",
    "SourceSpec",
    "WindowSpec",
    "is_control",
    "open_source",
]

RawText = str | Text
"""What a screen shows; a replayed log may hold a Text that was redacted when it was recorded."""


_CONTROLS = frozenset((
    "button", "checkbox", "columnheader", "combobox", "listbox", "menu", "menubar", "menuitem",
    "menuitemcheckbox", "menuitemradio", "radio", "radiogroup", "search", "searchbox",
    "slider", "spinbutton", "switch", "tab", "tablist", "textbox", "toolbar",
))  # fmt: skip


def is_control(role: str) -> bool:
    """Say whether the name of an element of this role names a control, not data."""
    return role in _CONTROLS


@dataclass(frozen=True)
class RawElement:
    """One element as the screen shows it; `index` and `parent` are places in its snapshot."""

    untrusted_role: str
    index: int | None = None  # None where the source takes no snapshot
    parent: int | None = None
    untrusted_tag: str = ""
    untrusted_id: str | None = None
    untrusted_selector: str | None = None
    untrusted_name: RawText | None = None
    name_is_control: bool = False  # the name belongs to a control: button, menu item, tab, field
    untrusted_label: str | None = None
    label_is_data: bool = False  # a row's header: as often whose row it is as what the row is
    untrusted_text: RawText | None = None  # own text, without its children's
    untrusted_value: RawText | None = None  # of a field, before the action; None where is_secret
    is_secret: bool = False
    states: tuple[str, ...] = ()
    untrusted_options: tuple[RawText, ...] = ()
    untrusted_classes: tuple[str, ...] = ()
    untrusted_colour: str | None = None  # of what shows nothing else: rgb(0, 0, 0)
    box: Box | None = None


@dataclass(frozen=True)
class RawSnapshot:
    """The visible element tree before an action; application, title and URL are its capture's."""

    elements: tuple[RawElement, ...]


@dataclass(frozen=True)
class RawCapture:
    """One candidate event, in memory only."""

    action: Action
    untrusted_application: str
    time_ms: int  # of the action, not of its arrival
    boottime_ms: int | None = None  # None for replays
    untrusted_title: RawText | None = None
    untrusted_url: RawText | None = None
    element: RawElement | None = None
    untrusted_value: RawText | None = None  # typed text, chosen option, copied text; None if secret
    untrusted_activity: str | None = None  # of a replay: what its recorder called the action
    shown: Shown | None = None  # where a secret value stands on the screen for all to see
    keys: str | None = None  # as UI Events KeyboardEvent.key, modifiers first: Control+C
    count: int | None = None  # key strokes or scroll steps merged into this
    target: Target | None = None
    snapshot: RawSnapshot | None = None
    caused: bool = False  # a navigation that follows from the event before it
    demonstration: str | None = None  # of a replay: as it was taught when it was recorded
    showing: int | None = None


class Source(Protocol):
    """Something that can be watched."""

    kind: SourceKind
    session: str  # new and random at each start; a replay's = hash(file digest, `as_user`)

    def captures(self) -> AsyncIterator[RawCapture]:
        """Yield events in order, once; end with the log (replay) or with `close`.

        Errors: CaptureError where the source can no longer see everything.
        """

    async def close(self) -> None:
        """Stop watching and let `captures` end. Closing twice is harmless."""


@dataclass(frozen=True)
class BrowserSpec:
    """Watch a Chromium: one that is launched over a pipe, or with `attach_url` a running one."""

    profile_dir: Path | None = None  # needed to launch; created 0700
    start_url: str | None = None
    attach_url: str | None = None  # http://127.0.0.1:9222: needs consent by name, see privacy.md
    executable: str | None = None  # None: looked for on PATH
    headless: bool = False


@dataclass(frozen=True)
class InputSpec:
    """Watch mouse and keyboard of an X display; no characters are read."""

    display: str | None = None  # None: $DISPLAY


@dataclass(frozen=True)
class WindowSpec:
    """Watch which window of an X display is active."""

    display: str | None = None
    poll_ms: int = 250


@dataclass(frozen=True)
class ReplaySpec:
    """Read a recorded UI log in one of `replay.FORMATS`, packed or not."""

    path: Path | None = None
    content: bytes | None = None  # instead of a path: it stays in memory, unfiltered as it is
    columns: Mapping[str, str] | None = None  # field of a capture -> name of its column
    as_user: str | None = None  # replay the same file as several people
    speed: float = 0.0  # 1 keeps the log's pauses, 0 leaves them out
    log_format: str | None = None  # None: csv where there are columns, else jsonl
    by_time: bool = False  # the earliest event first; else the file's order


LogFormat = Callable[[BinaryIO, Mapping[str, str] | None], Iterator[RawCapture]]
"""A recorded log's format: unpacked bytes and a column map in, captures out.

It raises CaptureError at the first line that cannot be read, and ConfigError for a column map that
does not fit. Snapshots travel in their captures; no label of a case or task may be in either.
"""

SourceSpec = BrowserSpec | InputSpec | WindowSpec | ReplaySpec


async def open_source(spec: SourceSpec, clock: Clock) -> Source:
    """Open the source that `spec` describes; it watches from then on.

    Errors: NoBrowser, NoDisplay, CaptureError (a log that cannot be read).
    """
    # Platform libraries load here: pynput fails to import where there is no display.
    match spec:
        case BrowserSpec():
            from services.user_monitor.capture.browser import BrowserSource

            return await BrowserSource.open(spec, clock)
        case InputSpec():
            from services.user_monitor.capture.input import InputSource

            return await InputSource.open(spec, clock)
        case WindowSpec():
            from services.user_monitor.capture.window import WindowSource

            return await WindowSource.open(spec, clock)
        case ReplaySpec():
            from services.user_monitor.capture.replay import ReplaySource

            return await ReplaySource.open(spec, clock)
