"""Prepare volumes and broker before the rooms start: keys, passwords, SCRAM users, an ACL per room.

`setup.py FOLDER` runs inside the broker's own network, where its LOCAL listener is, at each `up`;
twice is once. Writes `<config_dir>/token` and `<config_dir>/kafka/<user>` (0600) and the key that
signs modules where there are none, and that key's public half into FOLDER, for the runner. No
password stands on a command line or in a container's environment. Does not take away: an ACL or a
user that an older version made stays.

Source of the requests: Kafka's protocol guide (CreateAcls, AlterUserScramCredentials); of the
credentials: RFC 5802.
"""

import asyncio
import hashlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import for_code
from aiokafka.protocol.admin import CreateAclsRequest_v1
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    CompactArray,
    CompactBytes,
    CompactString,
    Int8,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from shared.settings import CommonSettings, load
from shared.signing import SigningKey
from shared.topics import OWNERS, Room, Topic, dead_letters

__all__ = ["DOWNSTREAM", "READS", "grants_of"]

BROKER = "127.0.0.1:9094"
DOWNSTREAM = "downstream"
"""Whoever goes on with what the rooms found: reads all topics, in groups named `downstream…`."""

READS: dict[Room, tuple[Topic, ...]] = {
    Room.USER_MONITOR: (Topic.FORGETS,),
    Room.TASK_LEARNER: (Topic.FORGETS, Topic.RUNS, Topic.RAW_EVENTS),
    Room.AGENT_TRAINER: (Topic.FORGETS, Topic.TASKS),
    Room.AGENT_RUNNER: (Topic.FORGETS, Topic.TASKS, Topic.MODELS),
}
"""Each room's inputs. The rooms themselves are not in this image; a test compares."""

_ITERATIONS = 4096
_SCRAM_SHA_512 = 2
_ALLOW = 3


class Kind(IntEnum):
    """What an ACL is about."""

    TOPIC = 2
    GROUP = 3


class Match(IntEnum):
    """How the name of an ACL is meant."""

    LITERAL = 3
    PREFIXED = 4


class May(IntEnum):
    """What an ACL allows."""

    READ = 3
    WRITE = 4
    CREATE = 5
    DELETE = 6
    DESCRIBE = 8


class Grant(NamedTuple):
    """One ACL."""

    user: str
    kind: Kind
    name: str
    may: May
    match: Match = Match.LITERAL


def grants_of(room: Room) -> Iterator[Grant]:
    """Yield what a room may: write its own topics, read its inputs, in its own group."""
    own = (*map(str, OWNERS[room]), dead_letters(room))
    for topic in own:
        # Delete: records of a forgotten range.
        for may in (May.WRITE, May.READ, May.DESCRIBE, May.CREATE, May.DELETE):
            yield Grant(room, Kind.TOPIC, topic, may)
    for topic in READS[room]:
        # Create: whichever room comes first makes the topic, empty.
        for may in (May.READ, May.DESCRIBE, May.CREATE):
            yield Grant(room, Kind.TOPIC, topic, may)
    yield Grant(room, Kind.GROUP, room, May.READ)


def _grants() -> Iterator[Grant]:
    for room in Room:
        yield from grants_of(room)
    for topic in Topic:
        for may in (May.READ, May.DESCRIBE):
            yield Grant(DOWNSTREAM, Kind.TOPIC, topic, may)
    yield Grant(DOWNSTREAM, Kind.GROUP, DOWNSTREAM, May.READ, Match.PREFIXED)


class _Answer(Response):
    """AlterUserScramCredentials: what became of each user."""

    API_KEY = 51
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "results",
            CompactArray(
                ("user", CompactString("utf-8")),
                ("error_code", Int16),
                ("error_message", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _Ask(RequestStruct):
    """AlterUserScramCredentials, version 0."""

    API_KEY = 51
    API_VERSION = 0
    RESPONSE_TYPE = _Answer
    FLEXIBLE_VERSION = True
    SCHEMA = Schema(
        (
            "deletions",
            CompactArray(
                ("name", CompactString("utf-8")), ("mechanism", Int8), ("tags", TaggedFields)
            ),
        ),
        (
            "upsertions",
            CompactArray(
                ("name", CompactString("utf-8")),
                ("mechanism", Int8),
                ("iterations", Int32),
                ("salt", CompactBytes),
                ("salted_password", CompactBytes),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _AlterUsers(Request[_Ask]):
    API_KEY = 51

    def __init__(self, passwords: dict[str, str]) -> None:
        self._passwords = passwords

    def build(self, request_struct_class: type[_Ask]) -> _Ask:
        """Return the request that gives each user a password."""
        users = []
        for user, password in self._passwords.items():
            salt = secrets.token_bytes(16)
            salted = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS)
            users.append((user, _SCRAM_SHA_512, _ITERATIONS, salt, salted, {}))
        return request_struct_class([], users, {})


class _CreateAcls(Request[CreateAclsRequest_v1]):
    API_KEY = 30

    def __init__(self, grants: list[Grant]) -> None:
        self._grants = grants

    def build(self, request_struct_class: type[CreateAclsRequest_v1]) -> CreateAclsRequest_v1:
        """Return the request that makes all ACLs at once."""
        return request_struct_class(
            [(g.kind, g.name, g.match, f"User:{g.user}", "*", g.may, _ALLOW) for g in self._grants]
        )


def _password(path: Path) -> str:
    """Return the password in this file, making it (0600) where there is none."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    password = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w") as file:
        file.write(password + "\n")
    return password


def _check(answers: Iterable[tuple[int, str | None]]) -> None:
    """Raise the first error among (code, message) pairs."""
    for code, message in answers:
        if code:
            raise for_code(code)(message)


async def main(public: Path) -> None:
    """Make what is missing."""
    common = load(CommonSettings)
    _password(common.token_file)  # in the form that the rooms give it
    SigningKey.load_or_create(common.data_dir / "keys")
    for key in (common.data_dir / "keys").glob("*.pub"):
        shutil.copy(key, public)
    folder = common.config_dir / "kafka"
    folder.mkdir(mode=0o700, exist_ok=True)
    users = [*map(str, Room), DOWNSTREAM]
    passwords = {user: _password(folder / user) for user in users}
    client = AIOKafkaClient(bootstrap_servers=BROKER)
    await client.bootstrap()
    try:
        grants = list(_grants())
        made = await client.send(client.get_random_node(), _CreateAcls(grants))
        _check(made.creation_responses)
        given = await client.send(client.get_random_node(), _AlterUsers(passwords))
        _check([(code, message) for _, code, message, _ in given.results])
    finally:
        await client.close()
    sys.stdout.write(f"{len(users)} users, {len(grants)} ACLs\n")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
