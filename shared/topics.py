"""Topic -> record types, key, retention; the only place a topic name is spelled."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["OWNERS", "TOPICS", "Room", "Topic", "TopicSpec", "dead_letters"]


class Room(StrEnum):
    """The four services; the value is the name on the command line and in REST paths."""

    USER_MONITOR = "user-monitor"
    TASK_LEARNER = "task-learner"
    AGENT_TRAINER = "agent-trainer"
    AGENT_RUNNER = "agent-runner"

    @property
    def package(self) -> str:
        """Return the import package's name under `services`."""
        return self.value.replace("-", "_")


class Topic(StrEnum):
    """The five topics."""

    RAW_EVENTS = "raw-events"
    TASKS = "tasks"
    MODELS = "models"
    RUNS = "runs"
    FORGETS = "forgets"


@dataclass(frozen=True, kw_only=True)
class TopicSpec:
    """What holds for one topic on both transports."""

    owner: Room
    key: str  # which field of the record is the key
    records: tuple[str, ...]  # CloudEvents types that may stand on it, without the prefix
    compact: bool  # keep the newest record of each key for ever, else retain by time and size
    retention_ms: int | None = None
    retention_bytes: int | None = None


_TWO_WEEKS_MS = 14 * 24 * 3600 * 1000
_FIVE_GIB = 5 * 1024**3

TOPICS: dict[Topic, TopicSpec] = {
    Topic.RAW_EVENTS: TopicSpec(
        owner=Room.USER_MONITOR, key="user_id", records=("ui-event",), compact=False,
        retention_ms=_TWO_WEEKS_MS, retention_bytes=_FIVE_GIB,
    ),
    Topic.TASKS: TopicSpec(
        owner=Room.TASK_LEARNER, key="routine_id", records=("routine",), compact=True
    ),
    Topic.MODELS: TopicSpec(
        owner=Room.AGENT_TRAINER, key="subject_id", records=("model-card",), compact=True
    ),
    Topic.RUNS: TopicSpec(
        owner=Room.AGENT_RUNNER, key="user_id", records=("run-mark", "run-outcome"),
        compact=False, retention_ms=_TWO_WEEKS_MS, retention_bytes=_FIVE_GIB,
    ),
    Topic.FORGETS: TopicSpec(
        owner=Room.USER_MONITOR, key="id", records=("forget-range",), compact=True
    ),
}  # fmt: skip

OWNERS: dict[Room, tuple[Topic, ...]] = {
    room: tuple(t for t, spec in TOPICS.items() if spec.owner is room) for room in Room
}


def dead_letters(room: Room) -> str:
    """Return the name of a room's dead-letter topic, which the room itself owns."""
    return f"{room}.dead"
