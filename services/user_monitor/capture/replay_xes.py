"""Reads event logs in XES (IEEE 1849) as a stream: one capture an event, in the order of time.

An XES file groups its events by case. What a person did was in the order of time, so that is how
they are replayed; names and attributes of cases are read by nobody. Which attribute is what may be
told by a column map, as for a CSV; without one the standard attributes are taken.
Does not cover: nested attributes, and lifecycle transitions other than as attributes.
"""

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO
from xml.etree.ElementTree import ParseError

from services.user_monitor.capture import RawCapture
from services.user_monitor.capture.replay_table import check_map, read_cells
from shared.errors import CaptureError

__all__ = ["STANDARD", "read_xes"]

STANDARD: Mapping[str, str] = {"time": "time:timestamp", "action": "concept:name"}
"""The attributes of XES's own extensions (IEEE 1849, annexes on concept and time)."""


def read_xes(stream: BinaryIO, columns: Mapping[str, str] | None = None) -> Iterator[RawCapture]:
    """Yield the log's events, the earliest first; equal times keep the file's order.

    Raises ConfigError for a wrong column map, CaptureError for what is not XES.
    """
    columns = STANDARD if columns is None else columns
    check_map(columns)
    captures = [
        read_cells(event, columns, f"event {number} of the log")
        for number, event in enumerate(_events(stream), start=1)
    ]
    captures.sort(key=lambda capture: capture.time_ms)
    yield from captures


def _events(stream: BinaryIO) -> Iterator[dict[str, str | None]]:
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import iterparse

    try:
        open_elements: list[Any] = []
        for happening, element in iterparse(stream, ("start", "end"), forbid_dtd=True):
            if happening == "start":
                open_elements.append(element)
                if len(open_elements) == 1 and _tag(element) != "log":
                    raise CaptureError("the file is not XES: its outermost element is no <log>")
                continue
            open_elements.pop()
            if _tag(element) == "event":
                yield {str(a.get("key")): a.get("value") for a in element}
            if _tag(element) in ("event", "trace"):
                element.clear()
                open_elements[-1].remove(element)  # else a read log stays in memory
    except (ParseError, DefusedXmlException) as error:
        raise CaptureError(
            f"the file is not XES that can be read ({type(error).__name__}): export it again"
        ) from None


def _tag(element: Any) -> str:
    return str(element.tag).rpartition("}")[2]
