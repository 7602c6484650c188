"""One record worked on: observe, check, decide, write down, act, until finished and read back.

Every act is committed as an intent before it is done and never done twice. Nothing is done on a
screen that differs from what was demonstrated, without a grant, or after the kill switch. Does not
cover what happens between records, nor how a screen is acted on (the actuator).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from services.agent_runner.actuators import Actuator
from services.agent_runner.brain import Brain
from services.agent_runner.evidence import (
    Came,
    Decided,
    StepEvidence,
    screen_digest,
)
from services.agent_runner.from_screen import read_parameters
from services.agent_runner.gate import Gate, RunStopped
from services.agent_runner.grants import Powers, check_granted, origin_of
from services.agent_runner.marks import Marks
from services.agent_runner.runs import (
    RecordRow,
    RunRow,
    fill_record,
    write_intent,
    write_outcome,
)
from services.agent_runner.sandbox import StepOutcome
from services.agent_runner.settings import RunnerSettings
from shared import failpoints
from shared.bus.base import Effects, Port
from shared.clock import Clock
from shared.encoding import Encoded, HistoryStep, normalise
from shared.errors import ActuatorError, GrantDenied, StepRefused, StepUnverified
from shared.module import Manifest, Status
from shared.reading import Reader
from shared.schemas import Parameter, RunState, Snapshot, SnapshotElement
from shared.screen import check_post_condition, check_screen
from shared.topics import Room
from shared.transforms import complete

__all__ = ["Ending", "RecordWork", "Tools", "read_back"]

_CONFIRM_EVERY_S = 0.2
_MAX_LABEL_CHARS = 200
_STATUS = {
    Status.ACTED: "acted",
    Status.FINISHED: "finished",
    Status.ABSTAINED: "abstained",
    Status.REFUSED: "refused",
}


@dataclass(frozen=True)
class Ending:
    """How a record ended, and why."""

    state: RunState
    reason: str | None = None


@dataclass(frozen=True)
class Tools:
    """What all records of one run are worked on with."""

    port: Port
    clock: Clock
    settings: RunnerSettings
    manifest: Manifest
    parameters: Sequence[Parameter]
    max_steps: int
    actuator: Actuator
    brain: Brain
    marks: Marks
    gate: Gate

    @property
    def start_url(self) -> str:
        """Return where the demonstrations began."""
        return str(self.manifest.screen_schema.get("start_url", ""))

    async def open_start(self) -> None:
        """Show the start page under a durable mark."""
        async with self.gate.act():
            await self.marks.cover(self.actuator.target)
            self.gate.check()
            await self.gate.through(self.actuator.open(self.start_url))


def read_back(manifest: Manifest, snapshot: Snapshot, values: dict[str, str]) -> str | None:
    """Return why the screen does not show what the demonstrations ended with, or None."""
    slots = {**manifest.constants, **values}
    return check_post_condition(manifest.post_condition, snapshot, slots)


class RecordWork:
    """The work on one record."""

    def __init__(self, run: RunRow, record: RecordRow, tools: Tools) -> None:
        self.steps: list[StepEvidence] = []
        self._run = run
        self._record = record
        self._tools = tools
        self._values = dict(record.parameters)
        self._reader = Reader(tools.manifest)
        self._told: dict[str, str] = {}  # what the first screen's instruction names
        self._history: list[HistoryStep] = []
        self._tried: set[tuple[str | int | None, ...]] = set()

    async def work(self) -> Ending:
        """Work until finished, stopped or out of steps.

        Raises RunStopped, SandboxError, ActuatorError, ContractError and BusError.
        """
        tools = self._tools
        await tools.open_start()
        if any(parameter.name not in self._values for parameter in tools.parameters):
            await self._read_parameters()
        self._told = self._reader.told(await tools.actuator.observe())
        for _ in range(tools.max_steps):
            tools.gate.check()
            snapshot, reason = await self._look()
            if reason is not None:
                return Ending(RunState.STOPPED, reason)
            ending = await self._step(snapshot)
            if ending is not None:
                return ending
        return Ending(
            RunState.STOPPED,
            f"it took {tools.max_steps} steps and was not finished: see the evidence, or show the "
            "routine again",
        )

    @property
    def _shown_values(self) -> dict[str, str]:
        return {**self._told, **self._values}

    async def _read_parameters(self) -> None:
        """Take what was not given from the first page, and compute what follows from it.

        It is kept, so that it can be read back.
        """
        snapshot = await self._tools.actuator.observe()
        read = read_parameters(snapshot, self._tools.parameters, self._values)
        self._values = complete(read, self._tools.manifest.programmes)
        effects = Effects(Room.AGENT_RUNNER)
        fill_record(self._run.run_id, self._record.record_index, self._values, effects)
        await self._tools.port.commit(effects)

    async def _look(self) -> tuple[Snapshot, str | None]:
        """Return the screen and why not to act on it; a page under way gets a second look."""
        tools = self._tools
        slots = {**tools.manifest.constants, **self._shown_values}
        snapshot = await tools.actuator.observe()
        reason = check_screen(tools.manifest.screen_schema, snapshot, slots)
        if reason is not None:
            await tools.actuator.settle(tools.settings.settle_timeout_ms)
            snapshot = await tools.actuator.observe()
            reason = check_screen(tools.manifest.screen_schema, snapshot, slots)
        return snapshot, reason

    async def _step(self, snapshot: Snapshot) -> Ending | None:
        tools = self._tools
        known = {**tools.manifest.constants, **self._shown_values}
        encoded = self._reader.encode(snapshot, known, self._history)
        if not encoded.elements:
            return Ending(RunState.STOPPED, "the page shows nothing that can be acted on")
        origin = origin_of(snapshot.document)
        outcome = await tools.brain.decide(encoded, self._allowed_ops(origin))
        step = self._evidence(snapshot, encoded, outcome)
        if outcome.status == Status.FINISHED:
            self.steps.append(step)
            return await self._confirm()
        if outcome.status == Status.ABSTAINED or outcome.op is None:
            self.steps.append(step)
            return Ending(
                RunState.STOPPED,
                f"it was not sure what to do (margin {outcome.margin:.2f}, needs "
                f"{tools.manifest.margin_threshold:.2f}): do this record by hand, or show it again",
            )
        if not self._run.dry_run:
            check_granted(self._powers(), outcome.op, origin, run_id=self._run.run_id)
        return await self._act(step, snapshot, encoded.elements[outcome.element], outcome)

    def _powers(self) -> Powers:
        return Powers.now(self._tools.port.store, self._run.module, self._run.run_id)

    def _allowed_ops(self, origin: str) -> list[str]:
        ops = self._tools.manifest.capabilities
        if self._run.dry_run:
            return list(ops)
        # A power that is missing only here is named by `check_granted`, not by the sandbox.
        return [op for op in ops if any(granted == op for granted, _ in self._powers().pairs)]

    def _evidence(self, snapshot: Snapshot, encoded: Encoded, outcome: StepOutcome) -> StepEvidence:
        element = None
        if outcome.op is not None:
            element = _element(snapshot, encoded.elements[outcome.element])
        decided = Decided(
            step_index=len(self.steps),
            time_ms=self._tools.clock.time_ms(),
            document=snapshot.document,
            screen=screen_digest(snapshot),
            num_candidates=len(encoded.elements),
            shows_result=read_back(self._tools.manifest, snapshot, self._shown_values) is None,
            status=_STATUS[outcome.status],
            margin=outcome.margin,
            fuel_used=outcome.fuel_used,
            op=outcome.op,
            role=element.role if element else None,
            label=_label(element) if element else None,
            slot=outcome.slot,
            key=outcome.key,
        )
        return StepEvidence(**decided.model_dump())

    def _value_of(self, slot: str | None) -> str | None:
        if slot is None:
            return None
        return self._shown_values.get(slot, self._tools.manifest.constants.get(slot))

    async def _act(
        self, step: StepEvidence, snapshot: Snapshot, index: int, outcome: StepOutcome
    ) -> Ending | None:
        """Do one step that was decided; return how the record ends, if it does."""
        tools = self._tools
        focus_counts = outcome.op == "press_key"
        screen = screen_digest(snapshot, with_focus=focus_counts)
        tried = (screen, index, outcome.op, outcome.slot, outcome.key)
        if tried in self._tried:
            self.steps.append(step)
            return Ending(RunState.STOPPED, f"{step.in_words} changed nothing: it is not repeated")
        self._tried.add(tried)
        element = _element(snapshot, index)
        async with tools.gate.act():
            await tools.marks.cover(tools.actuator.target)
            await self._commit_intent(step)
            step, ends_here = await self._perform(step, index, outcome)
        if step.came is Came.REFUSED:
            tools.gate.check()  # refused by the kill switch, not by the page
            return Ending(RunState.STOPPED, step.note)
        self._history.append(self._reader.step(snapshot, index, step.op or "", outcome.slot))
        if ends_here:
            return Ending(RunState.DONE, f"dry run: it ended at {step.in_words}")
        if step.came is Came.DONE:
            await tools.actuator.settle(tools.settings.settle_timeout_ms)
            return None
        return await self._resolve(step, element, self._value_of(outcome.slot))

    async def _perform(
        self, step: StepEvidence, index: int, outcome: StepOutcome
    ) -> tuple[StepEvidence, bool]:
        """Perform under the intent and commit what came of it; (step, dry run ends here)."""
        tools, ends_here = self._tools, False
        began_ms = tools.clock.boottime_ms()
        try:
            tools.gate.check()
            assert outcome.op is not None
            if not self._run.dry_run:  # once more: a grant may have been revoked since it was asked
                origin = origin_of(step.document)
                check_granted(self._powers(), outcome.op, origin, run_id=self._run.run_id)
            act = tools.actuator.perform(
                outcome.op, index, text=self._value_of(outcome.slot), key=outcome.key
            )
            performed = await tools.gate.through(act)
            came, note, ends_here = Came.DONE, performed.untrusted_note, performed.ends_here
        except (StepRefused, RunStopped, GrantDenied) as error:
            came, note = Came.REFUSED, str(error)
        except StepUnverified as error:
            came, note = Came.UNVERIFIED, str(error)
        except ActuatorError as error:
            came, note = Came.UNKNOWN, str(error)
        failpoints.reach("acted")
        took_ms = tools.clock.boottime_ms() - began_ms
        step = step.model_copy(update={"came": came, "note": note, "took_ms": took_ms})
        await self._commit_outcome(step)
        return step, ends_here

    async def _resolve(
        self, step: StepEvidence, element: SnapshotElement, text: str | None
    ) -> Ending | None:
        """Look whether a step in doubt had its effect; None: it had, go on."""
        tools = self._tools
        doubt = Ending(
            RunState.IN_DOUBT,
            f"{step.in_words} may or may not have happened ({step.note}): look at the page before "
            "running this record again",
        )
        try:
            await tools.actuator.settle(tools.settings.settle_timeout_ms)
            snapshot = await tools.actuator.observe()
        except ActuatorError:
            return doubt
        if text is not None:
            if not _holds(snapshot, element, text):
                return Ending(RunState.STOPPED, step.note)
            await self._commit_outcome(step.model_copy(update={"came": Came.DONE}))
            return None
        if step.shows_result or read_back(tools.manifest, snapshot, self._shown_values) is not None:
            return doubt
        await self._commit_outcome(step.model_copy(update={"came": Came.DONE}))
        return Ending(RunState.DONE, "confirmed by reading back")

    async def _confirm(self) -> Ending:
        """Read the result back; only what is seen is done."""
        tools = self._tools
        if self._run.dry_run:
            return Ending(RunState.DONE, "dry run: it would be finished here")
        deadline_ms = tools.clock.boottime_ms() + tools.settings.confirm_timeout_ms
        while True:
            snapshot = await tools.actuator.observe()
            reason = read_back(tools.manifest, snapshot, self._shown_values)
            if reason is None:
                break
            if tools.clock.boottime_ms() >= deadline_ms:
                return Ending(RunState.STOPPED, f"not confirmed: {reason}")
            await asyncio.sleep(_CONFIRM_EVERY_S)
            tools.gate.check()
        if not self._history:
            return Ending(RunState.STOPPED, "it found the result on the first page and did nothing")
        if self.steps[0].shows_result:
            return Ending(RunState.DONE, "the result was there already, before it began")
        return Ending(RunState.DONE)

    async def _commit_intent(self, step: StepEvidence) -> None:
        effects = Effects(Room.AGENT_RUNNER)
        write_intent(self._run.run_id, self._record.record_index, step, effects)
        await self._tools.port.commit(effects)
        self.steps.append(step)

    async def _commit_outcome(self, step: StepEvidence) -> None:
        self.steps[-1] = step
        effects = Effects(Room.AGENT_RUNNER)
        write_outcome(self._run.run_id, self._record.record_index, step, effects)
        await self._tools.port.commit(effects)


def _element(snapshot: Snapshot, index: int) -> SnapshotElement:
    return next(e for e in snapshot.elements if e.index == index)


def _label(element: SnapshotElement) -> str | None:
    for text in (element.label, element.name and element.name.clear):
        if text:
            return text[:_MAX_LABEL_CHARS]
    return None


def _holds(snapshot: Snapshot, element: SnapshotElement, text: str) -> bool:
    """Tell whether the one field of this role and name holds `text` now."""
    same = [e for e in snapshot.elements if (e.role, _label(e)) == (element.role, _label(element))]
    value = same[0].value if len(same) == 1 else None
    return value is not None and normalise(value.clear or "") == normalise(text)
