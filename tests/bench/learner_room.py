"""task-learner as a whole on one core: a log on the bus in, routines and traces out.

    python -m tests.bench.learner_room [EVENTS] [--profile FILE]

The log is synthetic (`tests/unit/task_learner/ui_logs.py`): two chores of one person among other
work, with snapshots. Publishing it is not timed. Reading, decoding, discovery, traces and the
room's store are, in processor time of all threads.
"""

import argparse
import asyncio
import cProfile
import json
import os
import resource
import tempfile
import time
from pathlib import Path

from services.task_learner.main import Settings, build
from shared.artifacts import ARTIFACT_TABLE, Artifacts
from shared.bus import Bus, Effects, open_bus
from shared.clock import SystemClock
from shared.service import Service
from shared.settings import CommonSettings
from shared.topics import Room
from tests.unit.task_learner import ui_logs

_PAGE = 2_000
_EVENTS_A_CHORE = 16


async def publish(bus: Bus, common: CommonSettings, log: ui_logs.Log) -> None:
    """Put a log on the bus as user-monitor does."""
    port = await bus.open_port(Room.USER_MONITOR, (), ARTIFACT_TABLE, "")
    files = Artifacts(common.data_dir / "artifacts", Room.USER_MONITOR)
    effects = Effects(Room.USER_MONITOR)
    for data in log.snapshots.values():
        files.put(data, effects)
    for number, event in enumerate(log.events, 1):
        effects.publish(event)
        if number % _PAGE == 0:
            await port.commit(effects)
            effects = Effects(Room.USER_MONITOR)
    await port.commit(effects)
    await port.close()


async def measure(folder: Path, num_events: int, profile: Path | None) -> dict[str, object]:
    """Replay a log through the room; return what it took."""
    common = CommonSettings(data_dir=folder / "data", config_dir=folder / "config")
    common.make_folders()
    clock = SystemClock()
    bus = open_bus(f"log:{folder / 'log'}", folder / "state", clock)
    chores = num_events // _EVENTS_A_CHORE
    log = ui_logs.person(1, claims=chores - chores // 3, mails=chores // 3)
    await publish(bus, common, log)
    num_events, log = len(log.events), None
    logic, router = build(Settings(), common, clock)
    service = Service(logic, router, common, clock)
    await service.open(bus, "")
    stop = asyncio.Event()
    profiler = cProfile.Profile(time.process_time) if profile is not None else None
    before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started, started_cpu = time.perf_counter(), time.process_time()
    if profiler is not None:
        profiler.enable()
    running = asyncio.create_task(service.run(stop))
    while any(one.num_unhandled for one in (await service.progress.measure(service.port)).inputs):
        await asyncio.sleep(0.2)
    cpu_s = time.process_time() - started_cpu
    if profiler is not None:
        profiler.disable()
        profiler.dump_stats(profile)
    stop.set()
    await running
    found = {
        "events": num_events, "cpu_s": round(cpu_s, 2),
        "seconds": round(time.perf_counter() - started, 2),
        "events_per_cpu_s": round(num_events / cpu_s),
        "rss_growth_mb": round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_mb, 1
        ),
        "routines": sorted((k.name, k.support) for k in logic.routines.values() if k.is_live),
        "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip
    await bus.close()
    return found


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("events", type=int, nargs="?", default=200_000)
    parser.add_argument("--profile", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(Path(folder), options.events, options.profile))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
