"""One source that is being watched: from its captures to what waits for publishing.

Reads: the source, and the consents at the moment of the capture. Writes: nothing; what is allowed
waits in memory. What may not be kept is dropped on arrival.
"""

import asyncio
import logging
from collections import Counter as Tally
from collections.abc import Callable
from enum import StrEnum

from services.user_monitor.capture import RawCapture, Source, SourceKind
from services.user_monitor.coalesce import Intake, Pressure
from services.user_monitor.consent import Allowance, Place
from services.user_monitor.metrics import DROPPED
from shared.clock import Clock
from shared.errors import CaptureError
from shared.schemas import Text

__all__ = ["DropReason", "Recorder", "RecorderState", "place_of"]

_log = logging.getLogger(__name__)


_CLOSE_S = 5.0


class RecorderState(StrEnum):
    """How a recording stands."""

    RECORDING = "recording"
    FINISHED = "finished"  # the log's end
    STOPPED = "stopped"  # by the user
    FAILED = "failed"


class DropReason(StrEnum):
    """Why a capture was not kept."""

    NOT_ALLOWED = "not-allowed"  # no consent, or excluded
    PAUSED = "paused"
    PRESSURE = "pressure"
    DUPLICATE = "duplicate"  # of a replay that was published before
    UNFIT = "unfit"  # it is no event: too large, or its text is no Unicode


def _clear(text: str | Text | None) -> str | None:
    return text.clear if isinstance(text, Text) else text


def place_of(capture: RawCapture, source: SourceKind) -> Place:
    """Return where a capture was made, as consents see it."""
    return Place(
        source,
        capture.untrusted_application,
        _clear(capture.untrusted_title),
        _clear(capture.untrusted_url),
    )


class Recorder:
    """Watches one source until it ends, fails or is stopped."""

    def __init__(
        self,
        source: Source,
        user_id: str,
        next_seq: int,
        clock: Clock,
        capacity: int,
        allowance: Callable[[Place], Allowance | None],
        arrived: Callable[[], None],
    ) -> None:
        """`next_seq` continues what the store has; `arrived` is called when something waits."""
        self.source = source
        self.user_id = user_id
        self.state = RecorderState.RECORDING
        self.reason: str | None = None
        self.started_ms = clock.time_ms()
        self.next_seq = next_seq
        self.num_published = 0
        self.dropped: Tally[DropReason] = Tally()
        self.is_replay = source.kind is SourceKind.REPLAY
        self.paused = False
        self._not_before_ms = 0
        self._taken = 0  # of a replay: the place of the next capture in its log
        self._clock = clock
        self._allowance = allowance
        self._arrived = arrived
        self._intake = Intake(capacity, merging=not self.is_replay)
        self._room = asyncio.Event()
        self._room.set()
        self._task = asyncio.create_task(self._watch())
        self._task.add_done_callback(self._ended)

    @property
    def num_waiting(self) -> int:
        """Return how many captures wait in memory."""
        return len(self._intake)

    @property
    def is_done(self) -> bool:
        """Say whether nothing more will come from here; a replay's last events are durable then."""
        settled = not self.is_replay or self.next_seq >= self._taken
        return self._task.done() and not self._intake and settled

    def pause(self) -> None:
        """Keep nothing from here on; a replay waits instead."""
        self.paused = True

    def resume(self) -> None:
        """Keep again what happens from now on."""
        self.paused = False
        self._not_before_ms = self._clock.time_ms()
        self._room.set()

    async def stop(self) -> None:
        """Stop watching; what waits can still be taken."""
        if self.state is RecorderState.RECORDING:
            self.state = RecorderState.STOPPED
        await self.source.close()
        self._room.set()
        # A closed source hands over what it still holds; one that does not is cut off.
        await asyncio.wait({self._task}, timeout=_CLOSE_S)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def take(self, limit: int, *, everything: bool = False) -> list[tuple[int | None, RawCapture]]:
        """Return what is ready, with its number in the log where it is a replay's.

        `everything`: also what more could still merge into.
        """
        if self.paused and self.is_replay:
            return []
        everything = everything or self.paused or self._task.done()
        while ready := self._intake.take(self._clock.time_ms(), limit, everything=everything):
            self._room.set()
            if not self.is_replay:
                return [(None, capture) for capture in ready]
            numbered = list(enumerate(ready, start=self._taken))
            self._taken += len(ready)
            fresh = [(number, capture) for number, capture in numbered if number >= self.next_seq]
            self.drop(DropReason.DUPLICATE, len(numbered) - len(fresh))
            if fresh:
                return list(fresh)
        return []

    def drop(self, reason: DropReason, count: int = 1) -> None:
        """Count what was not kept."""
        if count:
            self.dropped[reason] += count
            DROPPED.labels(self.source.kind, reason).inc(count)

    async def _watch(self) -> None:
        try:
            async for capture in self.source.captures():
                if self.is_replay:
                    await self._wait_for_room()
                    self._intake.put(capture)
                    self._arrived()
                else:
                    self._accept(capture)
            if self.state is RecorderState.RECORDING:
                self.state = RecorderState.FINISHED
        except CaptureError as error:
            self.state, self.reason = RecorderState.FAILED, str(error)
            _log.warning("source failed", extra={"outcome": type(error).__name__})
        finally:
            await self.source.close()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.state = RecorderState.FAILED
            self.reason = f"unexpected {type(error).__name__}; see the service's log"
            _log.error("source failed", exc_info=error)
        self._arrived()

    async def _wait_for_room(self) -> None:
        full = self._intake.capacity
        while len(self._intake) >= full and self.state is RecorderState.RECORDING:
            self._room.clear()
            await self._room.wait()

    def _accept(self, capture: RawCapture) -> None:
        """Take in what may be kept; raises CaptureError where there is no more room."""
        if self.paused or capture.time_ms < self._not_before_ms:
            self.drop(DropReason.PAUSED)
            return
        if self._allowance(place_of(capture, self.source.kind)) is None:
            self.drop(DropReason.NOT_ALLOWED)
            return
        pressure = self._intake.put(capture)
        if pressure is Pressure.SHEDDING:
            self.drop(DropReason.PRESSURE)
        elif pressure is Pressure.OVERFLOW:
            raise CaptureError(
                f"recording of {self.source.kind} stopped: {len(self._intake)} events wait for the "
                "disk or the broker and no more may be dropped; free it, then start again"
            )
        self._arrived()
