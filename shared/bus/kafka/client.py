"""Clients of the broker: how they start, fail and end, and one that only asks.

Does not cover: what is sent (`port`) and read (`subscription`).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, TypeVar, cast

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import IllegalStateError, KafkaError

from shared.bus.base import Message
from shared.errors import BusUnavailable

__all__ = [
    "REQUEST_MS",
    "STOP_LIMIT_S",
    "Asker",
    "asked",
    "cut_off",
    "message_of",
    "started",
    "stopped",
]

REQUEST_MS = 10_000
"""After this a batch without an acknowledgement counts as failed, and the frame sends it again."""

STOP_LIMIT_S = 5.0
_START_LIMIT_S = 60.0
_START_RETRY_S = 1.0

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Asker:
    """Asks where partitions begin and end, on a connection of its own.

    The broker answers one connection's requests in order: behind a fetch that waits for records, an
    answer takes half a second.
    """

    def __init__(self, client: Mapping[str, Any]) -> None:
        """Ask by means of what a client is made with."""
        self._client = client
        self._consumer: AIOKafkaConsumer | None = None
        self._starting = asyncio.Lock()

    async def places(self, topic: str) -> list[TopicPartition]:
        """Return a topic's partitions. Raises BusUnavailable."""
        cluster = await asked((await self._started())._client.fetch_all_metadata())
        partitions = cluster.partitions_for_topic(topic) or set()
        return [TopicPartition(topic, p) for p in sorted(partitions)]

    async def bounds(
        self, places: Collection[TopicPartition]
    ) -> dict[TopicPartition, tuple[int, int]]:
        """Return the oldest offset of each partition, and the next one. Raises BusUnavailable."""
        consumer = await self._started()
        oldest = await asked(consumer.beginning_offsets(places))
        following = await asked(consumer.end_offsets(places))
        return {place: (oldest[place], following[place]) for place in places}

    async def ends(self, places: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the next offset of each partition. Raises BusUnavailable."""
        found = await asked((await self._started()).end_offsets(places))
        return cast("dict[TopicPartition, int]", found)

    async def close(self) -> None:
        """Let go of the connection."""
        if self._consumer is not None:
            await stopped(self._consumer)
            self._consumer = None

    async def _started(self) -> AIOKafkaConsumer:
        async with self._starting:
            if self._consumer is None:
                self._consumer = await started(lambda: AIOKafkaConsumer(**self._client))
        return self._consumer


def message_of(record: Any) -> Message:
    """Return a record as the rooms see it."""
    return Message(
        record.topic,
        record.partition,
        record.offset,
        record.key or b"",
        record.value or b"",
        tuple(record.headers),
        record.timestamp,
    )


async def asked(answer: Awaitable[T]) -> T:
    """Wait for the broker; its errors become BusUnavailable, save the ones callers look for."""
    try:
        return await answer
    except IllegalStateError:
        raise
    except (KafkaError, OSError) as error:
        raise BusUnavailable(f"the broker does not answer ({error!r}): is it running?") from error


async def started(make: Callable[[], T]) -> T:
    """Make a client and start it, waiting up to a minute for the broker. Raises BusUnavailable."""
    deadline = time.monotonic() + _START_LIMIT_S
    while True:
        client: Any = make()
        try:
            await client.start()
        except (KafkaError, OSError) as error:
            await stopped(client)
            if time.monotonic() >= deadline:
                raise BusUnavailable(
                    f"no broker answers at the address of WAT_BUS_URL ({error!r}): start it, "
                    "correct the address, or, where the broker has accounts, add "
                    "?user=NAME&password_file=PATH"
                ) from error
            _log.warning("waiting for the broker")
            await asyncio.sleep(_START_RETRY_S)
        except BaseException:
            await stopped(client)
            raise
        else:
            return cast("T", client)


async def stopped(client: Any) -> None:
    """Stop a client; one that waits for a broker that is away is cut off after a while."""
    try:
        async with asyncio.timeout(STOP_LIMIT_S):
            await (client.close() if isinstance(client, AIOKafkaAdminClient) else client.stop())
    except (KafkaError, OSError, TimeoutError) as error:
        _log.warning("a broker's client did not end: %s", type(error).__name__)
        if isinstance(client, AIOKafkaProducer):
            await cut_off(client)


async def cut_off(producer: AIOKafkaProducer) -> None:
    """End a producer without sending what it still holds, as its own `stop` would."""
    producer._closed = True
    await producer._sender.close()
    await producer.client.close()
