"""`wat doctor`: what this machine has, what is missing or stuck, and what to do about it.

Looks only: starts nothing but `--version` of programmes that it finds, and changes nothing.
"""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import typer

from services.commands.terminal import AsJson, show_json, show_table, took
from shared.errors import WatError
from shared.topics import Room

if TYPE_CHECKING:
    from shared.settings import CommonSettings

__all__ = ["doctor"]

State = Literal["ok", "missing", "stuck", "optional"]

_PACKAGES: dict[Room, tuple[str, ...]] = {
    Room.USER_MONITOR: ("pynput", "Xlib", "playwright"),
    Room.TASK_LEARNER: ("numpy",),
    Room.AGENT_TRAINER: ("torch", "numpy", "safetensors", "cryptography"),
    Room.AGENT_RUNNER: ("wasmtime", "numpy", "playwright", "cryptography"),
}
_EXTRA = "monitor,learner,trainer,runner"
_MIN_FREE_BYTES = 1 << 30
_WAIT_S = 15.0
_STALLED_MS = 30_000
"""A room that handled nothing so long although records wait is stuck: a handler takes seconds."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at: `optional` is missing too, and the rest works without it."""

    what: str
    state: State
    found: str
    do: str = ""


def doctor(as_json: AsJson = False) -> None:
    """Say what is there, what is missing or stuck, and what to do; ends with 1 if anything is."""
    findings = _findings()
    if as_json:
        show_json([asdict(finding) for finding in findings])
    else:
        show_table(
            ("", "", "found", "what to do"),
            (
                (
                    {"ok": "ok", "optional": "-"}.get(f.state, f.state.upper()),
                    f.what,
                    f.found,
                    f.do,
                )
                for f in findings
            ),
            "nothing was looked at",
        )
    if any(finding.state in ("missing", "stuck") for finding in findings):
        raise typer.Exit(1)


def _findings() -> list[Finding]:
    found = [_python(), *_packages(), _browser(), _display(), _java(), _gpu()]
    try:
        from shared.settings import CommonSettings, load, refuse_unknown

        refuse_unknown([CommonSettings])
        common = load(CommonSettings)
    except WatError as error:
        return [*found, Finding("settings", "missing", str(error), "correct the variable")]
    looks: list[Callable[[CommonSettings], Finding]] = [
        lambda c: _folder("data folder", c.data_dir),
        lambda c: _folder("configuration folder", c.config_dir),
        _token,
        _disk,
        _bus,
        _port,
        _running,
    ]
    return [*found, *(look(common) for look in looks), *_progress(common)]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] <= (3, 12):
        return Finding("Python", "ok", version)
    return Finding("Python", "missing", version, "run it with Python 3.11 or 3.12")


def _packages() -> list[Finding]:
    findings = []
    for room, names in _PACKAGES.items():
        absent = [name for name in names if find_spec(name) is None]
        if absent:
            do = f"pip install 'wasmagenttrainer[{_EXTRA}]', or `make setup`"
            findings.append(Finding(room, "missing", f"without {', '.join(absent)}", do))
        else:
            findings.append(Finding(room, "ok", f"has {', '.join(names)}"))
    return findings


def _browser() -> Finding:
    if find_spec("playwright") is None:
        return Finding("browser", "missing", "not looked for", "install the packages first")
    from shared.page import find_browser

    try:
        path = find_browser(os.environ.get("WAT_AGENT_RUNNER_BROWSER") or None)
    except WatError as error:
        said, _, do = str(error).partition(": ")
        return Finding("browser", "missing", said, do)
    version = _output([path, "--version"])
    if version is None:
        return Finding("browser", "missing", f"{path} does not start", "install it anew")
    return Finding("browser", "ok", f"{path}, {version}")


def _display() -> Finding:
    display = os.environ.get("DISPLAY", "")
    if not display:
        return Finding(
            "display", "optional", "none ($DISPLAY is not set)",
            "only for `wat record --source input` or `window` and for browsers with a window: "
            "log in to a desktop",
        )  # fmt: skip
    host, _, rest = display.rpartition(":")
    number = rest.partition(".")[0]
    if not number.isdigit():
        return Finding("display", "optional", f"$DISPLAY is {display}", "write it as :0")
    if host in ("", "unix"):
        answers = _connects(socket.AF_UNIX, f"/tmp/.X11-unix/X{number}")  # noqa: S108
        answers = answers or _connects(socket.AF_UNIX, f"\0/tmp/.X11-unix/X{number}")
    else:
        answers = _connects(socket.AF_INET, (host, 6000 + int(number)))
    if not answers:
        return Finding("display", "optional", f"{display} does not answer", "start its X server")
    if os.environ.get("XDG_SESSION_TYPE") == "wayland":
        do = "of Wayland's own windows nothing is seen: choose an X11 session at login"
        return Finding("display", "optional", f"{display}, within Wayland", do)
    return Finding("display", "ok", display)


def _connects(family: int, address: str | tuple[str, int]) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as peer:
        peer.settimeout(2)
        try:
            peer.connect(address)
        except OSError:
            return False
        return True


def _java() -> Finding:
    path = shutil.which("java")
    said = path and _output([path, "-version"])
    if not said:
        return Finding(
            "Java", "optional", "none", "only for `make kafka`: install Java 17 or newer"
        )
    return Finding("Java", "ok", said)


def _gpu() -> Finding:
    path = shutil.which("nvidia-smi")
    said = path and _output([path, "--query-gpu=name,memory.total", "--format=csv,noheader"])
    if not said:
        do = "only for the code assistant's fine-tuning: agents are trained without one"
        return Finding("GPU", "optional", "none", do)
    return Finding("GPU", "ok", said)


