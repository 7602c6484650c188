"""The broker killed again and again, or away for long, while the monitor records.

`make torture-broker`, or `python -m tests.torture.broker` with `--kills 20` or `--away 600`. The
monitor is a process of its own, `wat serve user-monitor` as shipped, so that its memory is told
from this one's. Prints the counts; exit 1 where an event was lost or out of order.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import apsw

from shared.bus import open_bus
from shared.clock import SystemClock
from shared.topics import Room, Topic
from tests.contract.records import ui_event
from tests.kafka.broker import Broker
from tests.torture.course import ALL_VALUES
from tests.torture.fleet import Fleet

__all__ = ["broker_torture"]

_DRAIN_S = 300.0
_LOOK_S = 0.02
_MEMORY_EVERY_S = 30.0


class Watched:
    """A monitor in a process of its own, recorded at a steady rate."""

    def __init__(self, folder: Path, address: str, rate: int) -> None:
        folder.mkdir(parents=True)
        self.url = f"kafka://{address}"
        self.fleet = Fleet(folder / "monitor", {"WAT_BUS_URL": self.url})
        self.rate = rate
        self.num_events = 0
        self.memory: list[tuple[int, int]] = []  # seconds since the start, MiB
        self._store = folder / "monitor" / "data" / "kafka" / f"{Room.USER_MONITOR}.sqlite3"
        self._began = time.monotonic()
        self._recording = True

    async def start(self) -> None:
        """Start the monitor and allow it to record."""
        await self.fleet.start(one_process=False, rooms=[Room.USER_MONITOR])
        await self.fleet.ask("POST", Room.USER_MONITOR, "consents", ALL_VALUES)

    async def record(self) -> None:
        """Have a log of one second recorded each second, whether or not the last got through."""
        starting = time.monotonic()
        while self._recording:
            content = "\n".join(
                ui_event(seq, session=f"log-{self.num_events}")
                .model_copy(update={"time_ms": 1_700_000_000_000 + seq * 1000 // self.rate})
                .model_dump_json(exclude_none=True)
                for seq in range(self.rate)
            )
            await self.fleet.ask(
                "POST", Room.USER_MONITOR, "replay", {"content": content, "speed": 1.0}
            )
            self.num_events += self.rate
            await asyncio.sleep(max(0.0, starting + self.num_events / self.rate - time.monotonic()))

    async def remember_memory(self) -> None:
        """Look at the monitor's memory every half minute."""
        while True:
            self.memory.append((round(time.monotonic() - self._began), self._memory("VmRSS")))
            await asyncio.sleep(_MEMORY_EVERY_S)

    async def end(self, recording: asyncio.Task[None]) -> None:
        """Record no more; wait until nothing waits in the monitor, on disk or in memory."""
        self._recording = False
        await recording
        async with asyncio.timeout(_DRAIN_S):
            while self._num_taken() < self.num_events or self.num_spooled():
                await asyncio.sleep(0.05)

    def peak_mib(self) -> int:
        """Return the most memory that the monitor ever had."""
        return self._memory("VmHWM")

    def num_spooled(self) -> int:
        """Return how many events wait on disk."""
        [(first, last)] = self._asked(
            "SELECT (SELECT n FROM spool ORDER BY n LIMIT 1),"
            " (SELECT n FROM spool ORDER BY n DESC LIMIT 1)"
        )
        return 0 if first is None else last - first + 1

    async def drained(self) -> tuple[int, int, float]:
        """Wait until nothing is spooled.

        Returns how many waited at most, and how many then went in how many seconds, from the
        moment at which the first are seen to have gone; what is recorded meanwhile is not counted.
        """
        waiting = self.num_spooled()
        async with asyncio.timeout(_DRAIN_S):
            while (now := self.num_spooled()) >= waiting:  # the broker has yet to be found again
                waiting = now
                await asyncio.sleep(_LOOK_S)
            began = time.monotonic()
            while self.num_spooled():
                await asyncio.sleep(_LOOK_S)
        return waiting, now, time.monotonic() - began

    async def on_topic(self) -> list[tuple[str, int]]:
        """Return session and seq of what stands on the topic, in order."""
        bus = open_bus(self.url, self.fleet.folder / "reader", SystemClock())
        found = []
        try:
            for partition, (at, end) in (await bus.bounds(Topic.RAW_EVENTS)).items():
                while at < end and (page := await bus.read(Topic.RAW_EVENTS, partition, at, 2_000)):
                    events = [json.loads(m.value) for m in page]
                    found += [(e["session"], e["seq"]) for e in events]
                    at = page[-1].offset + 1
        finally:
            await bus.close()
        return found

    def _memory(self, name: str) -> int:
        status = Path(f"/proc/{self.fleet.units[0].pid}/status").read_text()
        return int(status.partition(f"{name}:")[2].split()[0]) // 1024

    def _num_taken(self) -> int:
        [(num,)] = self._asked("SELECT coalesce(sum(num_events), 0) FROM sessions")
        return int(num)

    def _asked(self, sql: str) -> list[Any]:
        with apsw.Connection(str(self._store), flags=apsw.SQLITE_OPEN_READONLY) as connection:
            connection.set_busy_timeout(5_000)
            return connection.execute(sql).fetchall()


