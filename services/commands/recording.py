"""`wat record`, `wat replay`, `wat pause`, `wat resume`: watch, with consent, and show it live."""

import gzip
import lzma
import select
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from services.commands.consents import Level, ask_for_consent
from services.commands.routines import left_out
from services.commands.terminal import (
    AsJson,
    console,
    ended_by_signals,
    show_json,
    took,
    write_line,
)  # fmt: skip
from shared.errors import CaptureError, ConfigError, WatError
from shared.topics import Room

if TYPE_CHECKING:
    from services.client import RoomClient, Rooms

__all__ = ["pause", "record", "replay", "resume"]

_LOOK_S = 0.25
_TAUGHT_S = 8.0
"""A demonstration counts as ended after 3 s of silence (`teaching_idle_ms`)."""

_MAX_SENT_BYTES = 24 * 1024 * 1024
"""A body may have 32 MiB, and JSON spells some characters with more than one."""

_PACKED: Mapping[str, Callable[..., Any]] = MappingProxyType({".gz": gzip.open, ".xz": lzma.open})

LevelAsked = Annotated[
    Level, typer.Option(help="How much a consent that is asked for now keeps of texts.")
]


def record(
    teach: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Show a routine: Enter begins and ends a demonstration."),
    ] = None,
    source: Annotated[
        Literal["browser", "input", "window"], typer.Option(help="What to watch.")
    ] = "browser",
    url: Annotated[str | None, typer.Option(help="The browser's first page.")] = None,
    attach: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Watch a running browser at its debugging port."),
    ] = None,
    headless: Annotated[
        bool, typer.Option("--headless", help="Launch the browser without a window.")
    ] = False,
    level: LevelAsked = "values",
    as_json: AsJson = False,
) -> None:
    """Watch what is done until Enter or Ctrl-C; asks for consent where there is none."""
    from services.client import Rooms

    if source != "browser" and (url or attach or headless):
        raise typer.BadParameter("--url, --attach and --headless belong to --source browser")
    with Rooms() as rooms, ended_by_signals():
        monitor = rooms.ask(Room.USER_MONITOR)
        ask_for_consent(monitor, source, level, attach)
        if teach is not None:
            _end_what_was_left_open(monitor)
        body = {"source": source, "url": url, "attach_url": attach, "headless": headless}
        started = monitor.post("recording/start", body)
        if started["warning"]:
            console(stderr=True).print(f"Note: {started['warning']}", markup=False)
        shown: list[int] = []  # filled one by one: Ctrl-C is the usual end
        try:
            _watch(monitor, started["id"], teach, shown)
        except KeyboardInterrupt:
            write_line("")  # after the terminal's ^C
        finally:
            if teach is not None and monitor.get("recording")["teaching"]:
                shown.append(monitor.post("teach/stop")["showing"])
            state = monitor.post("recording/stop", {"id": started["id"]})
        taught = _taught(rooms, teach, max(shown)) if teach is not None and shown else {}
    ended = _recording(state, started["id"])
    if as_json:
        show_json({**ended, "num_demonstrations": len(shown)})
    else:
        write_line(_summary(ended))
        if teach is not None:
            kept = "`wat routines` lists it" if ended["num_published"] else "nothing was captured"
            write_line(f"{len(shown)} of {teach} shown; {kept}")
            for line in left_out(taught):
                write_line(line)
    if ended["state"] == "failed":
        raise CaptureError(f"{source} cannot be watched any more: {ended['reason']}")


def _taught(rooms: "Rooms", name: str, num_shown: int) -> Mapping[str, Any]:
    """Return the routine that was taught; empty where it does not come soon."""
    until_s = time.monotonic() + _TAUGHT_S
    try:
        learner = rooms.ask(Room.TASK_LEARNER)
        while time.monotonic() < until_s:
            for line in learner.all("routines"):
                named = (line["name"], line["origin"]) == (name, "taught")
                if named and line["support"] >= num_shown:
                    return dict(learner.get(f"routines/{line['routine_id']}"))
            time.sleep(_LOOK_S)
    except WatError:  # what was recorded is safe; the learner may be started later
        return {}
    return {}


def _end_what_was_left_open(monitor: "RoomClient") -> None:
    """End a demonstration of which nothing is watched any more: its command was killed."""
    state = monitor.get("recording")
    if state["teaching"] and all(one["state"] != "recording" for one in state["recordings"]):
        monitor.post("teach/stop")


def _watch(monitor: "RoomClient", recording_id: str, teach: str | None, done: list[int]) -> None:
    """Show live counts until Enter (without `teach`) or the source's end.

    With `teach` Enter begins a demonstration, and ends it; its number goes into `done`.
    """
    is_showing = False

    def said() -> str:
        if teach is None:
            return "Enter ends it"
        verb = "ends" if is_showing else "begins"
        return f"Enter {verb} demonstration {len(done) + 1}, Ctrl-C ends it all"

    shown = console(stderr=True)
    with shown.status("") as status:
        while True:
            now = _recording(monitor.get("recording"), recording_id)
            status.update(f"{_counts(now)}; {said()}")
            if now["state"] != "recording":
                return
            if not _entered():
                continue
            if teach is None:
                return
            if is_showing:
                done.append(monitor.post("teach/stop")["showing"])
            else:
                monitor.post("teach/start", {"name": teach})
            is_showing = not is_showing
            shown.print(said(), markup=False)


