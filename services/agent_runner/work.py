"""One run worked on: its records in order, each to its end, with marks, evidence and outcomes.

Reads the run's rows, writes their progress. A run that a crash cut off is taken up at the record it
was in: that one is read back or handed to the user, never acted on again. Does not cover who may
start a run (`logic.py`) and what one step is (`acting.py`).
"""

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import Counter, Histogram

from services.agent_runner import runs
from services.agent_runner.acting import Ending, RecordWork, Tools, read_back
from services.agent_runner.actuators import Actuator
from services.agent_runner.brain import Brain
from services.agent_runner.evidence import Came, StepEvidence
from services.agent_runner.gate import Gate, RunStopped
from services.agent_runner.grants import Powers
from services.agent_runner.marks import Marks, close_left_open
from services.agent_runner.runs import RecordRow, RunRow
from services.agent_runner.settings import RunnerSettings
from shared.artifacts import Artifacts
from shared.bus.base import Effects, Port
from shared.clock import Clock
from shared.errors import (
    ActuatorError,
    ArtifactError,
    CaptureError,
    ContractError,
    NotFound,
    SandboxError,
)
from shared.module import OPS, Manifest, VerifiedModule
from shared.schemas import Parameter, RunState
from shared.topics import Room

__all__ = ["ActiveRun", "RunWork", "Task"]

_RECORDS = Counter(
    "wat_agent_runner_records_total", "records worked on, by how they ended", ["state"]
)
_STEPS = Counter("wat_agent_runner_steps_total", "steps, by what came of them", ["came"])
_RECORD_S = Histogram(
    "wat_agent_runner_record_seconds", "time one record took",
    buckets=(0.3, 1, 3, 10, 30, 100, 300),
)  # fmt: skip

_PAGE = 200
_UNABLE = (SandboxError, ArtifactError, CaptureError, ContractError, NotFound)

_log = logging.getLogger(__name__)


@dataclass
class ActiveRun:
    """What the kill switch needs of a run under way."""

    gate: Gate
    actuator: Actuator | None = None

    async def stop(self, reason: str) -> None:
        """Return once the run does nothing any more; its screen is closed."""
        await self.gate.stop(reason, self._close_screen)

    async def _close_screen(self) -> None:
        if self.actuator is not None:
            await self.actuator.close()


@dataclass(frozen=True)
class Task:
    """What a run needs to know of its agent, looked up when it starts."""

    verify: Callable[[Sequence[str]], VerifiedModule]  # granted operations -> module
    parameters: Callable[[VerifiedModule], Sequence[Parameter]]
    max_steps: Callable[[], int]
    open_actuator: Callable[[Manifest, bool], Awaitable[Actuator]]  # manifest, dry run


