"""Several tasks in one stream, as the learner sees a day's work: unlabelled, one application.

Each task's recordings follow each other in an order drawn at random; the tasks go on beside each
other, interleaved by recorded time, through the learner's own logic on an embedded log. Which task
an event was recorded on is kept beside the stream and used for one thing: to tell which page an
agent is to be played on.
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
_BATCH = 50


@dataclasses.dataclass(frozen=True)
class Found:
    """What the learner made of a stream."""

    routine: Routine
    events: Mapping[str, int]  # of its traces, by the task they were recorded on

    def share(self, task: str) -> float:
        """Return the share of its traces' events that are of a task."""
        return self.events.get(task, 0) / sum(self.events.values())


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
    """Return the events of all tasks by time: a person at work on as many things at once."""
    redactor = Redactor(b"bench" * 8)
    session, found = derive_id("stream", seed), []
    timed = []
    for number, (task, own) in enumerate(recordings.items()):
        lines = list(own.lines)
        Random(f"{seed} {number}").shuffle(lines)  # noqa: S311
        captures = read_demonstrations(BytesIO(b"".join(lines)))
        timed += [(c.time_ms, number, at, task, c) for at, c in enumerate(captures)]
    for _, _, _, task, capture in sorted(timed, key=lambda entry: entry[:3]):
        snapshot = redactor.snapshot(capture, _ALLOWED)
        digest = snapshot and artifacts.put(
            snapshot.model_dump_json(exclude_none=True).encode(), effects
        )
        event = redactor.event(
            capture, _ALLOWED, event_id=derive_id(session, len(found)), user_id="bench",
            source=Source.REPLAY, session=session, seq=len(found), boot_id=None,
            snapshot=digest, demonstration=None, showing=None,
        )  # fmt: skip
        found.append((task, event))
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
    return Found(record, votes)
