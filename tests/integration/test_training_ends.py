"""How a training ends early: by a limit of time or memory, with the reason; and a kill, which not.

Real child processes and, for the kill, a real service on the embedded log.
"""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from services.agent_trainer.child import run_child
from services.agent_trainer.options import TrainOptions
from services.agent_trainer.order import Order
from shared.artifacts import ARTIFACT_TABLE, Artifacts
from shared.bus import Effects, open_bus
from shared.clock import SystemClock
from shared.errors import TrainingError
from shared.module import parse
from shared.schemas import ModelCard, ModelStatus, RoutineStatus, decode
from shared.topics import Room, Topic
from tests.unit.agent_trainer.club import demonstrations, routine

# A child loads torch, which a busy machine makes slow.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_500)]

ENDLESS = TrainOptions(num_variants=20, num_epochs=500, patience=100, min_epochs=500)


def ordered(root: Path, options: TrainOptions = ENDLESS, **limits: int) -> Order:
    """Return an order on the club's demonstrations, kept under `root` as the learner does."""
    traces, snapshots = demonstrations(5)
    files, effects = Artifacts(root, Room.TASK_LEARNER), Effects(Room.TASK_LEARNER)
    for snapshot in snapshots.values():
        files.put(snapshot.model_dump_json().encode(), effects)
    digests = [files.put(t.model_dump_json().encode(), effects) for t in traces]
    return Order(
        routine=routine(traces, digests), options=options, data_digest="0" * 64, artifacts=root,
        folder=root, **{"cpu_limit_s": 300, "memory_limit_bytes": 4 << 30, **limits},
    )  # fmt: skip


async def trained(order: Order, wall_limit_s: float = 900) -> dict[str, object]:
    return await run_child(
        order.model_dump_json(), on_line=lambda line: None, wall_limit_s=wall_limit_s,
        stop=asyncio.Event(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "wall_limit_s", "reason"),
    [
        ({"cpu_limit_s": 10}, 400, "raise it"),
        ({}, 5, "raise wall_limit_s"),
        ({"memory_limit_bytes": 128 << 20}, 400, "MiB|memory_limit_mib"),
    ],
    ids=["processor", "clock", "memory"],
)
async def test_a_limit_ends_a_training_and_the_reason_says_what_to_raise(
    tmp_path, limits, wall_limit_s, reason
):
    with pytest.raises(TrainingError, match=reason):
        await trained(ordered(tmp_path, **limits), wall_limit_s)
    assert not (tmp_path / "module.wasm").exists()


async def test_a_killed_service_trains_anew_and_makes_the_module_that_an_undisturbed_one_makes(
    tmp_path,
):
    data, options = tmp_path / "data", TrainOptions(num_variants=2)
    data.mkdir(mode=0o700)
    order = ordered(data / "artifacts", options)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("WAT_")},
        "WAT_DATA_DIR": str(data), "WAT_CONFIG_DIR": str(tmp_path / "config"),
        "WAT_AGENT_TRAINER_NUM_VARIANTS": "2", "WAT_BUS_URL": f"log:{data / 'log'}",
    }  # fmt: skip

    async def trainer() -> asyncio.subprocess.Process:
        with (tmp_path / "trainer.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services", "serve", "agent-trainer", "--port", "0",
                env=environment, stdout=log, stderr=log,
            )  # fmt: skip

    bus = open_bus(environment["WAT_BUS_URL"], data, SystemClock())
    port = await bus.open_port(Room.TASK_LEARNER, (), ARTIFACT_TABLE, "")
    effects = Effects(Room.TASK_LEARNER)
    effects.publish(order.routine.model_copy(update={"status": RoutineStatus.APPROVED}))
    await port.commit(effects)

    async def cards() -> list[ModelCard]:
        found = []
        for partition, (at, end) in (await bus.bounds(Topic.MODELS)).items():
            for message in await bus.read(Topic.MODELS, partition, at, end - at):
                found.append(decode(message.value, message.headers))
        return found

    process = await trainer()
    try:
        async with asyncio.timeout(300):
            while not any((data / "trainings").glob("*")):
                await asyncio.sleep(0.02)
        process.kill()
        await process.wait()
        assert await cards() == []
        process = await trainer()
        async with asyncio.timeout(900):
            while not (made := await cards()):
                assert process.returncode is None, (tmp_path / "trainer.log").read_text()
                await asyncio.sleep(0.2)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
        await port.close()
        await bus.close()
    [card] = made
    assert card.status is ModelStatus.READY, card.reason
    module = Artifacts(data / "artifacts", Room.AGENT_TRAINER).get(card.artifact)
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    await trained(order.model_copy(update={"folder": undisturbed, "data_digest": card.data_digest}))
    again = (undisturbed / "module.wasm").read_bytes()
    assert parse(module).sections == parse(again).sections
