"""Recordings of people's small tasks -> a routine with traces, as the learner would hand it on.

What a recording is called serves to find and cache it and goes no further: routine, traces and
snapshots hold nothing of it, and one fixed setting trains all of them.
"""

import hashlib
import json
import lzma
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from random import Random

from services.user_monitor.capture.replay_demonstrations import read_demonstrations
from services.user_monitor.consent import Allowance
from services.user_monitor.privacy import Redactor
from shared.artifacts import Artifacts
from shared.bus.base import Effects
from shared.schemas import (
    Level,
    Origin,
    Routine,
    RoutineStatus,
    Source,
    Trace,
    TraceRef,
    derive_id,
)
from shared.secret_kinds import KEEPABLE
from shared.topics import Room

MAX_DEMONSTRATIONS = 60
_ALLOWED = Allowance(Level.VALUES, KEEPABLE)


@dataclass(frozen=True)
class Recordings:
    """The demonstrations of one task: JSON lines, the worker's sitting of each, and a digest."""

    lines: tuple[bytes, ...]
    sittings: tuple[str, ...]
    digest: str


def read_recordings(
    file: Path, limit: int = MAX_DEMONSTRATIONS, *, failed_too: bool = False, draw: int = 0
) -> Recordings:
    """Return `limit` demonstrations of a file: successful ones, or with `failed_too` any.

    Draw 0 takes the first; any other draws at random from all, keeping their order.
    """
    lines, sittings = [], []
    with lzma.open(file, "rb") as stream:
        for line in stream:
            known = json.loads(line)
            if known["states"] and (failed_too or known["rawReward"] == 1):
                lines.append(line)
                sittings.append(derive_id(str(known["session"])))
    places = list(range(len(lines)))[:limit]
    if draw:
        places = sorted(Random(draw).sample(range(len(lines)), min(limit, len(lines))))  # noqa: S311
    lines, sittings = [lines[i] for i in places], [sittings[i] for i in places]
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    return Recordings(tuple(lines), tuple(sittings), digest)


def write_routine(recordings: Recordings, folder: Path) -> Routine:
    """Write traces and snapshots into `folder` as the learner does; return the routine."""
    artifacts = Artifacts(folder, Room.TASK_LEARNER)
    effects = Effects(Room.TASK_LEARNER)
    redactor = Redactor(b"bench" * 8)
    routine_id = derive_id(recordings.digest)
    refs = []
    for number, (line, sitting) in enumerate(
        zip(recordings.lines, recordings.sittings, strict=True)
    ):
        trace_id = derive_id(routine_id, number)
        events = []
        for seq, capture in enumerate(read_demonstrations(BytesIO(line))):
            snapshot = redactor.snapshot(capture, _ALLOWED)
            digest = snapshot and artifacts.put(
                snapshot.model_dump_json(exclude_none=True).encode(), effects
            )
            events.append(
                redactor.event(
                    capture, _ALLOWED, event_id=derive_id(trace_id, seq), user_id="bench",
                    source=Source.REPLAY, session=sitting, seq=seq, boot_id=None,
                    snapshot=digest, demonstration=None, showing=None,
                )
            )  # fmt: skip
        if not events:
            continue
        trace = Trace(
            trace_id=trace_id, routine_id=routine_id, user_id="bench", events=tuple(events),
            parameters={},
        )  # fmt: skip
        refs.append(
            TraceRef(
                trace_id=trace_id,
                digest=artifacts.put(trace.model_dump_json(exclude_none=True).encode(), effects),
                session=sitting,
                started_ms=number,
                ended_ms=number,
            )
        )
    return Routine(
        id=routine_id, time_ms=0, routine_id=routine_id, revision=1, user_id="bench",
        name="a routine", origin=Origin.MINED, status=RoutineStatus.APPROVED, level=Level.VALUES,
        applications=("demonstrations.example",), steps=(), parameters=(), support=len(refs),
        coverage=1.0, median_ms=0, traces=tuple(refs),
    )  # fmt: skip
