"""Letting go: runs past their retention, and at once the files of what was forgotten.

Writes the room's tables and deletes evidence and module files that no row refers to any more. Does
not cover orphans of a crash (the frame collects them) and the records on `runs` (the bus).
"""

import asyncio
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

from services.agent_runner import marks, runs
from shared.artifacts import Artifacts
from shared.bus.base import Effects, Port
from shared.clock import Clock
from shared.errors import BusUnavailable
from shared.topics import Room

__all__ = ["Retention", "forget_pages"]

_KEPT_PAGES = ("Cookies", "Login Data", "Local Storage", "IndexedDB", "Preferences")
"""What a profile is for: being known to an application. The rest shows what was on its pages."""

_PRUNE_EVERY_S = 3600.0
_LOOK_S, _LOOKS = 1.0, 60  # a file goes once the commit that let go of it is there
_DAY_MS = 24 * 3600 * 1000

_log = logging.getLogger(__name__)


class Retention:
    """What is still to be let go of."""

    def __init__(self, artifacts: Artifacts, clock: Clock, days: int) -> None:
        self._artifacts = artifacts
        self._clock = clock
        self._days = days
        self._to_unlink: dict[str, int] = {}  # digest -> looks left
        self._forgot = asyncio.Event()

    def unlink_later(self, digests: Iterable[str]) -> None:
        """Delete these files once no row refers to them."""
        self._to_unlink.update(dict.fromkeys(digests, _LOOKS))
        if self._to_unlink:
            self._forgot.set()

    async def run(self, port: Port, stop: asyncio.Event) -> None:
        """Let go until `stop`."""
        next_prune_s = 0.0
        now_s = asyncio.get_running_loop().time
        while not stop.is_set():
            if now_s() >= next_prune_s:
                next_prune_s = now_s() + _PRUNE_EVERY_S
                await self._prune(port)
            await _first_of(stop, self._forgot, next_prune_s - now_s())
            if self._forgot.is_set() and not stop.is_set():
                await _first_of(stop, None, _LOOK_S)
                self._unlink(port)

    def _unlink(self, port: Port) -> None:
        """Delete files that no row refers to any more; one that is still needed stays."""
        for digest in list(self._to_unlink):
            self._to_unlink[digest] -= 1
            sql = "SELECT 1 FROM artifacts WHERE digest = ? LIMIT 1"
            if not port.store.query(sql, (digest,)):
                self._artifacts.path(digest).unlink(missing_ok=True)
                del self._to_unlink[digest]
            elif self._to_unlink[digest] <= 0:
                del self._to_unlink[digest]
        if not self._to_unlink:
            self._forgot.clear()

    async def _prune(self, port: Port) -> None:
        effects = Effects(Room.AGENT_RUNNER)
        before_ms = self._clock.time_ms() - self._days * _DAY_MS
        for run_id in runs.ended_run_ids(port.store, before_ms):
            runs.delete_run(run_id, self._artifacts, effects)
        marks.prune(effects)
        try:
            await port.commit(effects)
        except BusUnavailable as error:
            _log.warning("old runs are deleted later: %s", type(error).__name__)


def forget_pages(profile_dir: Path, *, everything: bool) -> None:
    """Delete history and caches of a browser that is closed; with `everything` all of it."""
    if everything:
        shutil.rmtree(profile_dir, ignore_errors=True)
        return
    for path in profile_dir.glob("Default/*"):
        if not path.name.startswith(_KEPT_PAGES):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    for path in profile_dir.glob("*Cache*"):
        shutil.rmtree(path, ignore_errors=True)


async def _first_of(stop: asyncio.Event, event: asyncio.Event | None, timeout_s: float) -> None:
    waits = [asyncio.create_task(e.wait()) for e in (stop, event) if e is not None]
    await asyncio.wait(waits, timeout=max(timeout_s, 0), return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
