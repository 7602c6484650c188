"""The room's logic: events in, routines out, with everything to go on from in the store.

Reads RunMark, ForgetRange and UiEvent; writes Routine records and trace artifacts. What may be
learned from is decided by `admission`; actions are kept by `memory`; routines are found by
`finder` or taught (`teaching`), and kept by the `catalogue`.

Does not cover: REST (`api.py`), what the records mean to the trainer.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ClassVar

from services.task_learner.admission import ACTIONS, ADMISSION_TABLES, Admission, Admitted
from services.task_learner.catalogue import CATALOGUE_TABLES, Catalogue
from services.task_learner.decisions import join, split, take_back
from services.task_learner.finder import Finder
from services.task_learner.forgetting import Place, Unlearning, places_of_events
from services.task_learner.memory import MEMORY_TABLES, Memory
from services.task_learner.routines import Known
from services.task_learner.settings import TaskLearnerSettings
from services.task_learner.teaching import Teaching
from services.task_learner.traces import TraceKeeper
from shared import tracing
from shared.artifacts import Artifacts
from shared.bus.base import Effects, Message, Port, noted_trace
from shared.clock import Clock
from shared.errors import ConflictError, ContractError, NotFound
from shared.jobs import Job
from shared.schemas import (
    ForgetRange,
    Forward,
    Level,
    Record,
    Routine,
    RoutineStatus,
    RunMark,
    Trace,
    UiEvent,
)
from shared.topics import Room, Topic

__all__ = ["TaskLearner"]

_TICK_S = 1.0


class TaskLearner:
    """Finds routines, or is taught them."""

    room: ClassVar[Room] = Room.TASK_LEARNER
    inputs: ClassVar[tuple[Topic, ...]] = (Topic.FORGETS, Topic.RUNS, Topic.RAW_EVENTS)
    tables: ClassVar[str] = MEMORY_TABLES + ADMISSION_TABLES + CATALOGUE_TABLES

    def __init__(
        self,
        settings: TaskLearnerSettings,
        artifacts: Artifacts,
        clock: Clock,
        snapshot_bytes: Callable[[str], bytes],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._traces = TraceKeeper(artifacts, snapshot_bytes, settings.kept_traces)
        self._catalogue = Catalogue(settings, self._traces, clock)
        self._teaching = Teaching(self._catalogue, self._traces)
        self.port: Port

    @property
    def routines(self) -> dict[str, Known]:
        """Return all routines by id."""
        return self._catalogue.routines

    async def start(self, port: Port) -> None:
        """Load everything from the store."""
        self.port = port
        self._memories: dict[str, Memory] = {}
        self._heard_in: str | None = None  # trace of the newest event
        self._heard_s: dict[str, float] = {}  # when a user's demonstration was last added to
        self._admission = Admission(port.store)
        await self._catalogue.load(port)
        self._finder = Finder(
            self._catalogue, self._traces, port.store, self._settings.window_actions
        )
        self._unlearning = Unlearning(self._catalogue, self._traces, self._finder, self._memory)
        for (user_id,) in port.store.query("SELECT DISTINCT user_id FROM actions"):
            self._finder.resume(self._memory(user_id))

    def handle(self, record: Record, message: Message, effects: Effects) -> None:
        """Take in a mark, a range to forget or an event. Raises ContractError for anything else."""
        match record:
            case UiEvent():
                self._heard_in = tracing.current()
                self._learn(
                    self._admission.take(record, message.value, message.time_ms, effects), effects
                )
            case RunMark():
                self._learn(self._admission.mark(record, message.value, effects), effects)
            case ForgetRange():
                forget = record.model_copy(update={"time_ms": message.time_ms})
                self._admission.forget(forget, effects)
                self._unlearning.forget(forget, effects)
            case _ if message.topic == Topic.RUNS:
                return  # how a run ended teaches nothing
            case _:
                raise ContractError(f"{self.room} does not read {record.record_type}")

    async def work(self, job: Job, port: Port) -> Effects:
        """Refuse: this room asks for no long work."""
        raise NotFound(f"{self.room} knows no work of kind {job.kind}")

    async def background(self, stop: asyncio.Event) -> None:
        """End what only silence ends: demonstrations, and the leases of run marks."""
        while not stop.is_set():
            effects = Effects(self.room)
            with tracing.continued(self._heard_in):
                self.tick(effects)
            if effects:
                await self._commit(effects)
            try:
                await asyncio.wait_for(stop.wait(), _TICK_S)
            except TimeoutError:
                continue

    async def close(self) -> None:
        """Hold nothing."""

    def tick(self, effects: Effects) -> None:
        """Do what is due by the clock."""
        idle_s = self._settings.teaching_idle_ms / 1000
        now_s = self._clock.boottime_ms() / 1000
        for user_id, heard_s in list(self._heard_s.items()):
            if now_s - heard_s >= idle_s:
                del self._heard_s[user_id]
                memory = self._memory(user_id)
                memory.finish_showings()
                self._teaching.learn(memory, effects)
        released = self._admission.release(self._clock.boot_id, self._clock.boottime_ms(), effects)
        self._learn(released, effects)
        for known in list(self.routines.values()):
            if known.record is not None and known.is_live and known.support > known.record.support:
                self._catalogue.update(known, effects, force=True)

    # ---- what a person decides ---------------------------------------------------------------

    async def decide(
        self, routine_id: str, status: RoutineStatus | None = None, name: str | None = None,
        train: bool = False,
    ) -> Routine:  # fmt: skip
        """Set status or name, or ask for a training; durable on return.

        Raises NotFound, ConflictError.
        """
        known = self.known(routine_id)
        if not known.is_live or known.record is None:
            raise ConflictError(f"routine {routine_id} has been forgotten: show it again")
        if train and known.record.level is Level.STRUCTURE:
            raise ConflictError(
                f"routine {routine_id} touches an application whose values are not kept: "
                "allow `values` for it and show the routine again"
            )
        known.status = status or known.status
        if name is not None:
            known.name, known.named_by_user = name, True
        known.train += train
        return await self._decided(known)

    async def join(self, routine_id: str, into: str) -> Routine:
        """Let one routine count as another; return that. Raises NotFound, ConflictError."""
        source, target = self.known(routine_id), self.known(into)
        join(source, target)
        await self._decided(source)
        return self.known(into).to_record(self._clock.time_ms())

    async def split(self, routine_id: str, step: int) -> list[Routine]:
        """Let executions with and without a step, from 0, be two routines; return those.

        Raises NotFound, ConflictError.
        """
        source = self.known(routine_id)
        split(source, step)
        await self._decided(source)
        parts = [self.known(rule.into) for rule in self.known(routine_id).forwards]
        return [part.record for part in parts if part.record is not None]

    async def take_back(self, routine_id: str) -> Routine:
        """Undo a join or a split; return the routine. Raises NotFound, ConflictError."""
        source = self.known(routine_id)
        forwards = take_back(source)
        return await self._decided(source, forwards)

    async def _decided(self, known: Known, taken_back: Iterable[Forward] = ()) -> Routine:
        """Publish what a person has decided, and what follows for other routines."""
        effects = Effects(self.room)
        with tracing.span(self.room, "decide", noted_trace(self.port.store, known.routine_id)):
            if taken_back:
                self._catalogue.take_back(known, taken_back, effects)
            record = self._catalogue.publish(known, effects)
            self._catalogue.forward(known, effects)
            await self._commit(effects)
        if self.routines.get(known.routine_id) is not known:  # reloaded while that was under way
            await self.start(self.port)
        return record

    def known(self, routine_id: str) -> Known:
        """Return a routine. Raises NotFound."""
        return self._catalogue.get(routine_id)

    def trace(self, routine_id: str, trace_id: str) -> Trace:
        """Return one trace with every event. Raises NotFound, ArtifactError."""
        trace = self.known(routine_id).traces.get(trace_id)
        if trace is None:
            raise NotFound(f"routine {routine_id} has no trace {trace_id}")
        return self._traces.read(trace)

    # ---- events ------------------------------------------------------------------------------

    def _learn(self, admitted: Iterable[Admitted], effects: Effects) -> None:
        for event, raw in admitted:
            self._unlearning.search_again(effects)
            memory = self._memory(event.user_id)
            action = memory.take(event, raw, effects)
            ACTIONS.labels("dropped" if action is None else "kept").inc()
            if event.demonstration is not None:
                self._heard_s[event.user_id] = self._clock.boottime_ms() / 1000
            if memory.showings:
                self._teaching.learn(memory, effects)
            self._finder.take(memory, action, effects)

    def _memory(self, user_id: str) -> Memory:
        memory = self._memories.get(user_id)
        if memory is None:
            memory = Memory(
                user_id,
                self._settings.window_actions,
                self._settings.result_wait_ms,
                self._traces.place,
            )
            memory.load(self.port.store)
            self._memories[user_id] = memory
            if any(showing.is_open for showing in memory.showings.values()):
                self._heard_s[user_id] = self._clock.boottime_ms() / 1000
        return memory

    # ---- forgetting --------------------------------------------------------------------------

    async def erase(self, ranges: Sequence[ForgetRange]) -> int | None:
        """Look once more for routines where these events were."""
        effects = Effects(self.room)
        self._unlearning.finish(ranges, effects)
        if effects:
            await self._commit(effects)
        return None

    def places(self, application: str | None, since_ms: int | None) -> Iterator[Place]:
        """Yield the places of the events that are still kept here and fit, in no order."""
        kept = self._admission.held()
        for memory in self._memories.values():
            kept += [action.event for action in memory.all_actions()]
        for known in self.routines.values():
            for trace in known.traces.values():
                if since_ms is None or trace.ended_ms >= since_ms:
                    kept += self._traces.events_of(trace) if trace.digest else []
        return places_of_events(kept, application, since_ms)

    # ---- store -------------------------------------------------------------------------------

    async def _commit(self, effects: Effects) -> None:
        try:
            await self.port.commit(effects)
        except Exception:
            await self.start(self.port)
            raise