@dataclass(frozen=True)
class RunWork:
    """The work on one run."""

    run: RunRow
    task: Task
    active: ActiveRun
    port: Port
    clock: Clock
    settings: RunnerSettings
    artifacts: Artifacts

    async def work(self) -> Effects:
        """Work through the records that have not ended; the effects end the run.

        Raises BusError, and what nobody foresaw; then the run is taken up again.
        """
        run = self.run
        await close_left_open(self.port, self.clock, user_id=run.user_id, run_id=run.run_id)
        effects = Effects(Room.AGENT_RUNNER)
        if run.ended:  # stopped before it began, or just before a crash
            await self._end_first(Ending(run.state, run.reason))
            runs.set_run_state(run.run_id, run.state, run.reason, self.clock.time_ms(), effects)
            return effects
        if (reason := self._too_late()) is not None:
            await self._end_first(Ending(RunState.STOPPED, reason))
            return self._end()
        runs.set_run_state(run.run_id, RunState.RUNNING, None, self.clock.time_ms(), effects)
        await self.port.commit(effects)
        marks = Marks(self.port, self.clock, user_id=run.user_id, run_id=run.run_id)
        brain: Brain | None = None
        try:
            verified = self.task.verify(self._granted_ops())
            brain = Brain(verified)
            await brain.load()
            self.active.gate.check()
            self.active.actuator = await self.task.open_actuator(verified.manifest, run.dry_run)
            await self._work_records(self._tools(verified, brain, marks))
        except (*_UNABLE, ActuatorError) as error:  # the last: no screen could be opened
            await self._end_first(self._unless_stopped(Ending(RunState.FAILED, str(error))))
        except RunStopped:
            _log.info("run stopped", extra={"run": run.run_id})
        finally:
            if self.active.actuator is not None:
                await self.active.actuator.close()
            if brain is not None:
                await brain.close()
            await marks.close()
        return self._end()

    def _too_late(self) -> str | None:
        """Say why a run that was cut off does not go on; None: it may, or it never began.

        Days later nobody expects an agent to act.
        """
        last_ms = runs.last_begun_ms(self.port.store, self.run.run_id)
        if self.run.state is not RunState.RUNNING or last_ms is None:
            return None
        minutes = (self.clock.time_ms() - last_ms) / 60_000
        if minutes <= self.settings.resume_limit_min:
            return None
        return (
            f"it was cut off and {minutes:.0f} min have passed since its last record began: ask "
            "for the records that are left once more"
        )

    def _granted_ops(self) -> list[str]:
        """Return what the module may import at all; origins are checked at each step."""
        if self.run.dry_run:
            return sorted(OPS)
        powers = Powers.now(self.port.store, self.run.module, self.run.run_id)
        return sorted({op for op, _ in powers.pairs})

    def _tools(self, verified: VerifiedModule, brain: Brain, marks: Marks) -> Tools:
        assert self.active.actuator is not None
        return Tools(
            port=self.port,
            clock=self.clock,
            settings=self.settings,
            manifest=verified.manifest,
            parameters=self.task.parameters(verified),
            max_steps=self.task.max_steps(),
            actuator=self.active.actuator,
            brain=brain,
            marks=marks,
            gate=self.active.gate,
        )

    def _pending(self) -> Iterator[RecordRow]:
        after = -1
        while records := runs.list_records(self.port.store, self.run.run_id, after, _PAGE):
            yield from (record for record in records if record.state not in runs.ENDED)
            after = records[-1].record_index

    async def _work_records(self, tools: Tools) -> None:
        for record in self._pending():
            self.active.gate.check()
            ending = await self._work_record(record, tools)
            if ending.state is not RunState.DONE and not self.run.keep_going:
                return

    async def _work_record(self, record: RecordRow, tools: Tools) -> Ending:
        left = runs.steps_of(self.port.store, self.run.run_id, record.record_index)
        acted = not self.run.dry_run and any(step.came is not Came.REFUSED for step in left)
        record = await self._begin(record, anew=not acted)
        if acted:
            steps = [s if s.came else s.model_copy(update={"came": Came.UNKNOWN}) for s in left]
            ending = _in_doubt(await self._guarded(self._take_up(record, steps, tools)))
        else:
            work = RecordWork(self.run, record, tools)
            ending = await self._guarded(work.work())
            steps = work.steps
        await self._finish(record, ending, steps)
        return ending

    async def _begin(self, record: RecordRow, *, anew: bool) -> RecordRow:
        now_ms = self.clock.time_ms()
        effects = Effects(Room.AGENT_RUNNER)
        runs.start_record(self.run.run_id, record.record_index, now_ms, effects)
        if anew:
            runs.forget_steps(self.run.run_id, record.record_index, effects)
        await self.port.commit(effects)
        return record.model_copy(update={"started_ms": now_ms})

    async def _guarded(self, work: Awaitable[Ending]) -> Ending:
        """Turn what ends a record into its ending; a bus that is away is passed on."""
        try:
            return await work
        except RunStopped as error:
            return Ending(RunState.CANCELLED, str(error))
        except ActuatorError as error:
            ending = Ending(RunState.STOPPED, str(error))
        except _UNABLE as error:
            ending = Ending(RunState.FAILED, str(error))
        return self._unless_stopped(ending)

    def _unless_stopped(self, ending: Ending) -> Ending:
        """Return the ending; the kill switch closes the screen, which is no fault of the page."""
        reason = self.active.gate.reason
        return ending if reason is None else Ending(RunState.CANCELLED, reason)

    async def _take_up(
        self, record: RecordRow, steps: Sequence[StepEvidence], tools: Tools
    ) -> Ending:
        """Read back what an interrupted record came to; nothing is acted on."""
        await tools.open_start()
        snapshot = await tools.actuator.observe()
        reason = read_back(tools.manifest, snapshot, record.parameters)
        if reason is None and not steps[0].shows_result:
            return Ending(RunState.DONE, "interrupted, then confirmed by reading back")
        last = steps[-1]
        doubt = "during" if last.came is Came.UNKNOWN else "after"
        return Ending(
            RunState.IN_DOUBT,
            f"the runner was interrupted {doubt} step {last.step_index + 1} ({last.in_words}): "
            "look at the page before running this record again",
        )

    async def _end_first(self, ending: Ending) -> None:
        """End the record that could not be begun, or that was under way at a crash."""
        record = next(self._pending(), None)
        if record is None:
            return
        steps = runs.steps_of(self.port.store, self.run.run_id, record.record_index)
        if not self.run.dry_run and any(step.came is not Came.REFUSED for step in steps):
            ending = _in_doubt(ending)
        await self._finish(record, ending, steps)

    async def _finish(
        self, record: RecordRow, ending: Ending, steps: Sequence[StepEvidence]
    ) -> None:
        if self.active.gate.forgotten:
            return
        now_ms = self.clock.time_ms()
        effects = Effects(Room.AGENT_RUNNER)
        runs.end_record(
            self.run, record, state=ending.state, reason=ending.reason, steps=steps,
            time_ms=now_ms, artifacts=self.artifacts, effects=effects,
        )  # fmt: skip
        await self.port.commit(effects)
        _RECORDS.labels(ending.state.value).inc()
        _RECORD_S.observe((now_ms - (record.started_ms or now_ms)) / 1000)
        for step in steps:
            if step.came is not None:
                _STEPS.labels(step.came.value).inc()

    def _end(self) -> Effects:
        """Return the effects that end the run as its records ended."""
        effects = Effects(Room.AGENT_RUNNER)
        state, reason = RunState.DONE, None
        counts = runs.records_by_state(self.port.store, self.run.run_id)
        failed = runs.first_not_done(self.port.store, self.run.run_id)
        if failed is not None:
            state, reason = failed.state, f"record {failed.record_index + 1}: {failed.reason}"
        elif self.active.gate.reason is not None and counts.get(RunState.ASKED):
            state, reason = RunState.CANCELLED, self.active.gate.reason
        runs.set_run_state(self.run.run_id, state, reason, self.clock.time_ms(), effects)
        return effects


def _in_doubt(ending: Ending) -> Ending:
    """Return how a record ends that was cut off in the middle: in doubt unless it was read back."""
    if ending.state in (RunState.DONE, RunState.IN_DOUBT):
        return ending
    return Ending(RunState.IN_DOUBT, f"interrupted, and not read back: {ending.reason}")
