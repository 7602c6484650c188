"""A room's file: one writer, group commit, nobody pays for another's mistake."""

import asyncio
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from shared.errors import BusError, BusUnavailable
from shared.store import Store, connect_reader, execute_all


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "room.sqlite3", "CREATE TABLE IF NOT EXISTS t(n INTEGER UNIQUE);")
    yield store
    store.close()


async def test_a_write_is_there_for_the_next_query_and_the_next_process(store: Store):
    await store.write(lambda w: w.execute("INSERT INTO t VALUES (1)"))
    assert store.query("SELECT n FROM t") == [(1,)]
    with sqlite3.connect(store.path) as other:
        assert other.execute("SELECT n FROM t").fetchall() == [(1,)]
    other.close()


async def test_a_change_that_fails_takes_back_its_own_part_alone(store: Store):
    def broken(writer: apsw.Connection) -> None:
        writer.execute("INSERT INTO t VALUES (7)")
        raise ZeroDivisionError

    def insert(number: int) -> object:
        return store.write(lambda w: w.execute("INSERT INTO t VALUES (?)", (number,)))

    changes = [insert(1), store.write(broken), insert(1), insert(2)]
    results = await asyncio.gather(*changes, return_exceptions=True)
    assert [type(r) for r in results[1:3]] == [ZeroDivisionError, apsw.ConstraintError]
    assert store.query("SELECT n FROM t ORDER BY n") == [(1,), (2,)]


async def test_a_write_returns_what_its_change_returns(store: Store):
    assert await store.write(lambda _: 42) == 42


async def test_writes_keep_their_order(store: Store):
    seen: list[int] = []
    await asyncio.gather(*(store.write(lambda _, n=n: seen.append(n)) for n in range(200)))
    assert seen == list(range(200))


async def test_a_closed_store_says_so(store: Store):
    store.close()
    with pytest.raises(BusUnavailable, match="is closed"):
        await store.write(lambda _: None)


async def test_statements_run_in_the_order_given(store: Store):
    statements = [
        ("INSERT INTO t VALUES (?)", (1,)),
        ("INSERT INTO t VALUES (?)", (2,)),
        ("DELETE FROM t", ()),
        ("INSERT INTO t VALUES (?)", (3,)),
        ("INSERT INTO t VALUES (?)", (1,)),
    ]
    await store.write(lambda w: execute_all(w, statements))
    assert store.query("SELECT n FROM t ORDER BY rowid") == [(3,), (1,)]


def test_readers_cannot_write(store: Store):
    with pytest.raises(apsw.ReadOnlyError):
        store.query("INSERT INTO t VALUES (1)")


def test_others_on_the_machine_cannot_read_the_file(store: Store):
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600


def test_deleted_bytes_are_overwritten(tmp_path: Path):
    store = Store(tmp_path / "room.sqlite3")
    assert store._writer.execute("PRAGMA secure_delete").fetchall() == [(1,)]
    assert store._writer.execute("PRAGMA synchronous").fetchall() == [(2,)]  # FULL
    store.close()


def test_a_file_that_is_no_database_is_said(tmp_path: Path):
    path = tmp_path / "room.sqlite3"
    path.write_bytes(b"x" * 5000)
    with pytest.raises(BusUnavailable, match="cannot be opened for writing"):
        Store(path, "CREATE TABLE t(n);")
    with pytest.raises(BusError, match="cannot be read"):
        connect_reader(tmp_path / "missing.sqlite3")
