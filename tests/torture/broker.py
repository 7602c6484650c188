"""The broker killed again and again, or away for long, while the monitor records.

`make torture-broker`, or `python -m tests.torture.broker` with `--kills 20` or `--away 600`. Prints
the counts; exit 1 where an event was lost or out of order.
"""

import argparse
import asyncio
import json
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from services.serve import build_service
from services.user_monitor.capture import ReplaySpec
from services.user_monitor.consent import ConsentAsked
from services.user_monitor.monitor import Monitor
from shared.bus import open_bus
from shared.clock import SystemClock
from shared.schemas import Level
from shared.settings import CommonSettings
from shared.topics import Room, Topic
from tests.contract.records import ui_event
from tests.kafka.broker import Broker

__all__ = ["broker_torture"]

_DRAIN_S = 300.0
_MEMORY_EVERY_S = 60.0


async def broker_torture(
    folder: Path, *, kills: int, away_s: float, rate: int, up_s: float = 5.0
) -> dict[str, Any]:
    """Record at `rate` events per second while the broker is down `kills` times for `away_s`."""
    (folder / "broker").mkdir(parents=True)
    broker = Broker(folder / "broker")
    await asyncio.to_thread(broker.start)
    common = CommonSettings(
        data_dir=folder / "data", config_dir=folder / "config",
        bus_url=f"kafka://{broker.address}",
    )  # fmt: skip
    common.make_folders()
    clock = SystemClock()
    bus = open_bus(common.bus, common.data_dir, clock)
    service = build_service(Room.USER_MONITOR, common, clock)
    await service.open(bus, "")
    stop = asyncio.Event()
    running = asyncio.create_task(service.run(stop))
    monitor = service.logic
    assert isinstance(monitor, Monitor)
    await monitor.allow(ConsentAsked(application="*", level=Level.VALUES))
    began, memory, downs = time.monotonic(), [_memory_mib()], []
    drains: list[tuple[int, float]] = []
    num_events = 0
    keys: list[str] = []
    ended = False

    async def record() -> None:
        nonlocal num_events
        starting = time.monotonic()
        while not ended:  # a log of one second each second, whether or not the last one got through
            events = [
                ui_event(seq, session=f"log-{num_events}").model_copy(
                    update={"time_ms": 1_700_000_000_000 + seq * 1000 // rate}
                )
                for seq in range(rate)
            ]
            content = "\n".join(e.model_dump_json(exclude_none=True) for e in events).encode()
            key = await monitor.record(ReplaySpec(content=content, speed=1.0))
            keys.append(key)
            num_events += rate
            await asyncio.sleep(max(0.0, starting + num_events / rate - time.monotonic()))
        while any(k in monitor.recorders and not monitor.recorders[k].is_done for k in keys):
            await asyncio.sleep(0.05)

    recording = asyncio.create_task(record())
    try:
        for _ in range(kills):
            await asyncio.sleep(up_s)
            await asyncio.to_thread(broker.stop, by=signal.SIGKILL)
            down = time.monotonic()
            while (left_s := down + away_s - time.monotonic()) > 0:
                await asyncio.sleep(min(left_s, _MEMORY_EVERY_S))
                memory.append(_memory_mib())
            await asyncio.to_thread(broker.start)
            downs.append(time.monotonic() - down)
            if waiting := monitor.publisher.spool.num_events:
                drains.append(await _drained(monitor, waiting))
            memory.append(_memory_mib())
        ended = True
        await recording
        async with asyncio.timeout(_DRAIN_S):
            while monitor.publisher.spool.num_events or monitor.publisher.num_held:
                await asyncio.sleep(0.05)
        found = []
        for partition, (at, end) in (await bus.bounds(Topic.RAW_EVENTS)).items():
            while at < end and (page := await bus.read(Topic.RAW_EVENTS, partition, at, 2_000)):
                events = [json.loads(m.value) for m in page]
                found += [(e["session"], e["seq"]) for e in events]
                at = page[-1].offset + 1
    finally:
        stop.set()
        await asyncio.gather(running, return_exceptions=True)
        await bus.close()
        await asyncio.to_thread(broker.stop)
    first = list(dict.fromkeys(found))
    by_session: dict[str, list[int]] = {}
    for session, seq in first:
        by_session.setdefault(session, []).append(seq)
    in_order = all(seqs == list(range(rate)) for seqs in by_session.values())
    return {
        "kills": kills, "away_s": [round(s, 1) for s in downs], "rate_per_s": rate,
        "seconds": round(time.monotonic() - began), "recorded": num_events, "on_topic": len(found),
        "lost": num_events - len(first), "in_order": in_order,
        "most_spooled": max((n for n, _ in drains), default=0),
        "drained_per_s": [round(n / s) for n, s in drains],
        "memory_mib": memory, "peak_memory_mib": _peak_mib(), "load_average": os.getloadavg()[0],
    }  # fmt: skip


async def _drained(monitor: Monitor, waiting: int) -> tuple[int, float]:
    """Wait until the spool is empty; return how many waited, and seconds from the first that went.

    What is recorded meanwhile waits behind them and is not counted.
    """
    spool = monitor.publisher.spool
    async with asyncio.timeout(_DRAIN_S):
        while spool.num_events >= waiting:  # the client has yet to find the broker again
            waiting = spool.num_events
            await asyncio.sleep(0.01)
        began = time.monotonic()
        while spool.num_events:
            await asyncio.sleep(0.01)
    return waiting, time.monotonic() - began


def _memory_mib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> int:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.broker", description=__doc__)
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--away", type=float, default=0.0, help="seconds away, each time")
    parser.add_argument("--rate", type=int, default=200, help="events per second")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(
            broker_torture(
                Path(folder), kills=options.kills, away_s=options.away, rate=options.rate
            )
        )
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    return 0 if figures["lost"] == 0 and figures["in_order"] else 1


if __name__ == "__main__":
    sys.exit(main())