def _entered() -> bool:
    """Wait a moment for Enter; a closed standard input is nobody, and never enters."""
    if sys.stdin.closed or not select.select([sys.stdin], [], [], _LOOK_S)[0]:
        return False
    if sys.stdin.readline():
        return True
    time.sleep(_LOOK_S)
    return False


def _recording(state: Mapping[str, Any], recording_id: str) -> dict[str, Any]:
    for one in state["recordings"]:
        if one["id"] == recording_id:
            return dict(one)
    raise CaptureError(f"recording {recording_id} is gone: user-monitor was started anew")


def _counts(now: Mapping[str, Any]) -> str:
    dropped = ", ".join(f"{count} {why}" for why, count in now["dropped"].items() if count)
    paused = "paused, " if now["paused"] else ""
    return (
        f"{paused}{now['num_published']} events kept"
        + (f", {now['num_waiting']} waiting" if now["num_waiting"] else "")
        + (f", dropped: {dropped}" if dropped else "")
    )


def _summary(ended: Mapping[str, Any]) -> str:
    long_ms = time.time() * 1000 - ended["started_ms"]
    return f"{ended['source']}: {_counts(ended)} in {took(long_ms)}, session {ended['session']}"


def replay(
    file: Annotated[Path, typer.Argument(help="A recorded log; may end in .gz or .xz.")],
    log_format: Annotated[
        Literal["jsonl", "csv", "xes", "demonstrations"] | None,
        typer.Option("--format", help="By default as the file's name ends; else JSON lines."),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=COLUMN", help="CSV, XES: which column is what; may be repeated."
        ),
    ] = None,
    by_time: Annotated[
        bool, typer.Option("--by-time", help="The earliest event first, not the file's order.")
    ] = False,
    as_user: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="As if this person had done it.")
    ] = None,
    speed: Annotated[
        float, typer.Option(min=0, help="1 keeps the log's pauses, 0 leaves them out.")
    ] = 0.0,
    level: LevelAsked = "values",
    as_json: AsJson = False,
) -> None:
    """Feed in a recorded log; twice is once."""
    from services.client import Rooms

    body = {
        "content": _read(file),
        "format": log_format or _format(file),
        "columns": _columns(columns),
        "by_time": by_time,
        "as_user": as_user,
        "speed": speed,
    }
    with Rooms() as rooms:
        monitor = rooms.ask(Room.USER_MONITOR)
        ask_for_consent(monitor, "replay", level)
        started = monitor.post("replay", body)
        with console(stderr=True).status("") as status:
            while True:
                now = _recording(monitor.get("recording"), started["id"])
                status.update(_counts(now))
                if now["state"] != "recording" and now["num_waiting"] == 0:
                    break
                time.sleep(_LOOK_S)
    if as_json:
        show_json(now)
    else:
        write_line(_summary(now))
    if now["state"] == "failed":
        raise CaptureError(f"{file} was read in part: {now['reason']}")


def _format(file: Path) -> str:
    ends = [suffix.lower() for suffix in file.suffixes if suffix.lower() not in _PACKED]
    return {".csv": "csv", ".xes": "xes"}.get(ends[-1] if ends else "", "jsonl")


def _read(file: Path) -> str:
    """Return the unpacked text of a log."""
    opener = _PACKED.get(file.suffix.lower(), open)
    try:
        with opener(file, "rb") as stream:
            data = stream.read(_MAX_SENT_BYTES + 1)
        if len(data) > _MAX_SENT_BYTES:
            raise ConfigError(
                f"{file} is larger than {_MAX_SENT_BYTES >> 20} MiB unpacked: split it, or put it "
                "into the replay folder and name its path over REST"
            )
        return bytes(data).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8: save it as UTF-8") from error
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        said = getattr(error, "strerror", None) or f"it cannot be unpacked ({type(error).__name__})"
        raise ConfigError(f"{file} cannot be read: {said}") from error


def _columns(pairs: list[str] | None) -> dict[str, str] | None:
    if not pairs:
        return None
    named = [text.partition("=") for text in pairs]
    if any(not (field and sign and column) for field, sign, column in named):
        raise typer.BadParameter("write FIELD=COLUMN", param_hint="--columns")
    return {field: column for field, _, column in named}


def pause() -> None:
    """Capture nothing until it is resumed, whatever is being watched."""
    _switch("pause", "paused: nothing is captured until `wat resume`")


def resume() -> None:
    """Capture again from now on."""
    _switch("resume", "capturing again")


def _switch(what: Literal["pause", "resume"], said: str) -> None:
    from services.client import Rooms

    with Rooms() as rooms:
        state = rooms.ask(Room.USER_MONITOR).post(f"recording/{what}")
    now = [one["source"] for one in state["recordings"] if one["state"] == "recording"]
    write_line(f"{said}; watched: {', '.join(now) or 'nothing'}")