def _output(command: list[str]) -> str | None:
    """Return the first line that a programme says of itself, or None where it fails."""
    try:
        ran = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=_WAIT_S, stdin=subprocess.DEVNULL,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = [line.strip() for line in (ran.stdout + ran.stderr).splitlines() if line.strip()]
    return lines[0] if ran.returncode == 0 and lines else None


def _folder(what: str, path: Path) -> Finding:
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        do = f"make {there} a folder that you may write to, or choose another (WAT_DATA_DIR)"
        return Finding(what, "missing", f"{path} cannot be written", do)
    if there != path:
        return Finding(what, "ok", f"{path} (made when it is needed)")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Finding(what, "missing", f"{path} is open to others", f"chmod 700 {path}")
    return Finding(what, "ok", f"{path}, {mode:04o}")


def _token(common: "CommonSettings") -> Finding:
    path = common.token_file
    if not path.exists():
        return Finding("token", "ok", f"{path} (made when it is needed)")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        return Finding("token", "missing", f"{path} can be read by others", f"chmod 600 {path}")
    if not os.access(path, os.R_OK):
        return Finding("token", "missing", f"{path} cannot be read", "become the user who made it")
    return Finding("token", "ok", str(path))


def _disk(common: "CommonSettings") -> Finding:
    there = common.data_dir
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    said = f"{free / (1 << 30):.1f} GiB free at {there}"
    if free < _MIN_FREE_BYTES:
        return Finding("disk", "missing", said, "free at least 1 GiB, or move WAT_DATA_DIR")
    return Finding("disk", "ok", said)


def _bus(common: "CommonSettings") -> Finding:
    from shared.bus import open_bus
    from shared.clock import SystemClock

    try:
        open_bus(common.bus, common.data_dir, SystemClock())
    except WatError as error:
        return Finding("bus", "missing", str(error), "correct WAT_BUS_URL")
    parts = urlsplit(common.bus)
    if parts.scheme != "kafka":
        return Finding("bus", "ok", f"{common.bus} (embedded: needs no Kafka)")
    away = []
    for server in parts.netloc.rpartition("@")[2].split(","):
        host, _, port = server.rpartition(":")
        if not port.isdigit() or not _connects(socket.AF_INET, (host, int(port))):
            away.append(server)
    if away:
        do = "start the broker (`make kafka`), or correct WAT_BUS_URL"
        return Finding("bus", "missing", f"no Kafka answers at {', '.join(away)}", do)
    return Finding("bus", "ok", f"Kafka answers at {parts.netloc}")


def _port(common: "CommonSettings") -> Finding:
    with socket.socket(socket.AF_INET6 if ":" in common.host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((common.host, common.port))
        except OSError as error:
            holder = _answers_at(common)
            if holder:
                return Finding("port", "ok", f"{common.port} is ours: {holder}")
            do = "stop what is there, or set WAT_PORT (or `wat up --port 0`)"
            return Finding("port", "missing", f"{common.port}: {error.strerror}", do)
    return Finding("port", "ok", f"{common.port} is free")


def _answers_at(common: "CommonSettings") -> str:
    """Return which rooms answer at the port of `wat up`; nothing where it is something else."""
    from urllib.error import URLError
    from urllib.request import ProxyHandler, build_opener

    try:
        opener = build_opener(ProxyHandler({}))
        with opener.open(f"http://{common.host}:{common.port}/readyz", timeout=5) as answer:
            return ", ".join(json.load(answer)["rooms"])
    except (URLError, OSError, ValueError, KeyError, TypeError):
        return ""


def _running(common: "CommonSettings") -> Finding:
    from services.client import Rooms

    with Rooms(common) as rooms:
        there = {room: rooms.address(room) for room in Room}
    running = [f"{room} at {address}" for room, address in there.items() if address]
    if running:
        return Finding("running", "ok", ", ".join(running))
    return Finding("running", "ok", "no room (`wat up`; a command runs the room it needs)")


def _progress(common: "CommonSettings") -> list[Finding]:
    """Return how far each room that runs has come; one that runs for a command has read all."""
    from services.client import Rooms

    findings = []
    with Rooms(common) as rooms:
        for room in Room:
            if rooms.address(room) is None:
                continue
            if not rooms.is_ready(room):
                do = "wait a minute; if it stays so, see its log"
                findings.append(Finding(f"{room} progress", "stuck", "is not ready yet", do))
                continue
            try:
                findings.append(_words(room, rooms.ask(room).get("progress")))
            except WatError as error:
                do = "see its log"
                findings.append(Finding(f"{room} progress", "missing", str(error), do))
    return findings


def _words(room: Room, shown: Mapping[str, Any]) -> Finding:
    """Say in words what `GET progress` says in numbers."""
    what = f"{room} progress"
    waiting = [
        f"{one['num_unhandled']} of {one['topic']} wait, the oldest for "
        f"{took(max(0, shown['measured_ms'] - one['oldest_ms']))}"
        for one in shown["inputs"]
        if one["num_unhandled"]
    ]
    said = "; ".join(waiting) or "nothing waits"
    jobs = ", ".join(f"{n} {state}" for state, n in shown["jobs"].items() if n)
    said += f"; jobs: {jobs}" if jobs else ""
    if letters := shown["num_dead_letters"]:
        said += f"; {letters} dead letters (GET /v1/{room}/dead-letters)"
    if tries := shown["failing_attempts"]:
        do = "nothing: a record that fails five times becomes a dead letter; its log says why"
        return Finding(what, "ok", f"{said}; one record failed {tries} times", do)
    if waiting and shown["stalled_ms"] >= _STALLED_MS:
        said += f"; nothing was handled for {took(shown['stalled_ms'])}"
        return Finding(what, "stuck", said, "see its log; if that says nothing, start it anew")
    return Finding(what, "ok", said)
