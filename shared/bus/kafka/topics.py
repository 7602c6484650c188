"""How the project's topics are made on a broker: retention, compaction, whose clock counts."""

from collections.abc import Sequence

from aiokafka.admin import NewTopic

from shared.topics import TOPICS, Room, Topic, TopicSpec, dead_letters

__all__ = ["DEAD_KEPT_MS", "SEGMENT_MS", "new_topics"]

SEGMENT_MS = 24 * 3600 * 1000
_SEGMENT_BYTES = 64 * 1024 * 1024
"""The broker deletes whole files, and keeps a limit to within one of them."""

DEAD_KEPT_MS = 14 * 24 * 3600 * 1000

_DEAD_CONFIG = {
    "retention.ms": str(DEAD_KEPT_MS),
    "segment.ms": str(SEGMENT_MS),
    "message.timestamp.type": "LogAppendTime",
}


def new_topics(names: Sequence[str], num_partitions: int) -> list[NewTopic]:
    """Return how those of `names` that are the project's are to be made."""
    dead = {dead_letters(room) for room in Room}
    return [_named(name, 1, _DEAD_CONFIG) for name in names if name in dead] + [
        _new(topic, TOPICS[topic], num_partitions) for topic in TOPICS if str(topic) in names
    ]


def _new(topic: Topic, spec: TopicSpec, num_partitions: int) -> NewTopic:
    config = {"message.timestamp.type": "LogAppendTime", "segment.ms": str(SEGMENT_MS)}
    if spec.compact:
        # Within a day at the latest: what is replaced may have been forgotten.
        config |= {"cleanup.policy": "compact", "max.compaction.lag.ms": str(SEGMENT_MS)}
    if spec.retention_ms is not None:
        config |= {"retention.ms": str(spec.retention_ms)}
    if spec.retention_bytes is not None:
        most = max(_SEGMENT_BYTES, spec.retention_bytes // num_partitions - _SEGMENT_BYTES)
        config |= {"retention.bytes": str(most), "segment.bytes": str(_SEGMENT_BYTES)}
    return _named(str(topic), num_partitions, config)


def _named(name: str, num_partitions: int, config: dict[str, str]) -> NewTopic:
    topic = NewTopic(name, num_partitions, 1, topic_configs=config)
    topic.replication_factor = -1  # the broker's default, which the constructor does not take
    return topic
