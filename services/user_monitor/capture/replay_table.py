"""Reads other recorders' logs: a CSV, one event a row, told by a map of its columns.

Reads a stream and writes nothing. What a cell means is said by the caller's map (`FIELDS`), never
guessed from the values; a row becomes exactly one capture, in the file's order.
Does not cover: what happened on the screen, which no table holds (no capture has a snapshot).
"""

import csv
import io
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import BinaryIO

from services.user_monitor.capture import RawCapture, RawElement, is_control
from shared.errors import CaptureError, ConfigError
from shared.schemas.base import END_OF_TIME_MS
from shared.schemas.raw_events import Action

__all__ = ["FIELDS", "check_map", "read_cells", "read_csv"]

FIELDS = (
    "time", "action", "application", "title", "url", "value", "keys", "role", "tag", "type", "id",
    "selector", "name", "label",
)  # fmt: skip
"""What a column map may name; a column `a|b` is the first of both that is not empty, `a+b` both.

`tag` and `type` are those of HTML: the role follows from them where the log has none.
"""

_ACTIONS: tuple[tuple[str, Action], ...] = (
    ("doubleclick", Action.DOUBLE_CLICK),
    ("click", Action.CLICK), ("mouse", Action.CLICK), ("presskey", Action.KEY),
    ("press", Action.CLICK),
    ("edit", Action.EDIT), ("type", Action.EDIT), ("change", Action.EDIT), ("input", Action.EDIT),
    ("insert", Action.EDIT), ("hotkey", Action.HOT_KEY), ("key", Action.KEY),
    ("copy", Action.COPY), ("paste", Action.PASTE), ("cut", Action.CUT),
    ("getcell", Action.SELECT), ("getrange", Action.SELECT), ("selecttab", Action.FOCUS),
    ("selectworksheet", Action.FOCUS), ("select", Action.SELECT), ("scroll", Action.SCROLL),
    ("focus", Action.FOCUS), ("activate", Action.FOCUS), ("navigate", Action.NAVIGATE),
    ("goto", Action.NAVIGATE), ("load", Action.NAVIGATE), ("reload", Action.NAVIGATE),
    ("open", Action.OPEN), ("create", Action.OPEN), ("new", Action.OPEN), ("add", Action.OPEN),
    ("close", Action.CLOSE), ("file", Action.FILE), ("save", Action.FILE),
    ("download", Action.FILE),
)  # fmt: skip
"""How other recorders' names of actions begin, letters only. Any other name is a click on it."""

_ROLES = {
    "a": "link", "button": "button", "img": "img", "li": "listitem", "option": "option",
    "select": "combobox", "table": "table", "td": "cell", "textarea": "textbox", "th":
    "columnheader", "tr": "row",
}  # fmt: skip
_INPUTS = {
    "button": "button", "checkbox": "checkbox", "image": "button", "number": "spinbutton",
    "radio": "radio", "range": "slider", "reset": "button", "search": "searchbox",
    "submit": "button",
}  # fmt: skip
"""Source: HTML Accessibility API Mappings 1.0, roles of elements without an author's role."""

_ACTION_NAMES = frozenset(action.value for action in Action)
_SNIFFED_CHARS = 64 * 1024


def check_map(columns: Mapping[str, str]) -> None:
    """Raise ConfigError for a column map that names no time or action, or an unknown field."""
    if not {"time", "action"} <= set(columns):
        raise ConfigError("a column map names at least the columns of time and action")
    wrong = set(columns) - set(FIELDS)
    if wrong:
        raise ConfigError(f"a column map has no field {min(wrong)}: {', '.join(FIELDS)}")


def read_csv(stream: BinaryIO, columns: Mapping[str, str] | None = None) -> Iterator[RawCapture]:
    """Yield one capture a row; the separator is comma, semicolon or tab.

    Raises ConfigError for a wrong column map, CaptureError at a row that cannot be read.
    """
    if columns is None:
        raise ConfigError("a CSV needs a column map (columns): say which column is what")
    check_map(columns)
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")
    first = text.readline(_SNIFFED_CHARS)
    separator = max(",;\t", key=first.count)
    header = next(csv.reader([first], delimiter=separator), [])
    wanted = {c for names in columns.values() for part in names.split("|") for c in part.split("+")}
    if missing := wanted - set(header):
        raise CaptureError(f"the CSV has no column {min(missing)}: correct the column map")
    rows = csv.DictReader(text, header, delimiter=separator)
    try:
        for row in rows:
            yield read_cells(row, columns, f"line {rows.line_num + 1} of the CSV")
    except csv.Error as error:
        raise CaptureError(f"line {rows.line_num + 1} is not CSV ({error})") from error


def read_cells(row: Mapping[str, str | None], columns: Mapping[str, str], where: str) -> RawCapture:
    """Return the capture of one row. Raises CaptureError that says `where`, never the cells."""
    cells = {field: text for field, names in columns.items() if (text := _cell(row, names))}
    time_ms = _time_ms(cells.get("time"))
    if time_ms is None or not cells.get("action"):
        wrong = "time" if time_ms is None else "action"
        raise CaptureError(f"{where} has no {wrong} that is known")
    named = cells["action"]
    return RawCapture(
        action=_action(named),
        untrusted_application=cells.get("application") or "unknown",
        time_ms=time_ms,
        untrusted_title=cells.get("title"),
        untrusted_url=cells.get("url"),
        element=_element(cells),
        untrusted_value=cells.get("value"),
        untrusted_activity=None if named in _ACTION_NAMES else named,
        keys=cells.get("keys"),
    )


def _cell(row: Mapping[str, str | None], names: str) -> str:
    for part in names.split("|"):
        if text := " ".join(filter(None, (row.get(name) for name in part.split("+")))):
            return text
    return ""


def _element(cells: Mapping[str, str]) -> RawElement | None:
    if not any(cells.get(field) for field in FIELDS[FIELDS.index("role") :]):
        return None
    tag, kind = cells.get("tag", "").strip().lower(), cells.get("type", "").strip().lower()
    role = cells.get("role", "").strip().lower()
    if not role:
        role = _INPUTS.get(kind, "textbox") if tag == "input" else _ROLES.get(tag, "generic")
    return RawElement(
        untrusted_role=role,
        untrusted_tag=tag,
        untrusted_id=cells.get("id"),
        untrusted_selector=cells.get("selector"),
        untrusted_name=cells.get("name"),
        name_is_control=is_control(role),
        untrusted_label=cells.get("label"),
        is_secret=kind == "password",
    )


def _action(name: str) -> Action:
    if name in _ACTION_NAMES:
        return Action(name)
    letters = "".join(c for c in name.lower() if c.isalpha())
    starts = (action for start, action in _ACTIONS if letters.startswith(start))
    return next(starts, Action.CLICK)


def _time_ms(text: str | None) -> int | None:
    """Read ISO 8601 (UTC where it names no zone), or a number of seconds or milliseconds.

    None for what is no time, or none that an event can have.
    """
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text.strip())
        except ValueError:
            return None
        number = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    ms = number if number > 1e11 else number * 1000
    return int(ms) if 0 <= ms < END_OF_TIME_MS else None  # nan is neither
