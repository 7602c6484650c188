"""Reads a recorded UI log as a source: our own JSON lines, or a CSV with a column map.

Reads: one file, or its bytes. Writes nothing. A JSON line is a UiEvent, or a snapshot that later
events refer to: `{"digest": …, "snapshot": …}`. What was redacted in the log stays as it is.
Does not cover: logs in XES or other formats.
"""

import asyncio
import csv
import hashlib
import io
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from typing import Self

from pydantic import ValidationError

from services.user_monitor.capture import (
    RawCapture,
    RawElement,
    RawSnapshot,
    RawText,
    ReplaySpec,
    SourceKind,
)
from shared.clock import Clock
from shared.errors import CaptureError, ConfigError
from shared.schemas import Snapshot, SnapshotElement, Text, UiEvent, derive_id
from shared.schemas.raw_events import Action

__all__ = ["CSV_FIELDS", "ReplaySource", "is_control"]

_CONTROLS = frozenset((
    "button", "checkbox", "columnheader", "combobox", "listbox", "menu", "menubar", "menuitem",
    "menuitemcheckbox", "menuitemradio", "radio", "radiogroup", "rowheader", "search", "searchbox",
    "slider", "spinbutton", "switch", "tab", "tablist", "textbox", "toolbar",
))  # fmt: skip

CSV_FIELDS = (
    "time", "action", "application", "title", "url", "value", "keys", "role", "id", "name", "label",
)  # fmt: skip
"""What a column map may name; a column `a|b` is the first of both that is not empty."""

_ACTIONS: tuple[tuple[str, Action], ...] = (
    ("doubleclick", Action.DOUBLE_CLICK),
    ("click", Action.CLICK), ("mouse", Action.CLICK), ("press", Action.CLICK),
    ("edit", Action.EDIT), ("type", Action.EDIT), ("change", Action.EDIT), ("input", Action.EDIT),
    ("hotkey", Action.HOT_KEY), ("key", Action.KEY),
    ("copy", Action.COPY), ("paste", Action.PASTE), ("cut", Action.CUT),
    ("getcell", Action.SELECT), ("getrange", Action.SELECT), ("selecttab", Action.FOCUS),
    ("selectworksheet", Action.FOCUS), ("select", Action.SELECT), ("scroll", Action.SCROLL),
    ("focus", Action.FOCUS), ("activate", Action.FOCUS), ("navigate", Action.NAVIGATE),
    ("load", Action.NAVIGATE), ("reload", Action.NAVIGATE), ("open", Action.OPEN),
    ("create", Action.OPEN), ("new", Action.OPEN), ("add", Action.OPEN), ("close", Action.CLOSE),
    ("file", Action.FILE), ("save", Action.FILE), ("download", Action.FILE),
)  # fmt: skip
"""How other recorders' names of actions begin, letters only."""


def is_control(role: str) -> bool:
    """Say whether the name of an element of this role names a control, not data."""
    return role in _CONTROLS


class ReplaySource:
    """Yield a log's events in the log's order."""

    kind = SourceKind.REPLAY

    def __init__(self, data: bytes, spec: ReplaySpec, clock: Clock) -> None:
        self.session = derive_id(hashlib.sha256(data).hexdigest(), spec.as_user or "")
        self._data = data
        self._spec = spec
        self._clock = clock
        self._closing = asyncio.Event()

    @classmethod
    async def open(cls, spec: ReplaySpec, clock: Clock) -> Self:
        """Read the log. Raises CaptureError, ConfigError for a wrong column map."""
        if spec.columns is not None and not {"time", "action"} <= set(spec.columns):
            raise ConfigError("a column map names at least the columns of time and action")
        wrong = set(spec.columns or ()) - set(CSV_FIELDS)
        if wrong:
            raise ConfigError(f"a column map has no field {min(wrong)}: {', '.join(CSV_FIELDS)}")
        if spec.content is not None:
            return cls(spec.content, spec, clock)
        if spec.path is None:
            raise ConfigError("a replay needs a path or a content")
        try:
            return cls(await asyncio.to_thread(spec.path.read_bytes), spec, clock)
        except OSError as error:
            raise CaptureError(f"log {spec.path} cannot be read: {error.strerror}") from error

    async def captures(self) -> AsyncIterator[RawCapture]:
        """Yield the log's events; ends early on `close`. Raises CaptureError at a bad line."""
        columns = self._spec.columns
        captures = _json_lines(self._data) if columns is None else _csv(self._data, columns)
        before_ms: int | None = None
        for number, capture in enumerate(captures):
            if self._closing.is_set():
                return
            if self._spec.speed > 0 and before_ms is not None:
                await self._pause((capture.time_ms - before_ms) / 1000 / self._spec.speed)
            elif number % 100 == 0:
                await asyncio.sleep(0)
            before_ms = capture.time_ms
            yield capture

    async def close(self) -> None:
        """End at the next event."""
        self._closing.set()

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._closing.wait(), max(0.0, seconds))
        except TimeoutError:
            return


