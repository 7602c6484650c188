"""`wat tail`: the records of a topic as JSON lines, straight from the bus.

Reads without a group, so nothing is committed anywhere. Order holds within a partition.
"""

import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated

import typer

from services.commands.terminal import write_line
from shared.topics import Topic

if TYPE_CHECKING:
    from shared.bus import Bus, Message

__all__ = ["tail"]

_BATCH = 500
_LOOK_S = 0.2


def tail(
    topic: Annotated[Topic, typer.Argument(help="Which topic.")],
    start: Annotated[
        str,
        typer.Option(
            "--from", metavar="oldest|newest|N", help="Where to begin; N is the offset of a record."
        ),
    ] = "oldest",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="End after N records.")] = None,
) -> None:
    """Print a topic's records, one JSON object a line."""
    import asyncio

    from shared.bus import open_bus
    from shared.clock import SystemClock
    from shared.settings import CommonSettings, load, refuse_unknown

    if start not in ("oldest", "newest") and not start.isdigit():
        raise typer.BadParameter("write oldest, newest or an offset", param_hint="--from")
    refuse_unknown([CommonSettings])
    common = load(CommonSettings)
    common.make_folders()

    async def print_all() -> None:
        bus = open_bus(common.bus, common.data_dir, SystemClock())
        num_left = limit
        try:
            async for message in _messages(bus, topic, start, follow=follow):
                write_line(_line(message))
                if num_left is not None:
                    num_left -= 1
                    if num_left == 0:
                        return
        finally:
            await bus.close()

    asyncio.run(print_all())


async def _messages(
    bus: "Bus", topic: Topic, start: str, *, follow: bool
) -> AsyncIterator["Message"]:
    """Yield a topic's messages from `start` on, partition by partition; with `follow` for ever."""
    import asyncio

    positions: dict[int, int] = {}
    is_first = True
    while True:
        for partition, (oldest, end) in sorted((await bus.bounds(topic)).items()):
            if partition not in positions:  # one that appears later is read from its beginning
                begin = {"oldest": oldest, "newest": end}.get(start)
                positions[partition] = int(start) if begin is None else begin if is_first else 0
            while (at := max(positions[partition], oldest)) < end:
                found = await bus.read(topic, partition, at, _BATCH)
                for message in found:
                    yield message
                positions[partition] = found[-1].offset + 1 if found else end
        if not follow:
            return
        is_first = False
        await asyncio.sleep(_LOOK_S)


def _line(message: "Message") -> str:
    headers = dict(message.headers)
    return json.dumps(
        {
            "topic": message.topic,
            "partition": message.partition,
            "offset": message.offset,
            "time_ms": message.time_ms,
            "key": message.key.decode(errors="replace"),
            "type": headers.get("ce_type", b"").decode(errors="replace") or None,
            "value": _value(message.value),
        },
        ensure_ascii=False,
    )


def _value(value: bytes) -> object:
    """Return a record's JSON; what is none as text; nothing for a tombstone."""
    try:
        return json.loads(value) if value else None
    except ValueError:
        return value.decode(errors="replace")
