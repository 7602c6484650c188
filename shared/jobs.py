"""Long work (training, runs) as rows, worked off beside the loop that handles records.

A row is asked → running → done | failed | cancelled, and changes in the transaction of what it
causes. A crash leaves it running; the next start asks for it again, with one more attempt.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from shared.bus.base import Effects, Port
from shared.clock import Clock
from shared.errors import ConflictError, NotFound, WatError
from shared.store import Store

__all__ = ["Job", "JobWorker", "get_job"]

MAX_ATTEMPTS = 5
"""As for records: the fifth failure is final."""

_IDLE_S = 1.0
_BACKOFF_S = 0.5

_log = logging.getLogger(__name__)
_COLUMNS = "id, kind, payload, state, attempts, asked_ms, updated_ms, error"


@dataclass(frozen=True)
class Job:
    """One row of long work."""

    id: str
    kind: str
    payload: dict[str, Any]
    state: str
    attempts: int
    asked_ms: int
    updated_ms: int
    error: str | None


def get_job(store: Store, job_id: str) -> Job:
    """Return a job. Raises NotFound."""
    rows = store.query(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (job_id,))  # noqa: S608
    if not rows:
        raise NotFound(f"there is no job {job_id}")
    return _job(rows[0])


class JobWorker:
    """Works off a room's jobs, one after the other, oldest first."""

    def __init__(
        self,
        port: Port,
        clock: Clock,
        work: Callable[[Job, Port], Awaitable[Effects]],
    ) -> None:
        self._port = port
        self._clock = clock
        self._work = work
        self._asked = asyncio.Event()
        self._current: tuple[str, asyncio.Task[Effects]] | None = None
        self._cancelled: set[str] = set()

    def wake(self) -> None:
        """Look for asked jobs now rather than within a second."""
        self._asked.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`; a job under way is then cut off and asked for again next time."""
        await self._set_states("UPDATE jobs SET state = 'asked' WHERE state = 'running'", ())
        while not stop.is_set():
            self._asked.clear()
            job = self._next()
            if job is not None:
                await self._run_one(job, stop)
                continue
            waits = [asyncio.create_task(w.wait()) for w in (self._asked, stop)]
            await asyncio.wait(waits, timeout=_IDLE_S, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()

    async def cancel(self, job_id: str) -> None:
        """End a job that is asked or running. Raises NotFound, ConflictError."""
        job = get_job(self._port.store, job_id)
        if job.state not in ("asked", "running"):
            raise ConflictError(f"job {job_id} is {job.state}: there is nothing to cancel")
        self._cancelled.add(job_id)
        if self._current is not None and self._current[0] == job_id:
            self._current[1].cancel()
        else:
            await self._finish(job, "cancelled", "cancelled by the user")

    def _next(self) -> Job | None:
        rows = self._port.store.query(
            f"SELECT {_COLUMNS} FROM jobs WHERE state = 'asked' ORDER BY asked_ms, id LIMIT 1"  # noqa: S608
        )
        return _job(rows[0]) if rows else None

    async def _run_one(self, job: Job, stop: asyncio.Event) -> None:
        await self._set_states(
            "UPDATE jobs SET state = 'running', attempts = attempts + 1, updated_ms = ? "
            "WHERE id = ?",
            (self._clock.time_ms(), job.id),
        )
        task = asyncio.ensure_future(self._work(get_job(self._port.store, job.id), self._port))
        self._current = (job.id, task)
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                task.cancel()
            effects = await task
            self._end(effects, job, "done", None)
            await self._port.commit(effects)
            _log.info("job", extra={"job": job.kind, "state": "done"})
        except asyncio.CancelledError:
            if job.id in self._cancelled:
                await self._finish(job, "cancelled", "cancelled by the user")
            elif not stop.is_set():
                raise
        except WatError as error:
            await self._failed(job, str(error), final=not error.retryable)
        except Exception as error:  # noqa: BLE001  one bad job must not end the room
            _log.exception("job", extra={"job": job.kind, "state": "error"})
            await self._failed(job, f"unexpected {type(error).__name__}", final=False)
        finally:
            self._current = None
            stopped.cancel()

    async def _failed(self, job: Job, error: str, *, final: bool) -> None:
        _log.warning("job", extra={"job": job.kind, "state": "failed"})
        if final or job.attempts + 1 >= MAX_ATTEMPTS:
            await self._finish(job, "failed", error)
            return
        await self._finish(job, "asked", error)
        await asyncio.sleep(_BACKOFF_S * 2**job.attempts)

    async def _finish(self, job: Job, state: str, error: str | None) -> None:
        effects = Effects(self._port.room)
        self._end(effects, job, state, error)
        await self._port.commit(effects)

    def _end(self, effects: Effects, job: Job, state: str, error: str | None) -> None:
        effects.write(
            "UPDATE jobs SET state = ?, error = ?, updated_ms = ? WHERE id = ?",
            (state, error, self._clock.time_ms(), job.id),
        )

    async def _set_states(self, sql: str, params: tuple[Any, ...]) -> None:
        effects = Effects(self._port.room)
        effects.write(sql, params)
        await self._port.commit(effects)


def _job(row: tuple[Any, ...]) -> Job:
    return Job(row[0], row[1], json.loads(row[2]), *row[3:])