def _json_lines(data: bytes) -> Iterator[RawCapture]:
    snapshots: dict[str, RawSnapshot] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            parsed = json.loads(line)
            if isinstance(parsed, dict) and "snapshot" in parsed and "digest" in parsed:
                snapshot = Snapshot.model_validate(parsed["snapshot"], strict=False)
                snapshots[str(parsed["digest"])] = _raw_snapshot(snapshot)
                continue
            event = UiEvent.model_validate_json(line)
        except (ValueError, ValidationError) as error:
            # The error itself would quote the line.
            raise CaptureError(
                f"line {number} of the log is no UiEvent ({type(error).__name__}): correct the log"
            ) from None
        yield _raw_capture(event, snapshots.get(event.snapshot or ""))


def _raw(text: Text | None) -> RawText | None:
    if text is None:
        return None
    return text if text.clear is None else text.clear


def _raw_snapshot(snapshot: Snapshot) -> RawSnapshot:
    return RawSnapshot(tuple(_raw_element(element) for element in snapshot.elements))


def _raw_element(item: SnapshotElement) -> RawElement:
    return RawElement(
        untrusted_role=item.role,
        index=item.index,
        parent=item.parent,
        untrusted_tag=item.tag,
        untrusted_id=item.element_id,
        untrusted_name=_raw(item.name),
        name_is_control=is_control(item.role),
        untrusted_label=item.label,
        untrusted_text=_raw(item.text),
        untrusted_value=_raw(item.value),
        states=item.states,
        untrusted_options=tuple(t if t.clear is None else t.clear for t in item.options),
        box=item.box,
    )


def _raw_capture(event: UiEvent, snapshot: RawSnapshot | None) -> RawCapture:
    element = event.element
    return RawCapture(
        action=event.action,
        untrusted_application=event.application,
        time_ms=event.time_ms,
        untrusted_title=_raw(event.window),
        untrusted_url=_raw(event.url) or event.document,
        element=None
        if element is None
        else RawElement(
            untrusted_role=element.role,
            index=element.index if snapshot is not None else None,
            untrusted_id=element.element_id,
            untrusted_selector=element.selector,
            untrusted_name=_raw(element.name),
            name_is_control=is_control(element.role),
            untrusted_label=element.label,
            box=element.box,
        ),
        untrusted_value=_raw(event.value),
        keys=event.keys,
        count=event.count,
        target=event.target,
        snapshot=snapshot,
        demonstration=event.demonstration,
        showing=event.showing,
    )


def _csv(data: bytes, columns: Mapping[str, str]) -> Iterator[RawCapture]:
    text = data.decode("utf-8-sig", errors="replace")
    rows = csv.DictReader(io.StringIO(text, newline=""))
    missing = {c for names in columns.values() for c in names.split("|")} - set(
        rows.fieldnames or ()
    )
    if missing:
        raise CaptureError(f"the CSV has no column {min(missing)}: correct the column map")
    for number, row in enumerate(rows, start=2):
        cells = {field: _cell(row, names) for field, names in columns.items()}
        time_ms, action = _time_ms(cells.get("time")), _action(cells.get("action"))
        if time_ms is None or action is None:
            wrong = "time" if time_ms is None else "action"
            raise CaptureError(f"line {number} of the CSV has no {wrong} that is known")
        yield _csv_capture(cells, time_ms, action)


def _cell(row: Mapping[str, str | None], names: str) -> str | None:
    return next((value for name in names.split("|") if (value := row.get(name))), None)


def _csv_capture(cells: Mapping[str, str | None], time_ms: int, action: Action) -> RawCapture:
    element = None
    if any(cells.get(field) for field in ("role", "id", "name", "label")):
        role = (cells.get("role") or "generic").lower()
        element = RawElement(
            untrusted_role=role,
            untrusted_id=cells.get("id"),
            untrusted_name=cells.get("name"),
            name_is_control=is_control(role),
            untrusted_label=cells.get("label"),
        )
    return RawCapture(
        action=action,
        untrusted_application=cells.get("application") or "unknown",
        time_ms=time_ms,
        untrusted_title=cells.get("title"),
        untrusted_url=cells.get("url"),
        element=element,
        untrusted_value=cells.get("value"),
        keys=cells.get("keys"),
    )


def _action(name: str | None) -> Action | None:
    letters = "".join(c for c in (name or "").lower() if c.isalpha())
    return next((action for start, action in _ACTIONS if letters.startswith(start)), None)


def _time_ms(text: str | None) -> int | None:
    """Read ISO 8601 (UTC where it names no zone), or a number of seconds or milliseconds."""
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text.strip())
        except ValueError:
            return None
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    return int(number if number > 1e11 else number * 1000)
