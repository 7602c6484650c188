"""A room's own SQLite file: one writer thread with group commit, and bounded reads.

Everything a room must not lose (its topic on the embedded log, positions, jobs, dead letters, read
model) is in this file and changes in one transaction. `synchronous=FULL` makes a commit durable
against power loss; `secure_delete=ON` overwrites what is deleted.

Does not cover: moving data between versions of a room's tables (rooms rebuild them), and several
writers (an flock outside SQLite keeps them out).
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import apsw

from shared.errors import BusError, BusUnavailable

__all__ = ["SqlValue", "Statement", "Store", "connect_reader", "execute_all"]

SqlValue = str | int | float | bytes | None
Statement = tuple[str, tuple[SqlValue, ...]]
Write = Callable[[apsw.Connection], Any]

_GROUP = 64
"""Transactions waiting for the writer that share one fsync."""

_BUSY_MS = 5_000
_CHECKPOINT_MS = 200
"""A checkpoint gives way to readers sooner than a write: it is tried again anyway."""

_STALE = (apsw.FullError, apsw.IOError, apsw.BusyError, apsw.CantOpenError, apsw.ReadOnlyError)


def connect_reader(path: Path) -> apsw.Connection:
    """Open `path` read-only.

    Raises BusError where the file is missing or is not a database.
    """
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        connection.set_busy_timeout(_BUSY_MS)
        connection.execute("PRAGMA query_only = 1")
    except apsw.Error as error:
        raise BusError(f"{path} cannot be read: {error}") from error
    return connection


def execute_all(writer: apsw.Connection, statements: Sequence[Statement]) -> None:
    """Run statements in order; neighbours that differ in their values alone, in one call."""
    for sql, group in groupby(statements, key=itemgetter(0)):
        writer.executemany(sql, [params for _, params in group])


class Store:
    """One SQLite file in WAL mode with a single writer."""

    def __init__(self, path: Path, tables: str = "") -> None:
        """Create the file and `tables` (CREATE TABLE IF NOT EXISTS …) where they are missing.

        Raises BusUnavailable where the disk refuses.
        """
        self.path = path
        try:
            self._writer = apsw.Connection(str(path))
            path.chmod(0o600)
            self._writer.set_busy_timeout(_BUSY_MS)
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
                self._writer.execute(f"PRAGMA {pragma}").fetchall()
            if tables:
                self._writer.execute(tables).fetchall()
            self._reader = connect_reader(path)
        except apsw.Error as error:
            raise BusUnavailable(
                f"{path} cannot be opened for writing ({error}): check the disk and its rights"
            ) from error
        self._waiting: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._write_loop, name=path.stem, daemon=True)
        self._thread.start()

    def query(self, sql: str, params: tuple[SqlValue, ...] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a read; it must be bounded, for it blocks the loop."""
        return self._reader.execute(sql, params).fetchall()

    async def write(self, change: Write) -> Any:
        """Run `change` in the writer's transaction; return its value once that is durable.

        Raises what `change` raises, and BusUnavailable where the disk refuses.
        """
        return await self._submit(change, alone=False)

    async def checkpoint(self) -> bool:
        """Empty the write-ahead log into the file; tell whether no reader stood in the way.

        Until then it still holds the bytes of what was deleted.
        """
        return bool(await self._submit(_checkpoint, alone=True))

    async def _submit(self, change: Write, *, alone: bool) -> Any:
        if self._closed:
            raise BusUnavailable(f"{self.path} is closed")
        loop = asyncio.get_running_loop()
        pending = _Pending(change, loop, loop.create_future(), alone=alone)
        self._waiting.put(pending)
        return await pending.future

    def close(self) -> None:
        """Finish what is waiting and close the file."""
        if self._closed:
            return
        self._closed = True
        self._waiting.put(None)
        self._thread.join()
        self._reader.close()
        self._writer.close()

    def _write_loop(self) -> None:
        open_ = True
        while open_:
            group: list[_Pending] = []
            first = self._waiting.get()
            if first is None:
                return
            group.append(first)
            while len(group) < _GROUP:
                try:
                    following = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    open_ = False
                    break
                group.append(following)
            if changes := [pending for pending in group if not pending.alone]:
                self._commit(changes)
            for pending in group:
                if pending.alone:
                    self._run_alone(pending)

    def _run_alone(self, pending: "_Pending") -> None:
        """Run what cannot be part of a transaction."""
        try:
            pending.answer(pending.change(self._writer), None)
        except apsw.Error as error:
            refused = BusUnavailable(f"{self.path} refuses ({error}): free disk space")
            refused.__cause__ = error
            pending.answer(None, refused)

    def _commit(self, group: list["_Pending"]) -> None:
        """Commit a group; one that fails takes back its own change and no other's."""
        results: list[tuple[_Pending, Any, BaseException | None]] = []
        writer = self._writer
        try:
            writer.execute("BEGIN IMMEDIATE")
            for pending in group:
                writer.execute("SAVEPOINT one")
                try:
                    value = pending.change(writer)
                except _STALE:
                    raise
                except Exception as error:  # noqa: BLE001  handed to the caller as it is
                    writer.execute("ROLLBACK TO one")
                    results.append((pending, None, error))
                else:
                    results.append((pending, value, None))
                writer.execute("RELEASE one")
            writer.execute("COMMIT")
        except apsw.Error as error:
            if writer.in_transaction:
                writer.execute("ROLLBACK")
            refused = BusUnavailable(f"{self.path} refuses to write ({error}): free disk space")
            refused.__cause__ = error
            results = [(pending, None, refused) for pending in group]
        for pending, value, failure in results:
            pending.answer(value, failure)


def _checkpoint(writer: apsw.Connection) -> bool:
    writer.set_busy_timeout(_CHECKPOINT_MS)
    try:
        busy, *_ = writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0]
    except apsw.BusyError:
        return False
    finally:
        writer.set_busy_timeout(_BUSY_MS)
    return busy == 0


class _Pending:
    """A change that waits for the writer."""

    __slots__ = ("alone", "change", "future", "loop")

    def __init__(
        self,
        change: Write,
        loop: asyncio.AbstractEventLoop,
        future: asyncio.Future[Any],
        *,
        alone: bool,
    ) -> None:
        self.alone = alone
        self.change = change
        self.loop = loop
        self.future = future

    def answer(self, value: Any, failure: BaseException | None) -> None:
        """Hand the outcome to the waiting loop, if it still runs."""
        try:
            self.loop.call_soon_threadsafe(self._set, value, failure)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    def _set(self, value: Any, failure: BaseException | None) -> None:
        if self.future.done():
            return
        if failure is None:
            self.future.set_result(value)
        else:
            self.future.set_exception(failure)
