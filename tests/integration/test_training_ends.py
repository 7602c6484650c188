"""How a training ends early: by a limit of time or memory, with the reason; and a kill, which not.

Real child processes and, for one kill, a real service on the embedded log.
"""

import asyncio
import json
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
from shared.schemas import ModelStatus, RoutineStatus
from shared.topics import Room
from tests.unit.agent_trainer.process import TrainerProcess, cards, shown

# A child loads torch, which a busy machine makes slow.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_500)]

ENDLESS = TrainOptions(num_variants=20, num_epochs=500, patience=100, min_epochs=500)
SHORT = TrainOptions(num_variants=2)
OUTPUTS = ("module.wasm", "weights.safetensors", "network.onnx")


def ordered(root: Path, options: TrainOptions = ENDLESS, **limits: int) -> Order:
    """Return an order on the club's demonstrations, kept under `root`."""
    return Order(
        routine=shown(root, 5), options=options, data_digest="0" * 64, artifacts=root,
        folder=root, **{"cpu_limit_s": 300, "memory_limit_bytes": 4 << 30, **limits},
    )  # fmt: skip


async def trained(order: Order, wall_limit_s: float = 900) -> list[dict[str, object]]:
    """Train as ordered; return the child's lines."""
    lines: list[dict[str, object]] = []
    await run_child(
        order.model_dump_json(), on_line=lines.append, wall_limit_s=wall_limit_s,
        stop=asyncio.Event(),
    )  # fmt: skip
    return lines


async def killed_at(order: Order, number: int) -> None:
    """Begin to train and end the child with SIGKILL at its so many-th epoch."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.agent_trainer.train",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    child.stdin.write(order.model_dump_json().encode() + b"\n")
    async for line in child.stdout:
        number -= json.loads(line)["event"] == "epoch"
        if not number:
            break
    child.kill()
    await child.wait()


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


async def test_a_training_killed_in_either_fit_goes_on_and_makes_the_very_same_files(tmp_path):
    order = ordered(tmp_path / "artifacts", SHORT)
    folders = {name: tmp_path / name for name in ("undisturbed", "trial", "final")}
    orders = {k: order.model_copy(update={"folder": folder}) for k, folder in folders.items()}
    for folder in folders.values():
        folder.mkdir()
    lines = await trained(orders["undisturbed"])
    num_trial = [line["event"] for line in lines if line["event"] in ("epoch", "fitting")].index(
        "fitting"
    )
    for name, number in (("trial", 3), ("final", num_trial + 3)):
        await killed_at(orders[name], number)
        assert not (folders[name] / "module.wasm").exists()
        again = await trained(orders[name])
        resumed = [line["epoch"] for line in again if line["event"] == "resumed"]
        assert len(resumed) == (1 if name == "trial" else 2)
        assert resumed[-1] >= 2  # the epoch that was told may not have been kept
        for output in OUTPUTS:
            made, expected = (folders[k] / output for k in (name, "undisturbed"))
            assert made.read_bytes() == expected.read_bytes(), output


async def test_a_killed_service_goes_on_with_the_training_and_leaves_nothing_of_it(tmp_path):
    bus_url = f"log:{tmp_path / 'data' / 'log'}"
    trainer = TrainerProcess(tmp_path, bus_url, WAT_AGENT_TRAINER_NUM_VARIANTS="2")
    order = ordered(trainer.data / "artifacts", SHORT)
    bus = open_bus(bus_url, trainer.data, SystemClock())
    port = await bus.open_port(Room.TASK_LEARNER, (), ARTIFACT_TABLE, "")
    effects = Effects(Room.TASK_LEARNER)
    effects.publish(order.routine.model_copy(update={"status": RoutineStatus.APPROVED}))
    await port.commit(effects)
    try:
        async with trainer:
            await trainer.until(lambda: trainer.has_kept("trial.safetensors"), 300)
            await trainer.kill()
            assert await cards(bus) == []
            assert await trainer.has_kept("trial.safetensors")
            await trainer.start()
            [card] = await trainer.until(lambda: cards(bus), 900)
            assert not list((trainer.data / "trainings").iterdir())
    finally:
        await port.close()
        await bus.close()
    assert card.status is ModelStatus.READY, card.reason
    module = Artifacts(trainer.data / "artifacts", Room.AGENT_TRAINER).get(card.artifact)
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    await trained(order.model_copy(update={"folder": undisturbed, "data_digest": card.data_digest}))
    assert parse(module).sections == parse((undisturbed / "module.wasm").read_bytes()).sections
