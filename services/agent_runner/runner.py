"""The agent-runner's logic: which agents there are, who asked for which run, and the kill switch.

Reads `forgets`, `tasks` and `models`, and what the user decides over REST; writes the room's tables
and, through the work on a run, `runs`. Does not cover how a run is worked on (`work.py`).
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from services.agent_runner import catalog, grants, marks, runs
from services.agent_runner.actuators import Actuator
from services.agent_runner.catalog import Agent, Catalog, TrustedKey, public_key
from services.agent_runner.gate import Gate
from services.agent_runner.grants import Grant, Powers, origins_of
from services.agent_runner.records import check_records
from services.agent_runner.retention import Retention, forget_pages
from services.agent_runner.runs import RunRow
from services.agent_runner.settings import RunnerSettings
from services.agent_runner.work import ActiveRun, RunWork, Task
from shared import tracing
from shared.artifacts import Artifacts
from shared.bus.base import Effects, Message, Port, noted_trace
from shared.clock import Clock
from shared.errors import (
    BusError,
    BusUnavailable,
    ConflictError,
    ContractError,
    NotFound,
    SandboxError,
)
from shared.forget import count_forgotten
from shared.jobs import Job
from shared.module import Manifest, VerifiedModule
from shared.schemas import (
    ForgetRange,
    ModelCard,
    ModelStatus,
    Record,
    Routine,
    RoutineStatus,
    RunState,
)
from shared.topics import Room, Topic

__all__ = ["Approval", "OpenActuator", "RunAsked", "Runner"]

Approval = Literal["once", "always"]
OpenActuator = Callable[[Manifest, bool], Awaitable[Actuator]]  # manifest, dry run

_STOPPED = "stopped by the user"
_MAX_ATTEMPTS = 5  # the frame's: the last one must leave the run ended


@dataclass(frozen=True)
class RunAsked:
    """What the user asked for. One of `records` and `parameters`, or neither."""

    routine_id: str | None = None
    name: str | None = None
    records: Sequence[Mapping[str, str]] | None = None
    parameters: Mapping[str, str] | None = None
    from_screen: bool = False
    limit: int | None = None
    dry_run: bool = False
    keep_going: bool = False
    approve: Approval | None = None


class Runner:
    """agent-runner as the frame runs it, and what REST asks of it."""

    room: ClassVar[Room] = Room.AGENT_RUNNER
    inputs: ClassVar[tuple[Topic, ...]] = (Topic.FORGETS, Topic.TASKS, Topic.MODELS)
    tables: ClassVar[str] = runs.TABLES + grants.TABLES + marks.TABLES + catalog.TABLES

    def __init__(
        self,
        settings: RunnerSettings,
        user_id: str,
        clock: Clock,
        artifacts: Artifacts,
        agents: Catalog,
        open_actuator: OpenActuator,
        profile_dir: Path | None = None,
    ) -> None:
        self.settings = settings
        self.user_id = user_id
        self.clock = clock
        self.artifacts = artifacts
        self.catalog = agents
        self.port: Port
        self._open_actuator = open_actuator
        self._active: dict[str, ActiveRun] = {}
        self._stopping: Counter[str] = Counter()  # run ids whose stop is not durable yet
        self._profile_dir = profile_dir
        self._retention = Retention(artifacts, clock, settings.retention_days)

    # What the frame calls.

    async def start(self, port: Port) -> None:
        """Load the catalog; runs under way go on."""
        self.port = port
        self.catalog.load(port.store)

    def handle(self, record: Record, message: Message, effects: Effects) -> None:
        """Take in a routine, a card or a range to forget."""
        store = self.port.store
        if isinstance(record, Routine):
            before = self.catalog.routines.get(record.routine_id)
            self.catalog.learn_routine(record, effects)
            gone = record.status is RoutineStatus.DELETED
            if gone or (before is not None and record.num_forgotten > before.num_forgotten):
                self._forget(runs.run_ids(store, routine_id=record.routine_id), effects)
            if gone:
                grants.forget(record.routine_id, effects)
        elif isinstance(record, ModelCard):
            effects.note_trace(record.subject_id)
            self._retention.unlink_later(self.catalog.learn_card(record, effects))
            if record.status is ModelStatus.DELETED:
                self._forget(runs.run_ids(store, routine_id=record.subject_id), effects)
        elif isinstance(record, ForgetRange):
            # Ranges of one session reach a run through its routine and model: it holds no event.
            if record.session is None:
                self._forget(runs.run_ids(store, asked_before_ms=message.time_ms), effects)
            if record.since_ms is not None:
                self._forget(runs.run_ids(store, asked_since_ms=record.since_ms), effects)

    async def erase(self, ranges: Sequence[ForgetRange]) -> int | None:
        """Take the outcomes of forgotten runs off `runs`, and what the agent's browser saw.

        Raises BusUnavailable while an agent uses that browser.
        """
        gone = runs.gone_runs(self.port.store)
        erased = await self.port.erase(Topic.RUNS, lambda message: runs.is_outcome(message, gone))
        if gone and self._profile_dir is not None:
            if self._active:
                raise BusUnavailable("an agent is at work: its browser's pages are deleted after")
            everything = any(forget.session is None for forget in ranges)
            await asyncio.to_thread(forget_pages, self._profile_dir, everything=everything)
        effects = Effects(self.room)
        runs.note_erased(gone, effects)
        if effects:
            await self.port.commit(effects)
        return erased.gone_by_ms

    async def work(self, job: Job, port: Port) -> Effects:
        """Work on a run until it has ended."""
        try:
            run = runs.get_run(port.store, job.id)
        except NotFound:
            return Effects(self.room)  # forgotten before it began
        if job.attempts >= _MAX_ATTEMPTS and not run.ended:
            reason = f"it failed {job.attempts} times ({job.error}): see the log"
            run = run.model_copy(update={"state": RunState.FAILED, "reason": reason})
        active = self._active[run.run_id] = ActiveRun(Gate())
        if self._stopping[run.run_id] > 0:
            active.gate.shut(_STOPPED)
        try:
            return await RunWork(
                run=run,
                task=self._task(run),
                active=active,
                port=port,
                clock=self.clock,
                settings=self.settings,
                artifacts=self.artifacts,
            ).work()
        finally:
            del self._active[run.run_id]

    async def background(self, stop: asyncio.Event) -> None:
        """Let go of what is old or forgotten."""
        await self._retention.run(self.port, stop)

    async def close(self) -> None:
        """Close every screen that is still open."""
        for active in list(self._active.values()):
            await active.stop("the runner is stopping")

    # What the user decides.

    async def ask(self, asked: RunAsked) -> RunRow:
        """Take in a run; it waits for approval unless grants cover it.

        Raises NotFound, ContractError for wrong records, SandboxError for a refused agent.
        """
        agent = self.catalog.find(routine_id=asked.routine_id, name=asked.name)
        verified = await asyncio.to_thread(self.catalog.verified, agent)
        records = check_records(
            _records(asked),
            self.catalog.parameters(agent, verified),
            from_screen=asked.from_screen,
            unused=self.catalog.unused_parameters(agent, verified),
        )
        run = RunRow(
            run_id=secrets.token_hex(8),
            user_id=self.user_id,
            routine_id=agent.card.subject_id,
            name=self.catalog.name(agent),
            model_id=agent.card.id,
            module=verified.digest,
            dry_run=asked.dry_run,
            from_screen=asked.from_screen,
            keep_going=asked.keep_going,
            ops=verified.manifest.capabilities,
            origins=origins_of(verified.manifest),
            num_records=len(records),
            state=RunState.WAITING,
            reason=None,
            asked_ms=self.clock.time_ms(),
            started_ms=None,
            ended_ms=None,
        )
        effects = Effects(self.room)
        covered = asked.dry_run or not self.lacking(run)
        if covered or asked.approve is not None:
            run = run.model_copy(update={"state": RunState.ASKED})
        runs.new_run(run, records, effects)
        if asked.approve is not None and not covered:
            self._grant(run, asked.approve, effects)
        if run.state is RunState.ASKED:
            self._ask_job(run, run.asked_ms, effects)
        await self.port.commit(effects)
        return run

    def lacking(self, run: RunRow) -> list[tuple[str, str]]:
        """Return the (operation, origin) pairs that a run needs and was not granted."""
        if run.dry_run:
            return []
        powers = Powers.now(self.port.store, run.module, run.run_id)
        return powers.lacking(run.ops, run.origins)

    async def approve(self, run_id: str, approval: Approval) -> RunRow:
        """Grant a waiting run what it needs, and let it begin. Raises NotFound, ConflictError."""
        run = self._waiting(run_id)
        effects = Effects(self.room)
        now_ms = self.clock.time_ms()
        self._grant(run, approval, effects)
        runs.set_run_state(run_id, RunState.ASKED, None, now_ms, effects)
        self._ask_job(run, now_ms, effects)
        await self.port.commit(effects)
        return runs.get_run(self.port.store, run_id)

    async def reject(self, run_id: str) -> RunRow:
        """End a waiting run. Raises NotFound, ConflictError."""
        self._waiting(run_id)
        await self._stop([run_id], "rejected by the user")
        return runs.get_run(self.port.store, run_id)

    async def stop_run(self, run_id: str) -> RunRow:
        """Return once the run does nothing any more. Harmless where it has ended."""
        if not runs.get_run(self.port.store, run_id).ended:
            await self._stop([run_id])
        return runs.get_run(self.port.store, run_id)

    async def stop_all(self) -> list[str]:
        """Return the ids of the runs that were stopped, once none does anything any more."""
        run_ids = runs.run_ids(self.port.store, open_only=True)
        await self._stop(run_ids)
        return run_ids

    async def grant(
        self,
        *,
        routine_id: str | None,
        name: str | None,
        ops: Sequence[str] | None,
        origins: Sequence[str] | None,
    ) -> Grant:
        """Give an agent a standing grant, of all it needs or of a part of that.

        Raises NotFound, SandboxError, and ContractError for what it does not need.
        """
        agent = self.catalog.find(routine_id=routine_id, name=name)
        verified = await asyncio.to_thread(self.catalog.verified, agent)
        needs = verified.manifest.capabilities, origins_of(verified.manifest)
        given = tuple(ops or needs[0]), tuple(origins or needs[1])
        for got, needed in zip(given, needs, strict=True):
            if surplus := sorted(set(got) - set(needed)):
                raise ContractError(
                    f"the agent does not need {', '.join(surplus)}: it needs {', '.join(needed)}"
                )
        grant = Grant.make(
            module=verified.digest, routine_id=agent.card.subject_id, run_id=None,
            ops=given[0], origins=given[1], time_ms=self.clock.time_ms(),
        )  # fmt: skip
        effects = Effects(self.room)
        grant.write(effects)
        await self.port.commit(effects)
        return grant

    async def revoke(self, grant_id: str) -> None:
        """Take a grant back; a run under way notices before its next step. Raises NotFound."""
        if not grants.get_grants(self.port.store, grant_id):
            raise NotFound(f"there is no grant {grant_id}: GET grants lists them")
        effects = Effects(self.room)
        grants.revoke(grant_id, self.clock.time_ms(), effects)
        await self.port.commit(effects)

    async def trust(self, untrusted_key: str, name: str) -> TrustedKey:
        """Accept modules that this key signed. Raises ContractError for what is no key."""
        key = TrustedKey(
            public_key=public_key(untrusted_key), name=name, added_ms=self.clock.time_ms()
        )
        effects = Effects(self.room)
        self.catalog.trust(key, effects)
        await self._commit_catalog(effects)
        return key

    async def distrust(self, key: str) -> None:
        """Accept modules that this key signed no more. Raises NotFound."""
        effects = Effects(self.room)
        self.catalog.distrust(key, effects)
        await self._commit_catalog(effects)

    # How it is done.

    async def _commit_catalog(self, effects: Effects) -> None:
        try:
            await self.port.commit(effects)
        except BusError:
            self.catalog.load(self.port.store)
            raise

    def _ask_job(self, run: RunRow, now_ms: int, effects: Effects) -> None:
        """Let a run begin, as a part of the trace that its agent came of."""
        with tracing.span(self.room, "ask", noted_trace(self.port.store, run.routine_id)):
            effects.job(run.run_id, "run", {}, now_ms)

    def _waiting(self, run_id: str) -> RunRow:
        run = runs.get_run(self.port.store, run_id)
        if run.state is not RunState.WAITING:
            raise ConflictError(f"run {run_id} is {run.state.value}: it waits for no approval")
        return run

    def _grant(self, run: RunRow, approval: Approval, effects: Effects) -> None:
        Grant.make(
            module=run.module,
            routine_id=run.routine_id,
            run_id=run.run_id if approval == "once" else None,
            ops=run.ops,
            origins=run.origins,
            time_ms=self.clock.time_ms(),
        ).write(effects)

    async def _stop(self, run_ids: Sequence[str], reason: str = _STOPPED) -> None:
        """Return once these runs do nothing any more, those included that begin meanwhile."""
        self._stopping.update(run_ids)
        try:
            active = [self._active[run_id] for run_id in run_ids if run_id in self._active]
            for one in active:  # every gate first: waiting for one must not let another act
                one.gate.shut(reason)
            await asyncio.gather(*(one.stop(reason) for one in active))
            effects = Effects(self.room)
            for run_id in run_ids:
                runs.cancel_run(run_id, reason, self.clock.time_ms(), effects)
            if effects:
                await self.port.commit(effects)
        finally:
            self._stopping.subtract(run_ids)
            self._stopping = +self._stopping

    def _task(self, run: RunRow) -> Task:
        def verify(granted: Sequence[str]) -> VerifiedModule:
            verified = self.catalog.verified(self._agent(run), granted)
            if verified.digest != run.module:
                raise SandboxError(
                    "the agent was trained again since this run was asked for: ask for it again"
                )
            return verified

        return Task(
            verify=verify,
            parameters=lambda verified: self.catalog.parameters(self._agent(run), verified),
            max_steps=lambda: (
                self.settings.max_step_factor * self.catalog.num_steps(self._agent(run))
            ),
            open_actuator=self._open_actuator,
        )

    def _agent(self, run: RunRow) -> Agent:
        return self.catalog.find(routine_id=run.routine_id, name=None)

    def _forget(self, run_ids: Sequence[str], effects: Effects) -> None:
        """Delete runs and all they hold; one under way does nothing any more and leaves nothing."""
        for run_id in run_ids:
            if run_id in self._active:
                self._active[run_id].gate.forget()
            self._retention.unlink_later(runs.evidence_of(self.port.store, run_id))
            runs.delete_run(run_id, self.artifacts, effects)
            runs.note_gone(run_id, effects)
        count_forgotten(effects, "runs", len(run_ids))


def _records(asked: RunAsked) -> Sequence[Mapping[str, str]]:
    if asked.records is not None and asked.parameters is not None:
        raise ContractError("give records or parameters, not both")
    if asked.records is None:
        return [asked.parameters or {}]
    return asked.records if asked.limit is None else asked.records[: asked.limit]
