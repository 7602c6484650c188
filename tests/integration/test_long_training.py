"""A training that outlasts max_poll_interval on a real broker, with another asked for meanwhile.

The trainer is a real process and is killed once while it trains: exactly one model each.
"""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from shared.artifacts import ARTIFACT_TABLE, Artifacts
from shared.bus import Bus, Effects, open_bus
from shared.clock import SystemClock
from shared.schemas import ModelCard, ModelStatus, Routine, RoutineStatus, decode
from shared.topics import Room, Topic
from tests.kafka.broker import Broker
from tests.unit.agent_trainer.club import demonstrations, routine

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(900)]

MAX_POLL_MS = 3_000


async def learned(bus: Bus, data: Path, name: str) -> Routine:
    """Keep a routine's artifacts as the learner does; return its approved record."""
    port = await bus.open_port(Room.TASK_LEARNER, (), ARTIFACT_TABLE, "")
    files, effects = Artifacts(data / "artifacts", Room.TASK_LEARNER), Effects(Room.TASK_LEARNER)
    traces, snapshots = demonstrations(4)
    for snapshot in snapshots.values():
        files.put(snapshot.model_dump_json().encode(), effects)
    digests = [files.put(t.model_dump_json().encode(), effects) for t in traces]
    record = routine(traces, digests).model_copy(
        update={"routine_id": name, "id": f"{name}-1", "status": RoutineStatus.APPROVED}
    )
    effects.publish(record)
    await port.commit(effects)
    await port.close()
    return record


async def ready(bus: Bus) -> list[str]:
    """Return the subject of every ready card that was ever published."""
    found = []
    for partition, (at, end) in (await bus.bounds(Topic.MODELS)).items():
        for message in await bus.read(Topic.MODELS, partition, at, end - at):
            card = decode(message.value, message.headers)
            if isinstance(card, ModelCard) and card.status is ModelStatus.READY:
                found.append(card.subject_id)
    return sorted(found)


async def test_a_training_longer_than_max_poll_interval_and_a_kill_make_one_model_each(
    kafka: Broker, tmp_path: Path
):
    data = tmp_path / "data"
    data.mkdir(mode=0o700)  # before the learner's files are in it: a room opens no other
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("WAT_")},
        "WAT_DATA_DIR": str(data), "WAT_CONFIG_DIR": str(tmp_path / "config"),
        "WAT_AGENT_TRAINER_NUM_VARIANTS": "2",
        "WAT_BUS_URL": f"kafka://{kafka.address}?max_poll_interval_ms={MAX_POLL_MS}"
        "&session_timeout_ms=6000",
    }  # fmt: skip

    async def trainer() -> asyncio.subprocess.Process:
        with (tmp_path / "trainer.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services", "serve", "agent-trainer", "--port", "0",
                env=environment, stdout=log, stderr=log,
            )  # fmt: skip

    bus = open_bus(f"kafka://{kafka.address}", tmp_path / "rooms", SystemClock())
    process = await trainer()
    try:
        await learned(bus, data, "first")
        work = data / "trainings"
        async with asyncio.timeout(120):
            while not (work.exists() and any(work.iterdir())):
                await asyncio.sleep(0.1)
        await learned(bus, data, "second")
        await asyncio.sleep(2 * MAX_POLL_MS / 1000)
        assert await ready(bus) == []  # it outlasts the interval
        process.kill()
        await process.wait()
        process = await trainer()
        async with asyncio.timeout(600):
            while len(await ready(bus)) < 2:
                assert process.returncode is None, (tmp_path / "trainer.log").read_text()
                await asyncio.sleep(0.5)
        await asyncio.sleep(2.0)
        assert await ready(bus) == ["first", "second"]
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
        await bus.close()
