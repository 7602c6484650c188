"""Files named by their digest, kept as long as a row refers to them."""

import hashlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.artifacts import ARTIFACT_TABLE, Artifacts
from shared.bus import Effects
from shared.errors import ArtifactError, BusUnavailable, DigestMismatch
from shared.store import Store, execute_all
from shared.topics import Room

HOUR_S = 3600


class Shelf:
    """A room's artifacts with the store that refers to them."""

    def __init__(self, folder: Path, room: Room = Room.AGENT_TRAINER) -> None:
        self.room = room
        self.files = Artifacts(folder / "artifacts", room)
        self.store = Store(folder / f"{room}.sqlite3", ARTIFACT_TABLE)

    async def put(self, data: bytes, holder: str = "") -> str:
        effects = Effects(self.room)
        digest = self.files.put(data, effects, holder)
        await self.commit(effects)
        return digest

    async def drop(self, holder: str) -> None:
        effects = Effects(self.room)
        self.files.drop(holder, effects)
        await self.commit(effects)

    async def commit(self, effects: Effects) -> None:
        await self.store.write(lambda w: execute_all(w, effects.writes))

    def age(self, digest: str, by_s: float) -> None:
        moment = time.time() - by_s
        os.utime(self.files.path(digest), (moment, moment))


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[Shelf]:
    shelf = Shelf(tmp_path)
    yield shelf
    shelf.store.close()


async def test_what_was_put_is_got_by_its_digest(shelf: Shelf):
    digest = await shelf.put(b"module")
    assert digest == hashlib.sha256(b"module").hexdigest()
    assert shelf.files.get(digest) == b"module"
    assert shelf.files.path(digest).stat().st_mode & 0o777 == 0o600
    assert [p.name for p in shelf.files.path(digest).parent.iterdir()] == [digest]


async def test_a_changed_file_is_refused(shelf: Shelf):
    digest = await shelf.put(b"module")
    shelf.files.path(digest).write_bytes(b"other!")
    with pytest.raises(DigestMismatch, match="was changed on disk"):
        shelf.files.get(digest)


def test_a_missing_file_is_said(shelf: Shelf):
    with pytest.raises(ArtifactError, match="is gone"):
        shelf.files.get("0" * 64)


@pytest.mark.parametrize("name", ["", "../../token", "0" * 63, "A" * 64, "0" * 64 + "\n"])
def test_what_is_no_digest_names_no_file(shelf: Shelf, name: str):
    with pytest.raises(ArtifactError, match="no SHA-256 digest"):
        shelf.files.get(name)


async def test_the_last_holder_counts(shelf: Shelf):
    first, second = await shelf.put(b"x", "routine-1"), await shelf.put(b"x", "routine-2")
    assert first == second
    shelf.age(first, 2 * HOUR_S)
    await shelf.drop("routine-1")
    shelf.files.collect(shelf.store, time.time())
    assert shelf.files.get(first) == b"x"
    await shelf.drop("routine-2")
    await shelf.files.sweep(shelf.store)
    with pytest.raises(ArtifactError):
        shelf.files.get(first)


async def test_a_file_without_a_row_goes_after_an_hour(shelf: Shelf):
    digest = shelf.files.put(b"orphan", Effects(shelf.room))  # a crash before the commit
    assert shelf.files.collect(shelf.store, time.time()) == 0
    assert shelf.files.collect(shelf.store, time.time() + HOUR_S + 1) == 1
    with pytest.raises(ArtifactError):
        shelf.files.get(digest)


async def test_an_orphan_that_is_put_again_is_young(shelf: Shelf):
    digest = shelf.files.put(b"orphan", Effects(shelf.room))
    shelf.age(digest, 2 * HOUR_S)
    shelf.files.put(b"orphan", Effects(shelf.room))
    assert shelf.files.collect(shelf.store, time.time()) == 0


async def test_a_copy_outlives_the_original(shelf: Shelf, tmp_path: Path):
    digest = await shelf.put(b"module", "model-1")
    runner = Shelf(tmp_path, Room.AGENT_RUNNER)
    effects = Effects(runner.room)
    assert runner.files.copy_from(Room.AGENT_TRAINER, digest, effects, "model-1") == digest
    await runner.commit(effects)
    shelf.files.path(digest).unlink()
    assert runner.files.get(digest) == b"module"
    runner.store.close()


def test_a_disk_that_refuses_is_said_and_leaves_no_half_file(tmp_path: Path):
    (tmp_path / "artifacts").write_text("a file where the folder should be")
    with pytest.raises(BusUnavailable, match="artifact cannot be written"):
        Artifacts(tmp_path / "artifacts", Room.AGENT_TRAINER).put(b"x", Effects(Room.AGENT_TRAINER))
