"""Reads our own logs: JSON lines of UiEvents.

A line is a UiEvent, or a snapshot that later events refer to: `{"digest": …, "snapshot": …}`. What
was redacted in the log stays as it is.
"""

import json
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from pydantic import ValidationError

from services.user_monitor.capture import RawCapture, RawElement, RawSnapshot, RawText, is_control
from shared.errors import CaptureError, ConfigError
from shared.schemas import Snapshot, SnapshotElement, Text, UiEvent

__all__ = ["read_json_lines"]


def read_json_lines(
    stream: BinaryIO, columns: Mapping[str, str] | None = None
) -> Iterator[RawCapture]:
    """Yield one capture a line. Raises ConfigError for a column map, CaptureError at a bad line."""
    if columns is not None:
        raise ConfigError("JSON lines need no column map: name the format, or no columns")
    snapshots: dict[str, RawSnapshot] = {}
    for number, line in enumerate(stream, start=1):
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
        untrusted_classes=item.classes or (),
        untrusted_colour=item.colour,
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
        untrusted_activity=event.activity,
        keys=event.keys,
        count=event.count,
        target=event.target,
        snapshot=snapshot,
        demonstration=event.demonstration,
        showing=event.showing,
    )
