"""The agent-trainer: asks for trainings, runs them in a child, publishes what came of them.

Reads `tasks` and `forgets`; trains on approval (or on proposal with auto-train), and again only
when the support has doubled or the user asks. Writes `models`. A model's id is a hash of routine,
revision, options and data, so the same training asked for twice is one. The private key that signs
modules never leaves this process.
"""

import asyncio
import hashlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from prometheus_client import Counter, Histogram

from services.agent_trainer import rows
from services.agent_trainer.child import Line, run_child
from services.agent_trainer.folders import Folders
from services.agent_trainer.library import Library
from services.agent_trainer.options import TrainOptions
from services.agent_trainer.order import Order
from services.agent_trainer.rows import Trained, Training
from services.agent_trainer.settings import TrainerSettings
from shared.artifacts import Artifacts
from shared.bus.base import Effects, Message, Port
from shared.clock import Clock
from shared.errors import ConflictError, ContractError, TrainingError, WatError
from shared.forget import count_forgotten
from shared.schemas import (
    ForgetRange,
    Level,
    ModelCard,
    ModelKind,
    ModelStatus,
    Record,
    Routine,
    RoutineStatus,
    derive_id,
)
from shared.service import Job
from shared.topics import Room, Topic

__all__ = ["AgentTrainer"]

_TRAININGS = Counter("wat_agent_trainer_trainings_total", "trainings by outcome", ["outcome"])
_SECONDS = Histogram(
    "wat_agent_trainer_training_seconds", "duration of a training by the clock",
    buckets=(3, 6, 10, 15, 20, 30, 60, 120, 300, 600),
)  # fmt: skip
_MAX_LINES = 2_000

_log = logging.getLogger(__name__)


