"""A learner that is killed in mid-stream finds what one that nobody disturbs finds.

A real process on the embedded log, killed by SIGKILL while events come in: its routines, their
executions, and each stream's state (the model, and the labels it has given) are compared.
`WAT_TEST_KILLS` says how often.
"""

import asyncio
import contextlib
import json
import os
import random
import sqlite3
import sys
from pathlib import Path

import pytest

from shared.artifacts import ARTIFACT_TABLE, Artifacts
from shared.bus import Bus, Effects, Port, open_bus
from shared.clock import SystemClock
from shared.settings import CommonSettings
from shared.topics import Room
from tests.unit.task_learner import ui_logs

NUM_KILLS = int(os.environ.get("WAT_TEST_KILLS", "4"))
_CHORES_A_KILL = 8
_WINDOW = 300
_WORKER = f"""
import asyncio, sys
from pathlib import Path
from services.task_learner.main import Settings, build
from shared.bus import open_bus
from shared.clock import SystemClock
from shared.service import Service
from shared.settings import CommonSettings

async def main(folder):
    common = CommonSettings(data_dir=folder / "data", config_dir=folder / "config")
    clock = SystemClock()
    bus = open_bus(f"log:{{folder / 'log'}}", folder / "state", clock)
    logic, router = build(Settings(window_actions={_WINDOW}), common, clock)
    service = Service(logic, router, common, clock)
    await service.open(bus, "")
    stop = asyncio.Event()
    running = asyncio.create_task(service.run(stop))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    while any(one.num_unhandled for one in (await service.progress.measure(service.port)).inputs):
        await asyncio.sleep(0.05)
    stop.set()
    await running
    await bus.close()

asyncio.run(main(Path(sys.argv[1])))
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120 + 30 * NUM_KILLS)]


@contextlib.asynccontextmanager
async def learner(folder: Path):
    """Run a learner; kill it at the end unless it has ended."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _WORKER, str(folder),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def monitor(folder: Path):
    """Open the bus as user-monitor."""
    common = CommonSettings(data_dir=folder / "data", config_dir=folder / "config")
    common.make_folders()
    bus: Bus = open_bus(f"log:{folder / 'log'}", folder / "state", SystemClock())
    port: Port = await bus.open_port(Room.USER_MONITOR, (), ARTIFACT_TABLE, "")
    yield port, Artifacts(common.data_dir / "artifacts", Room.USER_MONITOR)
    await port.close()
    await bus.close()


async def publish(port, files, events, snapshots):
    effects = Effects(Room.USER_MONITOR)
    for data in snapshots.values():
        files.put(data, effects)
    for event in events:
        effects.publish(event)
    await port.commit(effects)


async def finish(folder: Path):
    """Let a learner read to the end; return what it found."""
    async with learner(folder) as process:
        await process.communicate(b"\n")
        assert process.returncode == 0
    [path] = (folder / "log").glob("tasks.sqlite3")
    with contextlib.closing(sqlite3.connect(path)) as store:
        routines = store.execute("SELECT routine_id, pattern, record FROM routines").fetchall()
        traces = store.execute("SELECT trace_id, routine_id, trace FROM traces").fetchall()
        streams = store.execute("SELECT user_id, state FROM streams").fetchall()
    kept = ("name", "status", "revision", "support", "coverage", "steps", "parameters", "traces")
    found = {
        routine_id: (pattern, *(json.loads(record).get(field) for field in kept))
        for routine_id, pattern, record in routines
    }
    return found, sorted(traces), streams


async def test_a_learner_killed_in_mid_stream_finds_the_same(tmp_path, record_property):
    log = ui_logs.person(11, claims=NUM_KILLS * _CHORES_A_KILL // 2 + 8, mails=NUM_KILLS * 3 + 6)
    async with monitor(tmp_path / "calm") as (port, files):
        await publish(port, files, log.events, log.snapshots)
        wanted = await finish(tmp_path / "calm")
    rng = random.Random(12)  # noqa: S311
    cuts = sorted(rng.sample(range(1, len(log.events)), NUM_KILLS))
    async with monitor(tmp_path / "killed") as (port, files):
        await publish(port, files, (), log.snapshots)
        for begin, end in zip((0, *cuts), cuts, strict=False):
            async with learner(tmp_path / "killed"):
                middle = rng.randrange(begin, end)
                await publish(port, files, log.events[begin:middle], {})
                await asyncio.sleep(rng.uniform(0, 0.2))
                await publish(port, files, log.events[middle:end], {})
                await asyncio.sleep(rng.uniform(0, 0.2))
        await publish(port, files, log.events[cuts[-1] :], {})
        found = await finish(tmp_path / "killed")
    record_property("events", len(log.events))
    record_property("routines", len(wanted[0]))
    assert len(wanted[0]) == 2
    assert len(wanted[2]) == 1
    assert found == wanted
