"""Try what the broker must refuse; run by `up_check.py` inside a container, on standard input.

As each user: write to every topic that is not its own. Without a password, and with a wrong one:
connect at all. Ends with an error at the first thing that is let through.
"""

import asyncio
import logging
import sys
from pathlib import Path

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, TopicAuthorizationFailedError

from shared.topics import OWNERS, Room, Topic

_BROKER = "kafka:9092"


def producer(user: str | None = None, password: str = "") -> AIOKafkaProducer:
    """Return a producer of this user, or of nobody."""
    named = {} if user is None else {
        "security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": user, "sasl_plain_password": password,
    }  # fmt: skip
    return AIOKafkaProducer(bootstrap_servers=_BROKER, request_timeout_ms=5_000, **named)


async def refuses_writes(user: str, own: set[str]) -> int:
    """Count the topics that the user may not write. Raises AssertionError."""
    client = producer(user, Path(f"/config/kafka/{user}").read_text().strip())  # noqa: ASYNC240
    await client.start()
    num_refused = 0
    try:
        for topic in sorted(set(map(str, Topic)) - own):
            try:
                await client.send_and_wait(topic, b"{}")
            except TopicAuthorizationFailedError:
                num_refused += 1
            else:
                raise AssertionError(f"{user} wrote to {topic}")
    finally:
        await client.stop()
    return num_refused


async def refuses_connection(client: AIOKafkaProducer, who: str) -> None:
    """Raise AssertionError if it may connect."""
    try:
        await asyncio.wait_for(client.start(), 20)
    except KafkaConnectionError:
        return
    finally:
        await client.stop()
    raise AssertionError(f"{who} may connect")


async def main() -> None:
    """Try all of it."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    num_refused = await refuses_writes("downstream", set())
    for room in Room:
        num_refused += await refuses_writes(room, set(map(str, OWNERS[room])))
    await refuses_connection(producer(Room.USER_MONITOR, "wrong"), "a wrong password")
    await refuses_connection(producer(), "nobody")
    sys.stdout.write(f"{num_refused} writes to topics of others, a wrong password, and none\n")


if __name__ == "__main__":
    asyncio.run(main())
