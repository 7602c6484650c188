"""A training that outlasts max_poll_interval on a real broker, with another asked for meanwhile.

The trainer is a real process and is killed once while it trains: exactly one model each.
"""

import asyncio
from pathlib import Path

import pytest

from shared.artifacts import ARTIFACT_TABLE
from shared.bus import Bus, Effects, open_bus
from shared.clock import SystemClock
from shared.schemas import ModelStatus, RoutineStatus
from shared.topics import Room
from tests.kafka.broker import Broker
from tests.unit.agent_trainer.process import TrainerProcess, cards, shown

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(900)]

MAX_POLL_MS = 3_000


async def learned(bus: Bus, artifacts: Path, name: str) -> None:
    """Keep a routine's artifacts and publish its approved record, as the learner does."""
    port = await bus.open_port(Room.TASK_LEARNER, (), ARTIFACT_TABLE, "")
    effects = Effects(Room.TASK_LEARNER)
    approved = {"routine_id": name, "id": f"{name}-1", "status": RoutineStatus.APPROVED}
    effects.publish(shown(artifacts, 4, effects).model_copy(update=approved))
    await port.commit(effects)
    await port.close()


async def ready(bus: Bus) -> list[str]:
    """Return the subject of every ready card that was ever published."""
    return sorted(c.subject_id for c in await cards(bus) if c.status is ModelStatus.READY)


async def test_a_training_longer_than_max_poll_interval_and_a_kill_make_one_model_each(
    kafka: Broker, tmp_path: Path
):
    limits = f"max_poll_interval_ms={MAX_POLL_MS}&session_timeout_ms=6000"
    trainer = TrainerProcess(
        tmp_path, f"kafka://{kafka.address}?{limits}", WAT_AGENT_TRAINER_NUM_VARIANTS="2"
    )
    artifacts = trainer.data / "artifacts"
    bus = open_bus(f"kafka://{kafka.address}", tmp_path / "rooms", SystemClock())

    async def both() -> bool:
        return len(await ready(bus)) >= 2

    try:
        async with trainer:
            await learned(bus, artifacts, "first")
            await trainer.until(lambda: trainer.has_kept(""), 120)
            await learned(bus, artifacts, "second")
            await asyncio.sleep(2 * MAX_POLL_MS / 1000)
            assert await ready(bus) == []  # it outlasts the interval
            await trainer.kill()
            await trainer.start()
            await trainer.until(both, 600)
            await asyncio.sleep(2.0)
            assert await ready(bus) == ["first", "second"]
    finally:
        await bus.close()
