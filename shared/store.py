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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

from shared.errors import BusError, BusUnavailable

__all__ = ["SqlValue", "Statement", "Store", "connect_reader"]

SqlValue = str | int | float | bytes | None
Statement = tuple[str, tuple[SqlValue, ...]]
Write = Callable[[apsw.Connection], Any]

_GROUP = 64
"""Transactions waiting for the writer that share one fsync."""

_STALE = (apsw.FullError, apsw.IOError, apsw.BusyError, apsw.CantOpenError, apsw.ReadOnlyError)


def connect_reader(path: Path) -> apsw.Connection:
    """Open `path` read-only.

    Raises BusError where the file is missing or is not a database.
    """
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        connection.set_busy_timeout(5_000)
        connection.execute("PRAGMA query_only = 1")
    except apsw.Error as error:
        raise BusError(f"{path} cannot be read: {error}") from error
    return connection


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
            self._writer.set_busy_timeout(5_000)
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
        if self._closed:
            raise BusUnavailable(f"{self.path} is closed")
        loop = asyncio.get_running_loop()
        pending = _Pending(change, loop, loop.create_future())
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
            self._commit(group)

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


class _Pending:
    """A change that waits for the writer."""

    __slots__ = ("change", "future", "loop")

    def __init__(
        self, change: Write, loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any]
    ) -> None:
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
