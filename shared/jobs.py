"""Long work (training, runs) as rows, worked off beside the loop that handles records.

A row is asked → running → done | failed | cancelled, and changes in the transaction of what it
causes. A crash leaves it running; the next start asks for it again, with one more attempt.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from shared import tracing
from shared.bus.base import Effects, Port, noted_trace
from shared.clock import Clock
from shared.errors import ConflictError, NotFound, WatError
from shared.store import Store

__all__ = ["STATES", "Job", "JobWorker", "get_job"]

STATES = ("asked", "running", "done", "failed", "cancelled")

MAX_ATTEMPTS = 5
"""As for records: the fifth failure is final."""

_IDLE_S = 1.0
_BACKOFF_S, _BACKOFF_MAX_S = 0.5, 5.0

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
        self._not_before_s: dict[str, float] = {}  # monotonic; a job that failed waits a while

    def wake(self) -> None:
        """Look for asked jobs now rather than within a second."""
        self._asked.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`; a job under way is then cut off and asked for again next time."""
        await self._recover(stop)
        while not stop.is_set():
            self._asked.clear()
            job = self._next()
            if job is not None:
                await self._run_one(job, stop)
            else:
                await _first_of(_IDLE_S, self._asked, stop)

    async def cancel(self, job_id: str) -> None:
        """End a job that is asked or running. Raises NotFound, ConflictError."""
        job = get_job(self._port.store, job_id)
        if job.state not in ("asked", "running"):
            raise ConflictError(f"job {job_id} is {job.state}: there is nothing to cancel")
        self._cancelled.add(job_id)
        if self._current is not None and self._current[0] == job_id:
            self._current[1].cancel()
        else:
            effects = Effects(self._port.room)
            self._end(effects, job, "cancelled", "cancelled by the user")
            await self._port.commit(effects)

    def _next(self) -> Job | None:
        rows = self._port.store.query(
            f"SELECT {_COLUMNS} FROM jobs WHERE state = 'asked' ORDER BY asked_ms, id LIMIT 100"  # noqa: S608
        )
        now_s = time.monotonic()
        ripe = (row for row in rows if self._not_before_s.get(row[0], 0.0) <= now_s)
        return next(map(_job, ripe), None)

    async def _recover(self, stop: asyncio.Event) -> None:
        """Ask again for what a crash cut off, unless it was there at every one of five crashes."""
        effects = Effects(self._port.room)
        effects.write(
            "UPDATE jobs SET state = 'failed', error = ? WHERE state = 'running' AND attempts >= ?",
            ("the process ended each time while this ran", MAX_ATTEMPTS),
        )
        effects.write("UPDATE jobs SET state = 'asked' WHERE state = 'running'")
        await self._commit(effects, stop)

    async def _run_one(self, job: Job, stop: asyncio.Event) -> None:
        began = Effects(self._port.room)
        began.write(
            "UPDATE jobs SET state = 'running', attempts = attempts + 1, updated_ms = ? "
            "WHERE id = ?",
            (self._clock.time_ms(), job.id),
        )
        if not await self._commit(began, stop):
            return
        try:
            job = get_job(self._port.store, job.id)
        except NotFound:  # forgotten just now
            return
        task = asyncio.ensure_future(self._traced(job))
        self._current = (job.id, task)
        if job.id in self._cancelled:  # while the row was being written
            task.cancel()
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            await self._ended(job, task, stop)
        finally:
            self._current = None
            self._cancelled.discard(job.id)
            stopping.cancel()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _traced(self, job: Job) -> Effects:
        """Work within the trace of what asked for the job."""
        asked_in = noted_trace(self._port.store, job.id)
        with tracing.span(self._port.room, f"work {job.kind}", asked_in):
            return await self._work(job, self._port)

    async def _ended(self, job: Job, task: asyncio.Task[Effects], stop: asyncio.Event) -> None:
        """Write down how a job ended, or that a stop cut it off."""
        if not task.done():
            task.cancel()
        await asyncio.wait({task})
        if task.cancelled():
            if job.id in self._cancelled:
                await self._finish(job, "cancelled", "cancelled by the user", stop)
            elif stop.is_set():
                await self._cut_off(job, stop)
            else:
                await self._failed(job, "it was cancelled from within", stop, final=False)
            return
        error = task.exception()
        try:
            if error is not None:
                raise error
            effects = task.result()
            self._end(effects, job, "done", None)
            await self._commit(effects, stop)
            _log.info("job", extra={"job": job.kind, "state": "done"})
        except WatError as failure:
            await self._failed(job, str(failure), stop, final=not failure.retryable)
        except Exception as failure:  # noqa: BLE001  one bad job must not end the room
            _log.exception("job", extra={"job": job.kind, "state": "error"})
            await self._failed(job, f"unexpected {type(failure).__name__}", stop, final=False)

    async def _failed(self, job: Job, error: str, stop: asyncio.Event, *, final: bool) -> None:
        _log.warning("job", extra={"job": job.kind, "state": "failed"})
        if final or job.attempts >= MAX_ATTEMPTS:
            await self._finish(job, "failed", error, stop)
            return
        self._not_before_s[job.id] = time.monotonic() + _BACKOFF_S * 2 ** (job.attempts - 1)
        await self._finish(job, "asked", error, stop)

    async def _cut_off(self, job: Job, stop: asyncio.Event) -> None:
        """Ask for it again at the next start; being stopped is no failure of the job's."""
        effects = Effects(self._port.room)
        effects.write(
            "UPDATE jobs SET state = 'asked', attempts = attempts - 1 WHERE id = ?", (job.id,)
        )
        await self._commit(effects, stop)

    async def _finish(self, job: Job, state: str, error: str | None, stop: asyncio.Event) -> None:
        effects = Effects(self._port.room)
        self._end(effects, job, state, error)
        await self._commit(effects, stop)

    def _end(self, effects: Effects, job: Job, state: str, error: str | None) -> None:
        effects.write(
            "UPDATE jobs SET state = ?, error = ?, updated_ms = ? WHERE id = ?",
            (state, error, self._clock.time_ms(), job.id),
        )

    async def _commit(self, effects: Effects, stop: asyncio.Event) -> bool:
        """Commit, waiting for a bus that is away; tell whether it was done before `stop`."""
        delay_s = _BACKOFF_S
        while True:
            try:
                await self._port.commit(effects)
            except WatError as error:
                if not error.retryable:
                    raise
                if stop.is_set():
                    return False
                _log.warning(str(error), extra={"outcome": "waiting"})
                await _first_of(delay_s, stop)
                delay_s = min(delay_s * 2, _BACKOFF_MAX_S)
            else:
                return True


async def _first_of(limit_s: float, *events: asyncio.Event) -> None:
    """Wait for one of `events`, but no longer than `limit_s`."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waits, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


def _job(row: tuple[Any, ...]) -> Job:
    return Job(row[0], row[1], json.loads(row[2]), *row[3:])
