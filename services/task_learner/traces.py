"""Writing traces: their events and copies of the screens they refer to, as artifacts.

Reads the monitor's snapshots; writes artifacts and the rows of table `traces` through effects. A
trace's artifact is written again when its routine's steps or parameters change.

Does not cover: which executions there are (`segment`), what their values mean (`dataflow`).
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence

from prometheus_client import Counter

from services.task_learner.actions import UserAction, lowest_level
from services.task_learner.cases import Sight, sight_of
from services.task_learner.dataflow import Screen, parameter_values, trace_values
from services.task_learner.routines import Known, KnownTrace, in_time_order, places_of
from services.task_learner.segment import Execution
from shared.artifacts import Artifacts
from shared.bus.base import Effects
from shared.errors import ArtifactError
from shared.schemas import Snapshot, Trace, UiEvent, derive_id
from shared.topics import Room

__all__ = ["TraceKeeper"]

_SCREENS = 512  # snapshots held in memory
_TRACES = Counter("wat_task_learner_traces_total", "traces written")


class TraceKeeper:
    """Makes traces of executions and keeps their artifacts in step with their routine."""

    def __init__(
        self, artifacts: Artifacts, snapshot_bytes: Callable[[str], bytes], num_kept: int
    ) -> None:
        self._artifacts = artifacts
        self._snapshot_bytes = snapshot_bytes
        self._num_kept = num_kept
        self._screens: OrderedDict[str, Screen | None] = OrderedDict()
        self._sights: dict[str, Sight | None] = {}

    def take(
        self, known: Known, actions: Sequence[UserAction], found: Iterable[Execution],
        effects: Effects, whole: bool = False,
    ) -> bool:  # fmt: skip
        """Make traces of executions, to be written; tell whether any is new or different.

        `whole` says that `actions` are one demonstration, named by its first event.
        """
        changed = False
        for execution in found:
            last = actions[-1] if whole else actions[execution.indices[-1]]
            anchor = actions[0] if whole else last
            if anchor.event.time_ms <= known.older_until_ms:
                continue
            trace_id = derive_id(known.routine_id, anchor.event.id)
            rows = [None if i is None else actions[i].event for i in execution.steps]
            ids = tuple(e.id if e is not None else "" for e in rows)
            others = [actions[i].event for i in execution.others]
            other_ids = tuple(e.id for e in others)
            before = known.traces.get(trace_id)
            num_actions = len(actions) if whole else 0
            if before is not None and (
                before.event_ids, before.others, before.final, before.num_actions
            ) == (ids, other_ids, last.after, num_actions):  # fmt: skip
                continue
            present = sorted(
                (e for e in (*rows, *others) if e is not None), key=lambda e: (e.time_ms, e.seq)
            )
            values = trace_values(rows, self._screens_of(present))
            known.traces[trace_id] = KnownTrace(
                trace_id, "", present[-1].session, present[0].time_ms, present[-1].time_ms,
                lowest_level(present), ids, places_of(present), values, last.after, num_actions,
                last.after_place, others=other_ids,
            )  # fmt: skip
            known.fresh[trace_id] = present
            changed = True
        if changed:
            self._evict(known, effects)
        return changed

    def write_fresh(self, known: Known, effects: Effects) -> None:
        """Write the traces taken since the last writing."""
        for trace_id, events in known.fresh.items():
            self._write(known, known.traces[trace_id], events, effects)
        known.fresh.clear()

    def write_all(self, known: Known, effects: Effects) -> None:
        """Write all traces of a routine whose steps or parameters have changed."""
        for trace in known.traces.values():
            events = known.fresh.get(trace.trace_id) or self.events_of(trace)
            self._write(known, trace, events, effects)
        known.fresh.clear()

    def drop(self, known: Known, trace: KnownTrace, effects: Effects) -> None:
        """Delete a trace and let go of its artifacts."""
        known.traces.pop(trace.trace_id, None)
        known.fresh.pop(trace.trace_id, None)
        self._artifacts.drop(_holder(trace), effects)
        effects.write("DELETE FROM traces WHERE trace_id = ?", (trace.trace_id,))

    def events_of(self, trace: KnownTrace) -> list[UiEvent]:
        """Return a written trace's events. Raises ArtifactError."""
        return list(self.read(trace).events)

    def read(self, trace: KnownTrace) -> Trace:
        """Return a written trace. Raises ArtifactError."""
        return Trace.model_validate_json(self._artifacts.get(trace.digest))

    def place(self, event: UiEvent) -> str | None:
        """Return where in its screen an event's element stands, or None where that is unknown."""
        index = event.element.index if event.element is not None else None
        if event.snapshot is None or index is None:
            return None
        screen = self._screen(event.snapshot)
        return screen.place(index) if screen is not None else None

    def sight(self, action: UserAction) -> Sight | None:
        """Return what an action's screen shows, or None where it is not kept."""
        digest = action.event.snapshot
        if digest is None:
            return None
        if digest not in self._sights:
            try:
                self._sights[digest] = sight_of(json.loads(self._snapshot_bytes(digest)))
            except (ArtifactError, ValueError, KeyError, TypeError):
                self._sights[digest] = None
        return self._sights[digest]

    def keep_sights(self, digests: Collection[str | None]) -> None:
        """Drop what is remembered of other screens."""
        self._sights = {d: s for d, s in self._sights.items() if d in digests}

    def forget_screens(self) -> None:
        """Drop what is remembered of snapshots."""
        self._screens.clear()
        self._sights.clear()

    def _evict(self, known: Known, effects: Effects) -> None:
        """Keep the newest traces; count the others."""
        known.traces = in_time_order(known.traces.values())
        old = list(known.traces.values())[: -self._num_kept]
        for trace in old:
            known.num_older += 1
            known.older_until_ms = max(known.older_until_ms, trace.ended_ms)
            self.drop(known, trace, effects)
        if old:
            effects.write(
                "UPDATE routines SET num_older = ?, older_until_ms = ? WHERE routine_id = ?",
                (known.num_older, known.older_until_ms, known.routine_id),
            )

    def _write(
        self, known: Known, trace: KnownTrace, events: Sequence[UiEvent], effects: Effects
    ) -> None:
        """Write the artifact in place of what there was.

        A screen that the monitor no longer has is left out.
        """
        holder = _holder(trace)
        self._artifacts.drop(holder, effects)
        steps = {*trace.event_ids, *trace.others}
        kept = [
            e if e.snapshot is None or self._copy(e.snapshot, holder, effects)
            else e.model_copy(update={"snapshot": None})
            for e in events if e.id in steps
        ]  # fmt: skip
        final = trace.final if trace.final and self._copy(trace.final, holder, effects) else None
        record = Trace(
            trace_id=trace.trace_id, routine_id=known.routine_id, user_id=known.user_id,
            events=tuple(kept), parameters=parameter_values(known.flow, trace.values),
            final_snapshot=final,
        )  # fmt: skip
        data = record.model_dump_json(exclude_none=True).encode()
        trace.digest = self._artifacts.put(data, effects, holder)
        effects.write(
            "INSERT OR REPLACE INTO traces VALUES (?, ?, ?)",
            (trace.trace_id, known.routine_id, trace.dump()),
        )
        _TRACES.inc()

    def _copy(self, digest: str, holder: str, effects: Effects) -> bool:
        try:
            self._artifacts.copy_from(Room.USER_MONITOR, digest, effects, holder)
        except ArtifactError:
            return False
        return True

    def _screens_of(self, events: Iterable[UiEvent]) -> dict[str, Screen]:
        screens = {e.snapshot: self._screen(e.snapshot) for e in events if e.snapshot is not None}
        return {digest: screen for digest, screen in screens.items() if screen is not None}

    def _screen(self, digest: str) -> Screen | None:
        if digest in self._screens:
            self._screens.move_to_end(digest)
            return self._screens[digest]
        try:
            screen = Screen(Snapshot.model_validate_json(self._snapshot_bytes(digest)))
        except (ArtifactError, ValueError):
            screen = None
        self._screens[digest] = screen
        if len(self._screens) > _SCREENS:
            self._screens.popitem(last=False)
        return screen


def _holder(trace: KnownTrace) -> str:
    return f"trace:{trace.trace_id}"
