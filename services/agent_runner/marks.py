"""Run marks: the durable word that what happens on a target is the agent's own doing.

Writes RunMark records to `runs` and the room's `marks` rows, in one commit. A mark is durable
before the first action on its target, renewed while the run is open, and closed at its end.
Does not cover what a reader makes of it (the learner holds and drops events by it).
"""

import asyncio
import contextlib
import logging
from dataclasses import dataclass, replace

from shared.bus.base import Effects, Port
from shared.clock import Clock
from shared.errors import WatError
from shared.schemas import RunMark, Target, derive_id
from shared.topics import Room

__all__ = ["LEASE_MS", "RENEW_MS", "TABLES", "Marks", "close_left_open", "prune"]

LEASE_MS = 30_000
RENEW_MS = 10_000

TABLES = """
CREATE TABLE IF NOT EXISTS marks (
  run_id TEXT NOT NULL, endpoint TEXT NOT NULL, surface TEXT NOT NULL, boot_id TEXT NOT NULL,
  start_ms INTEGER NOT NULL, renewed_ms INTEGER NOT NULL, end_ms INTEGER,
  PRIMARY KEY (run_id, endpoint, surface, start_ms)
);
CREATE INDEX IF NOT EXISTS marks_open ON marks (run_id) WHERE end_ms IS NULL;
"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Mark:
    """One mark as its row holds it; times are CLOCK_BOOTTIME in ms."""

    run_id: str
    target: Target
    boot_id: str
    start_ms: int
    renewed_ms: int
    end_ms: int | None = None

    def write(self, effects: Effects, user_id: str, time_ms: int) -> None:
        """Add the record and the row to `effects`."""
        endpoint, surface = self.target.endpoint, self.target.surface
        stamp = self.renewed_ms if self.end_ms is None else self.end_ms
        ended = "open" if self.end_ms is None else "closed"
        effects.publish(
            RunMark(
                id=derive_id(self.run_id, endpoint, surface, self.start_ms, ended, stamp),
                time_ms=time_ms,
                user_id=user_id,
                run_id=self.run_id,
                target=self.target,
                boot_id=self.boot_id,
                start_boottime_ms=self.start_ms,
                renewed_boottime_ms=self.renewed_ms,
                lease_ms=LEASE_MS,
                end_boottime_ms=self.end_ms,
            )
        )
        effects.write(
            "INSERT INTO marks VALUES (?,?,?,?,?,?,?) ON CONFLICT DO UPDATE SET "
            "renewed_ms = excluded.renewed_ms, end_ms = excluded.end_ms",
            (
                self.run_id, endpoint, surface, self.boot_id,
                self.start_ms, self.renewed_ms, self.end_ms,
            ),
        )  # fmt: skip


class Marks:
    """The marks of one run in this process: `cover` before an action, `close` at the end."""

    def __init__(self, port: Port, clock: Clock, *, user_id: str, run_id: str) -> None:
        self._port = port
        self._clock = clock
        self._user_id = user_id
        self._run_id = run_id
        self._open: dict[Target, _Mark] = {}
        self._renewing: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    async def cover(self, target: Target) -> None:
        """Return once a mark on `target` is durable and its lease runs.

        Raises BusError where it cannot be written; then nothing may be done on the target.
        """
        async with self._lock:
            now = self._clock.boottime_ms()
            held = self._open.get(target)
            if held is not None and now - held.renewed_ms < LEASE_MS // 2:
                return
            effects = Effects(Room.AGENT_RUNNER)
            if held is not None and now - held.renewed_ms >= LEASE_MS:
                # A lapsed lease has ended for every reader: this is a new mark, not the old one.
                self._write(effects, replace(held, end_ms=held.renewed_ms + LEASE_MS))
                held = None
            if held is None:
                held = _Mark(self._run_id, target, self._clock.boot_id, now, now)
            held = replace(held, renewed_ms=now)
            self._write(effects, held)
            await self._port.commit(effects)
            self._open[target] = held
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew_for_ever())

    async def close(self) -> None:
        """End every open mark now."""
        if self._renewing is not None:
            self._renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._renewing
            self._renewing = None
        async with self._lock:
            now = self._clock.boottime_ms()
            effects = Effects(Room.AGENT_RUNNER)
            for mark in self._open.values():
                self._write(effects, replace(mark, end_ms=min(now, mark.renewed_ms + LEASE_MS)))
            if effects:
                await self._port.commit(effects)
            self._open.clear()

    def _write(self, effects: Effects, mark: _Mark) -> None:
        mark.write(effects, self._user_id, self._clock.time_ms())

    async def _renew_for_ever(self) -> None:
        while True:
            await asyncio.sleep(RENEW_MS / 1000)
            try:
                await self.renew()
            except WatError as error:
                # The next action covers itself anew, or does not happen.
                _log.warning("a run mark was not renewed: %s", error)

    async def renew(self) -> None:
        """Move every open mark's lease on; a lapsed one stays lapsed (`cover` starts a new one)."""
        async with self._lock:
            now = self._clock.boottime_ms()
            effects = Effects(Room.AGENT_RUNNER)
            alive = [m for m in self._open.values() if now - m.renewed_ms < LEASE_MS]
            renewed = [replace(mark, renewed_ms=now) for mark in alive]
            for mark in renewed:
                self._write(effects, mark)
            if effects:
                await self._port.commit(effects)
            self._open.update({mark.target: mark for mark in renewed})


async def close_left_open(port: Port, clock: Clock, *, user_id: str, run_id: str) -> None:
    """End the marks that a killed process left open, at the latest with their lease."""
    rows = port.store.query(
        "SELECT endpoint, surface, boot_id, start_ms, renewed_ms FROM marks "
        "WHERE run_id = ? AND end_ms IS NULL",
        (run_id,),
    )
    effects = Effects(Room.AGENT_RUNNER)
    for endpoint, surface, boot_id, start_ms, renewed_ms in rows:
        end_ms = renewed_ms + LEASE_MS
        if boot_id == clock.boot_id:
            end_ms = min(end_ms, clock.boottime_ms())
        mark = _Mark(
            run_id, Target(endpoint=endpoint, surface=surface), boot_id, start_ms, renewed_ms,
            end_ms,
        )  # fmt: skip
        mark.write(effects, user_id, clock.time_ms())
    if rows:
        await port.commit(effects)


def prune(effects: Effects) -> None:
    """Delete the closed marks of runs that are gone; the records on `runs` have their own end."""
    effects.write(
        "DELETE FROM marks WHERE end_ms IS NOT NULL AND run_id NOT IN (SELECT run_id FROM runs)"
    )