async def broker_torture(
    folder: Path, *, kills: int, away_s: float, rate: int, up_s: float = 5.0
) -> dict[str, Any]:
    """Record at `rate` events per second while the broker is down `kills` times for `away_s`."""
    (folder / "broker").mkdir(parents=True)
    broker = Broker(folder / "broker")
    await asyncio.to_thread(broker.start)
    watched = Watched(folder / "watched", broker.address, rate)
    downs: list[float] = []
    drains: list[tuple[int, int, float]] = []
    began = time.monotonic()
    await watched.start()
    background = [asyncio.create_task(one()) for one in (watched.record, watched.remember_memory)]
    try:
        for _ in range(kills):
            await asyncio.sleep(up_s)
            await asyncio.to_thread(broker.stop, by=signal.SIGKILL)
            down = time.monotonic()
            await asyncio.sleep(away_s)
            await asyncio.to_thread(broker.start)
            downs.append(time.monotonic() - down)
            if watched.num_spooled():
                drains.append(await watched.drained())
        await asyncio.sleep(up_s)
        watched.fleet.check()
        await watched.end(background[0])
        figures = _judged(watched, await watched.on_topic())
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await watched.fleet.close()
        await asyncio.to_thread(broker.stop)
    return {
        "kills": kills, "away_s": [round(s, 1) for s in downs], "rate_per_s": rate,
        "seconds": round(time.monotonic() - began), **figures,
        "most_spooled": max((most for most, _, _ in drains), default=0),
        # Where all went at once between two looks there is nothing to measure.
        "drained_per_s": [round(num / seconds) for _, num, seconds in drains if num],
        "load_average": os.getloadavg()[0],
    }  # fmt: skip


def _judged(watched: Watched, found: list[tuple[str, int]]) -> dict[str, Any]:
    """Say what is lost or out of order; at-least-once allows what is doubled."""
    by_session: dict[str, list[int]] = {}
    for session, seq in dict.fromkeys(found):
        by_session.setdefault(session, []).append(seq)
    return {
        "recorded": watched.num_events, "on_topic": len(found),
        "doubled": len(found) - len(set(found)), "lost": watched.num_events - len(set(found)),
        "in_order": all(seqs == list(range(watched.rate)) for seqs in by_session.values()),
        "memory_mib": watched.memory, "peak_memory_mib": watched.peak_mib(),
    }  # fmt: skip


def main() -> int:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.broker", description=__doc__)
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--away", type=float, default=0.0, help="seconds away, each time")
    parser.add_argument("--rate", type=int, default=200, help="events per second")
    options = parser.parse_args()
    os.umask(0o077)  # a data folder that others can open is refused
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
