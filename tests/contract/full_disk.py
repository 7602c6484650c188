"""Append until the disk is full (no file may pass 1 MB); free space, append on, say what was said.

Prints how many events are acknowledged, and the error.
"""

import asyncio
import resource
import signal
import sys
from pathlib import Path

from shared.bus import Effects, open_bus
from shared.clock import SystemClock
from shared.errors import BusUnavailable
from shared.topics import Room
from tests.contract.records import ui_event

BATCH = 50


async def fill(url: str, state_dir: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
    bus = open_bus(url, state_dir, SystemClock())
    port = await bus.open_port(Room.USER_MONITOR, (), "", "")
    seq, said = 0, ""
    while seq < 100_000 and not said:
        try:
            await port.commit(_batch(seq))
        except BusUnavailable as error:
            said = str(error)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
            await port.commit(_batch(seq))
        seq += BATCH
    await bus.close()
    print(f"{seq}\n{said}")


def _batch(start: int) -> Effects:
    effects = Effects(Room.USER_MONITOR)
    for seq in range(start, start + BATCH):
        effects.publish(ui_event(seq))
    return effects


if __name__ == "__main__":
    asyncio.run(fill(sys.argv[1], Path(sys.argv[2])))
