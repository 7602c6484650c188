import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest_asyncio

from services.agent_runner.api import router
from services.agent_runner.catalog import Catalog
from services.agent_runner.runner import RunAsked, Runner
from services.agent_runner.runs import RunRow, get_run
from services.agent_runner.settings import RunnerSettings
from shared.artifacts import ARTIFACT_TABLE, Artifacts
from shared.bus import Effects, Port, open_bus
from shared.clock import SystemClock
from shared.module import ActionEntry, Manifest
from shared.schemas import (
    Level,
    ModelCard,
    ModelKind,
    ModelStatus,
    Origin,
    Parameter,
    ParameterSource,
    Record,
    Routine,
    RoutineStatus,
    Step,
    decode,
)
from shared.schemas.raw_events import Action
from shared.service import Service
from shared.settings import CommonSettings
from shared.signing import SigningKey
from shared.topics import Room, Topic
from tests.unit.agent_runner.desk import START_URL, Desk, DeskScreen
from tests.unit.agent_runner.memory import Move, called, demonstrate, memorise

MOVES = (
    Move(ActionEntry(op="type_text", slot="customer"), called("Customer")),
    Move(ActionEntry(op="type_text", slot="city"), called("City")),
    Move(ActionEntry(op="click"), called("Save")),
)
SHOWN = ({"customer": "Ada Byron", "city": "London"}, {"customer": "Jo Fo", "city": "Oslo"})


def routine(routine_id: str = "routine-1", **changes: object) -> Routine:
    fields = {
        "id": f"{routine_id}-1",
        "time_ms": 1,
        "routine_id": routine_id,
        "revision": 1,
        "user_id": "user",
        "name": "Enter an order",
        "origin": Origin.TAUGHT,
        "status": RoutineStatus.APPROVED,
        "level": Level.VALUES,
        "applications": ("desk",),
        "steps": (Step(action=Action.EDIT, application="desk"),) * 3,
        "parameters": (
            Parameter(name="customer", source=ParameterSource.SCREEN, value_class="text"),
            Parameter(name="city", source=ParameterSource.TYPED, value_class="text"),
        ),
        "support": 2,
        "coverage": 0.5,
        "median_ms": 1000,
    }
    return Routine.model_validate({**fields, **changes})


def card(artifact: str | None, routine_id: str = "routine-1", **changes: object) -> ModelCard:
    fields = {
        "id": f"model-{routine_id}",
        "time_ms": 1,
        "kind": ModelKind.AGENT,
        "subject_id": routine_id,
        "name": "Enter an order",
        "status": ModelStatus.READY,
        "artifact": artifact,
    }
    return ModelCard.model_validate({**fields, **changes})


@dataclass
class Trainer:
    """The trainer's end of the bus: what it publishes and where its modules are."""

    port: Port
    artifacts: Artifacts
    key: SigningKey

    async def publish(self, record: Record) -> None:
        effects = Effects(Room.AGENT_TRAINER)
        effects.publish(record)
        await self.port.commit(effects)

    async def hand_over(self, module: bytes, **changes: object) -> ModelCard:
        effects = Effects(Room.AGENT_TRAINER)
        made = card(self.artifacts.put(module, effects), **changes)
        effects.publish(made)
        await self.port.commit(effects)
        return made


@dataclass
class Room_:
    """A running agent-runner on a log of its own, with an application to act on."""

    folder: Path
    desk: Desk
    trainer: Trainer
    learner: Port
    monitor: Port
    module: bytes
    clock: SystemClock
    service: Service
    logic: Runner
    begin: Callable[[], Awaitable[None]]
    crash: Callable[[], Awaitable[None]]
    screens: list[DeskScreen] = field(default_factory=list)

    async def until(self, condition: Callable[[], bool], timeout_s: float = 300) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.01)

    async def learn(self, module: bytes) -> None:
        made = await self.trainer.hand_over(module)
        await self.until(
            lambda: self.logic.catalog.agents["routine-1"].card.artifact == made.artifact
        )

    async def published(self, kind: type[Record]) -> list[Record]:
        messages = await self.logic.port.read(Topic.RUNS, 0, 0, 1000)
        found = [decode(message.value, message.headers) for message in messages]
        return [record for record in found if isinstance(record, kind)]

    async def ended(self, run_id: str) -> RunRow:
        """Wait for the end of the run's work, which may come after the end of the run."""
        jobs = "SELECT 1 FROM jobs WHERE id = ? AND state IN ('asked', 'running')"
        store = self.logic.port.store
        self.service.jobs.wake()
        await self.until(lambda: get_run(store, run_id).ended)
        await self.until(lambda: not store.query(jobs, (run_id,)))
        return get_run(self.logic.port.store, run_id)

    async def done(self, *records: dict[str, str], **asked: object) -> RunRow:
        fields = {"name": "Enter an order", "records": records, "approve": "once", **asked}
        run = await self.logic.ask(RunAsked(**fields))
        return await self.ended(run.run_id)


async def make_module(
    key: SigningKey,
    new_desk: Callable[[], Desk] = Desk,
    moves: Sequence[Move] = MOVES,
    **changes: object,
) -> bytes:
    lessons = [await demonstrate(DeskScreen(new_desk()), START_URL, moves, v) for v in SHOWN]
    return memorise(lessons, key, start_url=START_URL, slots=("customer", "city"), **changes)


@pytest_asyncio.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room_]:
    common = CommonSettings(data_dir=tmp_path, config_dir=tmp_path / "config", user_id="user")
    clock, desk = SystemClock(), Desk()
    bus = open_bus(common.bus, tmp_path, clock)
    key = SigningKey.load_or_create(tmp_path / "keys")
    trainer_port = await bus.open_port(Room.AGENT_TRAINER, (), ARTIFACT_TABLE, "")
    trainer = Trainer(trainer_port, Artifacts(tmp_path / "artifacts", Room.AGENT_TRAINER), key)
    learner = await bus.open_port(Room.TASK_LEARNER, (), "", "")
    monitor = await bus.open_port(Room.USER_MONITOR, (), "", "")
    settings = RunnerSettings(confirm_timeout_ms=100)
    running: list[tuple[asyncio.Task[None], asyncio.Event]] = []

    async def begin() -> None:
        async def open_actuator(manifest: Manifest, dry_run: bool) -> DeskScreen:
            held.screens.append(DeskScreen(desk))
            return held.screens[-1]

        artifacts = Artifacts(tmp_path / "artifacts", Room.AGENT_RUNNER)
        agents = Catalog(artifacts, tmp_path / "keys")
        held.logic = Runner(settings, "user", clock, artifacts, agents, open_actuator)
        held.service = Service(held.logic, router(held.logic), common, clock)
        await held.service.open(bus, "")
        stop = asyncio.Event()
        running.append((asyncio.create_task(held.service.run(stop)), stop))

    async def end() -> None:
        task, stop = running.pop()
        stop.set()
        await task

    async def crash() -> None:
        """End everything at once, as a kill does: nothing more is written."""
        task, _ = running.pop()
        await held.logic.port.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    held = Room_(
        tmp_path, desk, trainer, learner, monitor, await make_module(key), clock,
        None, None, begin, crash,
    )  # fmt: skip
    await begin()
    effects = Effects(Room.TASK_LEARNER)
    effects.publish(routine())
    await learner.commit(effects)
    await trainer.hand_over(held.module)
    await held.until(lambda: "routine-1" in held.logic.catalog.agents)
    yield held
    await end()
    await bus.close()