class AgentTrainer:
    """The room's logic."""

    room: ClassVar[Room] = Room.AGENT_TRAINER
    inputs: ClassVar[tuple[Topic, ...]] = (Topic.FORGETS, Topic.TASKS)
    tables: ClassVar[str] = rows.TABLES

    def __init__(self, settings: TrainerSettings, data_dir: Path, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._artifact_root = data_dir / "artifacts"
        artifacts = Artifacts(self._artifact_root, self.room)
        self.library = Library(artifacts, data_dir / "keys", clock)
        self._folders = Folders(data_dir / "trainings")
        self._options = TrainOptions(seed=settings.seed, num_variants=settings.num_variants)
        self._trained: dict[str, Trained] = {}
        self._forgotten: list[tuple[str, str | None, int]] = []
        self._lines: dict[str, list[Line]] = {}  # of trainings that run
        self._stops: dict[str, asyncio.Event] = {}
        self._grown: defaultdict[str, asyncio.Condition] = defaultdict(asyncio.Condition)
        self._closed = False
        self.port: Port

    async def start(self, port: Port) -> None:
        """Load what was trained, published and forgotten. Raises ConfigError for a bad key file."""
        self.port = port
        self.library.load(port)
        self._trained = rows.trained(port.store)
        self._forgotten = rows.forgets(port.store)
        if not self._stops:  # after a failed handler a training may run
            await asyncio.to_thread(self._folders.keep_only, rows.unfinished(port.store))

    def handle(self, record: Record, message: Message, effects: Effects) -> None:
        """Take in a routine or a range to forget."""
        match record:
            case Routine():
                self._learn_of(record, effects)
            case ForgetRange():
                self._forget(record, effects)
            case _:
                raise ContractError(f"{record.record_type} does not belong on {message.topic}")

    def _learn_of(self, routine: Routine, effects: Effects) -> None:
        before = self._trained.get(routine.routine_id)
        if routine.status is RoutineStatus.DELETED:
            if before is not None:
                self._forget_model(before, False, effects)
            self._let_go(routine.routine_id, ModelStatus.DELETED, "its routine is gone", effects)
            return
        if before is not None and routine.num_forgotten > before.num_forgotten:
            left = {(t.session, t.started_ms) for t in routine.traces} & set(before.traces)
            self._forget_model(before, bool(left), effects)
        if routine.status is RoutineStatus.IGNORED:
            self._let_go(routine.routine_id, ModelStatus.RETIRED, "its routine is ignored", effects)
        elif self._is_wanted(routine) and not self._is_forgotten(routine):
            self._ask(routine, effects)

    def _is_wanted(self, routine: Routine) -> bool:
        before = self._trained.get(routine.routine_id)
        if routine.train > (before.train if before else 0):
            return True
        approved = routine.status is RoutineStatus.APPROVED
        proposed = routine.status is RoutineStatus.PROPOSED and self._settings.auto_train
        if not (approved or proposed):
            return False
        return before is None or routine.support >= 2 * before.support

    def _is_forgotten(self, routine: Routine) -> bool:
        """Tell whether the record still names traces that have been forgotten since."""
        return any(
            user == routine.user_id
            and routine.time_ms <= time_ms
            and any(_is_in(t.session, t.started_ms, session, time_ms) for t in routine.traces)
            for user, session, time_ms in self._forgotten
        )

    def _ask(self, routine: Routine, effects: Effects) -> None:
        now_ms = self._clock.time_ms()
        digests = sorted(trace.digest for trace in routine.traces)
        data_digest = hashlib.sha256("\n".join(digests).encode()).hexdigest()
        model_id = derive_id(
            routine.routine_id, routine.revision, self._options.digest, data_digest
        )
        entry = Trained(
            routine_id=routine.routine_id,
            user_id=routine.user_id,
            training_id=model_id,
            support=routine.support,
            train=routine.train,
            traces=tuple((t.session, t.started_ms) for t in routine.traces),
            num_forgotten=routine.num_forgotten,
        )
        self._trained[routine.routine_id] = entry
        rows.save_trained(entry, effects)
        card = self.library.find(routine.routine_id)
        redo = card is None or card.id != model_id or card.status is not ModelStatus.READY
        rows.ask_training(model_id, routine, now_ms, redo, effects)
        payload = {
            "routine": routine.model_dump(mode="json", exclude_none=True),
            "data_digest": data_digest,
        }
        effects.job(model_id, "train", payload, now_ms)
        # A job that ended is asked for again only where its training is: it failed, say.
        effects.write(
            "UPDATE jobs SET state = 'asked', attempts = 0 WHERE id = ? AND state IN "
            "('done', 'failed', 'cancelled') AND EXISTS "
            "(SELECT 1 FROM trainings t WHERE t.id = jobs.id AND t.state = 'asked')",
            (model_id,),
        )

    def _let_go(self, routine_id: str, status: ModelStatus, reason: str, effects: Effects) -> None:
        """Retire or delete a routine's model and forget that it was trained."""
        before = self._trained.pop(routine_id, None)
        effects.write("DELETE FROM trained WHERE routine_id = ?", (routine_id,))
        if before is not None:
            self._stop(before.training_id)
            self._folders.drop(routine_id)
            effects.write(
                "UPDATE trainings SET state = 'cancelled', reason = ?, ended_ms = ? "
                "WHERE id = ? AND state = 'asked'",
                (reason, self._clock.time_ms(), before.training_id),
            )
        self.library.let_go(routine_id, status, reason, effects)

    def _forget(self, record: ForgetRange, effects: Effects) -> None:
        """Let go of what a whole session or all was learned from.

        Of a part of a session, the routine's next record says what it takes with it.
        """
        rows.save_forget(record, effects)
        self._forgotten.append((record.user_id, record.session, record.time_ms))
        if record.session is not None and (record.first_seq > 0 or record.last_seq is not None):
            return
        for entry in list(self._trained.values()):
            hit = [record.session in (None, session) for session, _ in entry.traces]
            if entry.user_id == record.user_id and any(hit):
                self._forget_model(entry, not all(hit), effects)

    def _forget_model(self, entry: Trained, has_left: bool, effects: Effects) -> None:
        """Take back a model with all that tells of its data; it is deleted where none is left."""
        status = ModelStatus.RETIRED if has_left else ModelStatus.DELETED
        reason = "what it was learned from was forgotten"
        count_forgotten(effects, "trainings")
        card = self.library.find(entry.routine_id)
        count_forgotten(effects, "models", int(card is not None and card.artifact is not None))
        self._let_go(entry.routine_id, status, reason, effects)
        rows.delete_trainings(entry.routine_id, effects)

    # -- training -------------------------------------------------------------------------------
    async def work(self, job: Job, port: Port) -> Effects:
        """Train in a child; publish a card that is ready, or says why there is none."""
        routine = Routine.model_validate(job.payload["routine"])
        training = rows.get_training(port.store, job.id)
        effects = Effects(self.room)
        if training.state not in ("asked", "running"):
            return effects
        lines, stop = self._lines.setdefault(job.id, []), asyncio.Event()
        lines.clear()
        self._stops[job.id] = stop
        running = Effects(self.room)
        rows.set_state(job.id, "running", self._clock.time_ms(), running)
        await port.commit(running)
        folder = await asyncio.to_thread(self._folders.make, routine.routine_id)
        is_done = False
        try:
            done = await self._train(job, routine, folder, stop)
            if stop.is_set():
                raise TrainingError("cancelled")
            self._finish(job, routine, folder, done, effects)
            state, reason, is_done = "done", None, True
        except WatError as error:
            if error.retryable:
                raise
            state, reason = ("cancelled" if stop.is_set() else "failed"), str(error)
            if state == "failed":
                self._fail(job, routine, str(error), effects)
        finally:
            self._stops.pop(job.id, None)
            self._lines.pop(job.id, None)
            if is_done or not self._is_newest(job.id, routine):
                await asyncio.to_thread(self._folders.drop, routine.routine_id)
            await self._wake(job.id)
        end: Line = {"event": state} if reason is None else {"event": state, "reason": reason}
        kept = [*(line for line in lines if line.get("event") not in ("done", "failed")), end]
        rows.end_training(job.id, state, reason, kept, self._clock.time_ms(), effects)
        _TRAININGS.labels(state).inc()
        _log.info("training", extra={"outcome": state})
        return effects

    def _is_newest(self, training_id: str, routine: Routine) -> bool:
        entry = self._trained.get(routine.routine_id)
        return entry is not None and entry.training_id == training_id

    async def _train(self, job: Job, routine: Routine, folder: Path, stop: asyncio.Event) -> Line:
        if routine.level is Level.STRUCTURE:
            raise TrainingError(
                "the routine touches an application of which only the structure may be kept: "
                "allow `values` for it, then show the routine again"
            )
        order = Order(
            routine=routine,
            options=self._options,
            data_digest=job.payload["data_digest"],
            artifacts=self._artifact_root,
            folder=folder,
            cpu_limit_s=self._settings.cpu_limit_s,
            memory_limit_bytes=self._settings.memory_limit_mib * 2**20,
        )
        lines = self._lines[job.id]
        tasks: set[asyncio.Task[None]] = set()

        def on_line(line: Line) -> None:
            if len(lines) < _MAX_LINES:
                lines.append({**line, "time_ms": self._clock.time_ms()})
            task = asyncio.ensure_future(self._wake(job.id))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        with _SECONDS.time():
            return await run_child(
                order.model_dump_json(),
                on_line=on_line,
                wall_limit_s=self._settings.wall_limit_s,
                stop=stop,
            )

    def _finish(
        self, job: Job, routine: Routine, folder: Path, done: Line, effects: Effects
    ) -> None:
        """Check, sign and publish what the child wrote."""
        module = (folder / "module.wasm").read_bytes()
        if hashlib.sha256(module).hexdigest() != done["sha256"]:
            raise TrainingError("the module on disk is not the one that was written: train again")
        beside = {
            "weights": (folder / "weights.safetensors").read_bytes(),
            "onnx": (folder / "network.onnx").read_bytes(),
        }
        options = {k: v for k, v in self._options.model_dump().items() if not isinstance(v, tuple)}
        card = _card(job, routine, ModelStatus.READY, self._options.seed, self._clock.time_ms())
        fields = {key: done[key] for key in _FROM_CHILD}
        card = ModelCard.model_validate({**card.model_dump(), "options": options, **fields})
        self.library.keep(card, module, beside, effects)

    def _fail(self, job: Job, routine: Routine, reason: str, effects: Effects) -> None:
        before = self.library.find(routine.routine_id)
        if before is not None and before.status is ModelStatus.READY:
            return  # the one that works stays; the training itself says why there is no newer
        card = _card(job, routine, ModelStatus.FAILED, self._options.seed, self._clock.time_ms())
        self.library.publish(card.model_copy(update={"reason": reason}), effects)

    def _stop(self, training_id: str) -> None:
        if training_id in self._stops:
            self._stops[training_id].set()

    async def _wake(self, training_id: str) -> None:
        if training_id in self._grown:
            async with self._grown[training_id]:
                self._grown[training_id].notify_all()

    async def background(self, stop: asyncio.Event) -> None:
        """Do nothing beside records and trainings."""
        await stop.wait()

    async def close(self) -> None:
        """End trainings that still run, and those who follow them."""
        self._closed = True
        for stop in self._stops.values():
            stop.set()

    # -- what a person asks for -----------------------------------------------------------------
    def training(self, training_id: str) -> Training:
        """Return a training. Raises NotFound."""
        return rows.get_training(self.port.store, training_id)

    def trainings(self, before: tuple[int, str], limit: int) -> list[Training]:
        """Return trainings, the newest first."""
        return rows.list_trainings(self.port.store, before, limit)

    async def cancel(self, training_id: str) -> None:
        """End a training that is asked for or runs. Raises NotFound, ConflictError."""
        training = self.training(training_id)
        if training.state not in ("asked", "running"):
            raise ConflictError(f"training {training_id} is {training.state}: nothing to cancel")
        if training_id in self._stops:
            self._stop(training_id)
            return
        effects = Effects(self.room)
        rows.end_training(training_id, "cancelled", "cancelled", (), self._clock.time_ms(), effects)
        await self.port.commit(effects)

    def told(self, training_id: str) -> Sequence[Line]:
        """Return the progress lines of a training so far. Raises NotFound."""
        self.training(training_id)
        return self._lines.get(training_id) or rows.progress(self.port.store, training_id)

    async def progress(self, training_id: str) -> AsyncIterator[dict[str, Any]]:
        """Yield a training's progress from its start to its end. Raises NotFound at once."""
        told = 0
        while not self._closed and self.training(training_id).state in ("asked", "running"):
            lines = self._lines.get(training_id, [])
            for line in lines[told:]:
                yield line
            told = max(told, len(lines))
            async with self._grown[training_id]:
                try:
                    await asyncio.wait_for(self._grown[training_id].wait(), 1.0)
                except TimeoutError:
                    continue
        if self._closed:
            return
        for line in rows.progress(self.port.store, training_id)[told:]:
            yield line


_FROM_CHILD = (
    "precision", "capabilities", "parameters", "abi", "emitter", "encoding", "git_revision",
    "metrics", "curves",
)  # fmt: skip


def _is_in(session: str, started_ms: int, forgotten: str | None, until_ms: int) -> bool:
    return started_ms <= until_ms if forgotten is None else session == forgotten


def _card(job: Job, routine: Routine, status: ModelStatus, seed: int, time_ms: int) -> ModelCard:
    return ModelCard(
        id=job.id,
        time_ms=time_ms,
        kind=ModelKind.AGENT,
        subject_id=routine.routine_id,
        user_id=routine.user_id,
        name=routine.name,
        status=status,
        routine_revision=routine.revision,
        data_digest=job.payload["data_digest"],
        seed=seed,
    )
