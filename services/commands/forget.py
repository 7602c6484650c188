"""`wat forget`: forget what happened, and all that any room made of it, down to the last byte.

Asks user-monitor, then waits for the receipt of every room in the order in which they read one
another, so that what was derived from the derived goes too.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.commands.terminal import AsJson, ask, show_json, write_line
from shared.errors import ConflictError, WatError
from shared.topics import Room, Topic

if TYPE_CHECKING:
    from services.client import RoomClient

__all__ = ["duration_ms", "forget"]

_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_LOOK_S = 0.2
_MOST_DIGITS = 15  # user-monitor knows the limit; Python itself reads no number of thousands
_READS: dict[Room, tuple[Topic, ...]] = {
    Room.USER_MONITOR: (),
    Room.TASK_LEARNER: (),
    Room.AGENT_TRAINER: (Topic.TASKS,),
    Room.AGENT_RUNNER: (Topic.TASKS, Topic.MODELS),
}
"""Which records of other rooms each derives from, apart from events and ranges."""


def forget(
    last: Annotated[
        str | None, typer.Option(metavar="TIME", help="The last 90s, 10m, 2h or 3d.")
    ] = None,
    app: Annotated[str | None, typer.Option(metavar="NAME", help="One application.")] = None,
    session: Annotated[str | None, typer.Option(metavar="ID", help="One session.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything so far.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before --all.")] = False,
    wait_s: Annotated[
        int, typer.Option("--wait", min=1, metavar="SECONDS", help="Longest wait for a room.")
    ] = 300,
    as_json: AsJson = False,
) -> None:
    """Forget what happened, and what was learned, trained and done because of it."""
    from services.client import Rooms

    if sum(what is not None for what in (last, app, session, everything or None)) != 1:
        raise typer.BadParameter("give one of --last, --app, --session and --all")
    last_ms = None if last is None else duration_ms(last)
    if everything and not yes and not ask("Forget everything recorded, learned and trained?"):
        raise ConflictError("nothing was forgotten: add --yes where nobody can be asked")
    with Rooms() as rooms:
        clients = {room: rooms.ask(room) for room in Room}
        places = [] if everything else _places(clients[Room.TASK_LEARNER], last_ms, app, session)
        body = {
            "last_ms": last_ms, "application": app, "session": session, "everything": everything,
            "places": places,
        }  # fmt: skip
        started = clients[Room.USER_MONITOR].post("forget", body)
        receipts = [] if not started["num_ranges"] else _receipts(clients, started, wait_s, as_json)
    if as_json:
        show_json({**started, "receipts": receipts})
    elif not receipts:
        write_line("nothing that was recorded fits: there was nothing to forget")
    else:
        write_line(_last_byte(receipts))


def duration_ms(text: str) -> int:
    """Read a duration such as 90s, 10m, 2h or 3d, in ms. Raises BadParameter."""
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS_MS or not number.isdecimal() or not number.strip("0"):
        raise typer.BadParameter("write a number and s, m, h or d: 10m", param_hint="--last")
    if len(number) > _MOST_DIGITS:
        raise typer.BadParameter("longer ago than any event can be: --all", param_hint="--last")
    return int(number) * _UNITS_MS[unit]


def _places(
    learner: "RoomClient", last_ms: int | None, app: str | None, session: str | None
) -> list[Mapping[str, Any]]:
    """Return what the learner still has of it: it keeps traces longer than the topic does."""
    query: dict[str, Any] = {}
    if app is not None:
        query["application"] = app
    if last_ms is not None:
        query["since_ms"] = max(0, time.time_ns() // 1_000_000 - last_ms)
    places: list[Mapping[str, Any]] = learner.get("places", **query)
    return [place for place in places if session in (None, place["session"])]


def _receipts(
    clients: Mapping[Room, "RoomClient"], started: Mapping[str, Any], wait_s: int, quiet: bool
) -> list[dict[str, Any]]:
    """Wait for every room in turn. Raises WatError for one that does not finish."""
    receipts: list[dict[str, Any]] = []
    wrote: dict[str, dict[str, int]] = {}
    for room, client in clients.items():
        after = [
            f"{topic}:{partition}:{end}"
            for topic in _READS[room]
            for partition, end in wrote[topic].items()
        ]
        deadline = time.monotonic() + wait_s
        path = f"forgets/{started['request']}"
        while not (receipt := client.get(path, after=after))["done"]:
            if time.monotonic() > deadline:
                raise WatError(
                    f"{room} has not forgotten it after {wait_s} s: it goes on, see its log; "
                    f"GET /v1/{room}/{path} says when it is done"
                )
            time.sleep(_LOOK_S)
        wrote |= receipt["wrote"]
        receipts.append(receipt)
        if not quiet:
            write_line(f"{room}: {_in_words(receipt['deleted'])}")
    return receipts


def _in_words(deleted: Mapping[str, int]) -> str:
    told = ", ".join(f"{num} {what}" for what, num in sorted(deleted.items()))
    return f"deleted {told}" if told else "had nothing of it"


def _last_byte(receipts: list[dict[str, Any]]) -> str:
    last_ms = max(receipt["gone_by_ms"] or 0 for receipt in receipts)
    if not last_ms:
        return "no byte of it is left"
    when = datetime.fromtimestamp(last_ms / 1000, UTC).astimezone()
    return (
        "no byte of it is left in our files; the last one leaves the broker's disk by "
        f"{when:%Y-%m-%d %H:%M}"
    )
