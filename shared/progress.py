"""How far a room has come: what it has not read, since when, what failed, what its jobs do.

Reads the room's store and the bounds of its inputs; writes Prometheus gauges and the answer of
`GET /v1/<room>/progress`. Counted from what is committed, not from what a consumer says of itself:
one that has gone silent would say that there is nothing. Carries no content.
"""

import time
from collections.abc import Sequence

from prometheus_client import Gauge
from pydantic import BaseModel, Field

from shared.bus import Port
from shared.clock import Clock
from shared.jobs import STATES
from shared.topics import Room, Topic

__all__ = ["InputProgress", "Progress", "ProgressMeter"]

_LAG = Gauge("wat_lag_records", "records not handled yet", ["room", "topic"])
_OLDEST = Gauge(
    "wat_oldest_unhandled_seconds",
    "how long the oldest record that is not handled has been on its topic; 0: there is none",
    ["room", "topic"],
)
_STALLED = Gauge(
    "wat_stalled_seconds", "how long nothing was handled although records wait", ["room"]
)
_RETRIES = Gauge("wat_failing_attempts", "attempts at the record that fails just now", ["room"])
_LETTERS = Gauge("wat_dead_letters", "dead letters that were not replayed", ["room"])
_JOBS = Gauge("wat_jobs", "long work by state", ["room", "state"])
_REVIVED = Gauge("wat_consumers_revived", "silent consumers that were replaced", ["room"])


class InputProgress(BaseModel):
    """One input topic, over all its partitions."""

    topic: str
    num_unhandled: int = Field(description="records that wait; gaps of compaction count")
    oldest_ms: int | None = Field(description="when the oldest of them was appended")


class Progress(BaseModel):
    """One room at one moment."""

    measured_ms: int
    inputs: list[InputProgress]
    stalled_ms: int = Field(description="how long nothing was handled although records wait")
    failing_attempts: int = Field(description="attempts at the record that fails just now")
    num_dead_letters: int = Field(description="dead letters that were not replayed")
    num_revived: int = Field(description="silent consumers that were replaced")
    jobs: dict[str, int] = Field(description="number of jobs by state")


class ProgressMeter:
    """Measures one room; `latest` is what the last measuring found."""

    def __init__(self, room: Room, inputs: Sequence[Topic], clock: Clock) -> None:
        self._room = room
        self._inputs = inputs
        self._clock = clock
        self._moved_s = time.monotonic()
        self._waited = False
        self.latest: Progress | None = None

    def moved(self) -> None:
        """Take note that a batch was handled."""
        self._moved_s = time.monotonic()

    async def measure(self, port: Port) -> Progress:
        """Look anew, and set the gauges. Raises BusUnavailable."""
        rows = port.store.query("SELECT topic, partition, next FROM positions")
        positions = {(topic, partition): following for topic, partition, following in rows}
        inputs = [await self._input(port, topic, positions) for topic in self._inputs]
        attempts = port.store.query("SELECT max(count) FROM attempts")[0][0] or 0
        letters = port.store.query("SELECT count(*) FROM dead_letters WHERE replayed_ms IS NULL")
        jobs = dict(port.store.query("SELECT state, count(*) FROM jobs GROUP BY state"))
        self.latest = now = Progress(
            measured_ms=self._clock.time_ms(),
            inputs=inputs,
            stalled_ms=self._stalled_ms(any(one.num_unhandled for one in inputs)),
            failing_attempts=attempts,
            num_dead_letters=letters[0][0],
            num_revived=port.num_revived,
            jobs={state: jobs.get(state, 0) for state in STATES},
        )
        self._show(now)
        return now

    async def _input(
        self, port: Port, topic: Topic, positions: dict[tuple[str, int], int]
    ) -> InputProgress:
        num_unhandled, oldest_ms = 0, None
        for partition, (oldest, end) in (await port.bounds(topic)).items():
            at = max(positions.get((topic, partition), 0), oldest)
            # The end of a partition may have been taken off it: then nothing waits.
            found = await port.read(topic, partition, at, 1) if at < end else ()
            for message in found:
                num_unhandled += end - message.offset
                oldest_ms = min(oldest_ms or message.time_ms, message.time_ms)
        return InputProgress(topic=topic, num_unhandled=num_unhandled, oldest_ms=oldest_ms)

    def _stalled_ms(self, waits: bool) -> int:
        if not waits or not self._waited:  # it counts from when records are first seen to wait
            self.moved()
        self._waited = waits
        return int((time.monotonic() - self._moved_s) * 1000)

    def _show(self, now: Progress) -> None:
        for one in now.inputs:
            waited_ms = now.measured_ms - one.oldest_ms if one.oldest_ms is not None else 0
            _LAG.labels(self._room, one.topic).set(one.num_unhandled)
            _OLDEST.labels(self._room, one.topic).set(max(0, waited_ms) / 1000)
        _STALLED.labels(self._room).set(now.stalled_ms / 1000)
        _RETRIES.labels(self._room).set(now.failing_attempts)
        _LETTERS.labels(self._room).set(now.num_dead_letters)
        _REVIVED.labels(self._room).set(now.num_revived)
        for state, count in now.jobs.items():
            _JOBS.labels(self._room, state).set(count)
