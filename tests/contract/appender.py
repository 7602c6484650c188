"""Append events for ever; print the last seq of each commit once it is durable."""

import asyncio
import sys
from pathlib import Path

from shared.bus import Effects, open_bus
from shared.clock import SystemClock
from shared.topics import Room
from tests.contract.records import ui_event

BATCH = 10


async def append(url: str, state_dir: Path) -> None:
    port = await open_bus(url, state_dir, SystemClock()).open_port(
        Room.USER_MONITOR, (), "", "http://appender"
    )
    seq = sum(end for _, end in (await port.bounds("raw-events")).values())
    while True:
        effects = Effects(Room.USER_MONITOR)
        for seq in range(seq, seq + BATCH):  # noqa: B020  continued from the batch before
            effects.publish(ui_event(seq))
        await port.commit(effects)
        print(seq, flush=True)
        seq += 1


if __name__ == "__main__":
    asyncio.run(append(sys.argv[1], Path(sys.argv[2])))
