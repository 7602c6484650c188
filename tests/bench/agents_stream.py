"""Several tasks in one stream, as the learner sees a day's work: unlabelled, one application.

The recordings of some tasks are put one after the other in an order drawn at random and go through
the learner's own logic on an embedded log. Which task an event was recorded on is kept beside the
stream and used for one thing: to tell which page an agent is to be played on.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from random import Random

from services.task_learner.main import Settings, build
from services.user_monitor.capture.replay_demonstrations import read_demonstrations
from services.user_monitor.consent import Allowance
from services.user_monitor.privacy import Redactor
from shared.artifacts import ARTIFACT_TABLE, Artifacts
from shared.bus import Effects, open_bus
from shared.clock import SystemClock
from shared.schemas import (
    Level,
    Routine,
    RoutineStatus,
    Source,
    Trace,
    UiEvent,
    decode,
    derive_id,
)
from shared.secret_kinds import KEEPABLE
from shared.service import Service
from shared.settings import CommonSettings
from shared.topics import Room, Topic
from tests.bench.agents_data import Recordings

TASKS_TOGETHER = 3
_ALLOWED = Allowance(Level.VALUES, KEEPABLE)
_BETWEEN_MS = 5_000  # from the end of one execution to the next
_BATCH = 50


@dataclasses.dataclass(frozen=True)
class Found:
    """What the learner made of a stream."""

    routine: Routine
    task: str  # of most of its traces' events
    purity: float  # share of those events


async def found_in(recordings: Mapping[str, Recordings], folder: Path, seed: int) -> list[Found]:
    """Let the learner watch the tasks' recordings in one stream; return its live routines.

    Traces and snapshots lie under `folder`/data/artifacts afterwards, as the trainer reads them.
    """
    common = CommonSettings(data_dir=folder / "data", config_dir=folder / "config")
    common.make_folders()
    clock = SystemClock()
    bus = open_bus(f"log:{folder / 'log'}", folder / "state", clock)
    monitor = await bus.open_port(Room.USER_MONITOR, (), ARTIFACT_TABLE, "")
    artifacts = Artifacts(common.data_dir / "artifacts", Room.USER_MONITOR)
    effects = Effects(Room.USER_MONITOR)
    task_of: dict[str, str] = {}
    for task, event in _stream(recordings, artifacts, effects, seed):
        task_of[event.id] = task
        effects.publish(event)
    await monitor.commit(effects)

    logic, router = build(Settings(), common, clock)
    service = Service(logic, router, common, clock)
    await service.open(bus, "")
    try:
        await _drain(service)
        return [
            _judged(record, common.data_dir / "artifacts", task_of)
            for record in await _routines(service)
        ]
    finally:
        await service.port.close()
        await monitor.close()
        await bus.close()


def _stream(
    recordings: Mapping[str, Recordings], artifacts: Artifacts, effects: Effects, seed: int
) -> list[tuple[str, UiEvent]]:
    redactor = Redactor(b"bench" * 8)
    executions = [(task, line) for task, own in recordings.items() for line in own.lines]
    Random(seed).shuffle(executions)  # noqa: S311
    session, now_ms, found = derive_id("stream", seed), 1_600_000_000_000, []
    for task, line in executions:
        captures = list(read_demonstrations(BytesIO(line)))
        for capture in captures:
            at_ms = now_ms + capture.time_ms - captures[0].time_ms
            moved = dataclasses.replace(capture, time_ms=at_ms)
            snapshot = redactor.snapshot(moved, _ALLOWED)
            digest = snapshot and artifacts.put(
                snapshot.model_dump_json(exclude_none=True).encode(), effects
            )
            event = redactor.event(
                moved, _ALLOWED, event_id=derive_id(session, len(found)), user_id="bench",
                source=Source.REPLAY, session=session, seq=len(found), boot_id=None,
                snapshot=digest, demonstration=None, showing=None,
            )  # fmt: skip
            found.append((task, event))
        if captures:
            now_ms += captures[-1].time_ms - captures[0].time_ms + _BETWEEN_MS
    return found


async def _drain(service: Service) -> None:
    port = service.port
    while messages := await port.poll(_BATCH, 0.05):
        effects, positions = Effects(Room.TASK_LEARNER), {}
        for message in messages:
            service.logic.handle(decode(message.value, message.headers), message, effects)
            positions[message.topic, message.partition] = message.offset + 1
        await port.commit(effects, positions)


async def _routines(service: Service) -> list[Routine]:
    newest: dict[str, Routine] = {}
    for partition, (first, following) in (await service.port.bounds(Topic.TASKS)).items():
        for message in await service.port.read(Topic.TASKS, partition, first, following - first):
            record = decode(message.value, message.headers)
            assert isinstance(record, Routine)
            newest[record.routine_id] = record
    gone = (RoutineStatus.DELETED, RoutineStatus.IGNORED)
    return [record for record in newest.values() if record.status not in gone]


def _judged(record: Routine, root: Path, task_of: Mapping[str, str]) -> Found:
    files = Artifacts(root, Room.AGENT_TRAINER)
    votes: Counter[str] = Counter()
    for ref in record.traces:
        trace = Trace.model_validate(json.loads(files.get(ref.digest, Room.TASK_LEARNER)))
        votes.update(task_of[event.id] for event in trace.events)
    [(task, count)] = votes.most_common(1)
    return Found(record, task, count / votes.total())
