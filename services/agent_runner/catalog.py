"""The agents that may be run: routines, model cards, own copies of modules, and a verdict on each.

Reads Routines and ModelCards as they arrive and the trainer's artifacts; writes the room's tables
`routines`, `cards` and `trusted_keys`. A module is proved on arrival and again before each run; one
that is refused stays listed with the reason. Adapters are no agents and are passed over. Does not
cover what an agent is allowed to do (`grants.py`).
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from services.agent_runner.sandbox import Sandbox
from shared.artifacts import Artifacts
from shared.bus.base import Effects
from shared.errors import ArtifactError, ConflictError, ContractError, NotFound, SandboxError
from shared.module import (
    ABI_VERSION,
    EMITTER_VERSION,
    OPS,
    Op,
    VerifiedModule,
    verify,
)
from shared.reading import ENCODINGS
from shared.schemas import (
    Frozen,
    ModelCard,
    ModelKind,
    ModelStatus,
    Parameter,
    ParameterSource,
    Routine,
    RoutineStatus,
)
from shared.schemas.programmes import PREVIOUS
from shared.store import Store
from shared.topics import Room

__all__ = ["TABLES", "Agent", "Catalog", "TrustedKey", "Verdict", "public_key"]

TABLES = """
CREATE TABLE IF NOT EXISTS routines (routine_id TEXT PRIMARY KEY, record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS cards (
  routine_id TEXT PRIMARY KEY, record TEXT NOT NULL, verdict TEXT NOT NULL, reason TEXT
);
CREATE TABLE IF NOT EXISTS trusted_keys (
  public_key TEXT PRIMARY KEY, name TEXT NOT NULL, added_ms INTEGER NOT NULL
);
"""

_log = logging.getLogger(__name__)

_DEFAULT_STEPS = 20  # demonstrated steps of an imported agent whose routine is not known here


class Verdict(StrEnum):
    """Whether an agent may be run here."""

    OK = "ok"
    REFUSED = "refused"  # its module is not what it must be, or is signed by a foreign key
    STALE = "stale"  # it was made for another version: train again
    UNAVAILABLE = "unavailable"  # its card says failed or retired


@dataclass(frozen=True)
class Agent:
    """One agent with its verdict."""

    card: ModelCard
    verdict: Verdict
    reason: str | None = None


class TrustedKey(Frozen):
    """A key whose signature on a module is accepted."""

    public_key: str  # hex
    name: str
    added_ms: int | None = None  # None: the trainer's own, from the key folder


class _Idle:
    """A host for modules that are only checked: it allows nothing."""

    allowed_ops: Collection[str] = ()

    def perform(self, op: Op, element: int, slot: str | None, key: str | None) -> int:
        """Refuse; probes never get here."""
        return 1


class Catalog:
    """Memory of what the tables hold, and the checks."""

    def __init__(self, artifacts: Artifacts, key_dir: Path) -> None:
        self._artifacts = artifacts
        self._key_dir = key_dir
        self._keys: dict[str, TrustedKey] = {}
        self.routines: dict[str, Routine] = {}
        self.agents: dict[str, Agent] = {}

    def load(self, store: Store) -> None:
        """Build the memory from the tables; what this release cannot run any more is stale."""
        self._keys = {
            key: TrustedKey(public_key=key, name=name, added_ms=added_ms)
            for key, name, added_ms in store.query("SELECT * FROM trusted_keys")
        }
        self.routines = {
            routine_id: Routine.model_validate_json(record)
            for routine_id, record in store.query("SELECT * FROM routines")
        }
        self.agents = {}
        for routine_id, record, verdict, reason in store.query("SELECT * FROM cards"):
            card = ModelCard.model_validate_json(record)
            stale = _stale(card)
            self.agents[routine_id] = (
                Agent(card, Verdict.STALE, stale)
                if stale
                else Agent(card, Verdict(verdict), reason)
            )

    def learn_routine(self, routine: Routine, effects: Effects) -> None:
        """Keep the newest revision of a routine, or let go of a deleted one."""
        if routine.status is RoutineStatus.DELETED:
            self.routines.pop(routine.routine_id, None)
            effects.write("DELETE FROM routines WHERE routine_id = ?", (routine.routine_id,))
            return
        self.routines[routine.routine_id] = routine
        effects.write(
            "INSERT OR REPLACE INTO routines VALUES (?,?)",
            (routine.routine_id, routine.model_dump_json(exclude_none=True)),
        )

    def learn_card(self, card: ModelCard, effects: Effects) -> list[str]:
        """Keep an agent's newest card with a copy of its module, and judge it.

        Return the digests of modules that are needed no more.
        """
        if card.kind is not ModelKind.AGENT:
            return []
        holder, before = f"model:{card.subject_id}", self.agents.get(card.subject_id)
        self._take_in(card, holder, effects)
        left = before.card.artifact if before is not None else None
        now = self.agents.get(card.subject_id)
        kept = now.card.artifact if now and now.card.status is ModelStatus.READY else None
        return [left] if left is not None and left != kept else []

    def _take_in(self, card: ModelCard, holder: str, effects: Effects) -> None:
        self._artifacts.drop(holder, effects)
        if card.status is ModelStatus.DELETED:
            self.agents.pop(card.subject_id, None)
            effects.write("DELETE FROM cards WHERE routine_id = ?", (card.subject_id,))
            return
        if card.status is ModelStatus.READY and card.artifact is not None and not _stale(card):
            try:
                self._artifacts.copy_from(Room.AGENT_TRAINER, card.artifact, effects, holder)
            except ArtifactError as error:
                self._keep(Agent(card, Verdict.REFUSED, str(error)), effects)
                return
        self._keep(self._judge(card), effects)

    def trust(self, key: TrustedKey, effects: Effects) -> None:
        """Accept a key from now on; agents refused for it are judged again."""
        self._keys[key.public_key] = key
        effects.write(
            "INSERT OR REPLACE INTO trusted_keys VALUES (?,?,?)",
            (key.public_key, key.name, key.added_ms),
        )
        self._judge_all(effects)

    def distrust(self, key: str, effects: Effects) -> None:
        """Accept a key no more. Raises NotFound; the trainer's own is trusted by its file."""
        if key not in self._keys:
            raise NotFound(f"{key} is no key that was added: GET trusted-keys lists them")
        del self._keys[key]
        effects.write("DELETE FROM trusted_keys WHERE public_key = ?", (key,))
        self._judge_all(effects)

    def trusted_keys(self) -> list[TrustedKey]:
        """Return every key that is trusted now; the trainer's stand as files in the key folder."""
        own = []
        for path in sorted(self._key_dir.glob("*.pub")):
            try:
                own.append(TrustedKey(public_key=public_key(path.read_text()), name=path.stem))
            except (ContractError, UnicodeDecodeError):
                _log.warning("a file in the key folder is no public key")
        return own + list(self._keys.values())

    def find(self, *, routine_id: str | None, name: str | None) -> Agent:
        """Return the agent of a routine. Raises NotFound, and ConflictError for a shared name."""
        if routine_id is not None:
            found = [a for a in self.agents.values() if a.card.subject_id == routine_id]
        else:
            found = [a for a in self.agents.values() if name in self.names(a)]
        if len(found) > 1:
            ids = ", ".join(sorted(agent.card.subject_id for agent in found))
            raise ConflictError(f"{len(found)} agents are called {name}: give one's id ({ids})")
        if not found:
            known = sorted({self.name(a) for a in self.agents.values()})
            raise NotFound(
                f"there is no agent for {routine_id or name}: "
                + (f"there are {', '.join(known)}" if known else "train a routine first")
            )
        return found[0]

    def name(self, agent: Agent) -> str:
        """Return what the user calls the agent: the routine's name as it is now."""
        routine = self.routines.get(agent.card.subject_id)
        return routine.name if routine else agent.card.name

    def names(self, agent: Agent) -> set[str]:
        """Return every name the agent answers to."""
        return {self.name(agent), agent.card.name}

    def verified(self, agent: Agent, granted: Collection[str] = tuple(OPS)) -> VerifiedModule:
        """Prove an agent's module anew. Raises SandboxError or ArtifactError with the reason."""
        if agent.verdict is not Verdict.OK or agent.card.artifact is None:
            raise SandboxError(
                f"agent '{self.name(agent)}' is {agent.verdict.value}: {agent.reason}"
            )
        return self._verify(agent.card, granted)

    def parameters(self, agent: Agent, verified: VerifiedModule) -> list[Parameter]:
        """Return what the values of a record are: the module's slots that are no constants.

        What a programme of the manifest computes need not be given; what it computes it from is a
        parameter too, whether the module has a slot for it or not.
        """
        routine = self.routines.get(agent.card.subject_id)
        known = {p.name: p for p in routine.parameters} if routine else {}
        manifest = verified.manifest
        inputs = {name for p in manifest.programmes.values() for name in p.inputs} - {PREVIOUS}
        names = [*manifest.slots, *sorted(inputs - set(manifest.slots))]
        return [
            known.get(
                name, Parameter(name=name, source=ParameterSource.TYPED, value_class="text")
            ).model_copy(update={"programme": manifest.programmes.get(name)})
            for name in names
            if name not in manifest.constants
        ]

    def unused_parameters(self, agent: Agent, verified: VerifiedModule) -> frozenset[str]:
        """Return the routine's parameters that the module does without."""
        routine = self.routines.get(agent.card.subject_id)
        names = {p.name for p in routine.parameters} if routine else set()
        return frozenset(names - {p.name for p in self.parameters(agent, verified)})

    def num_steps(self, agent: Agent) -> int:
        """Return how many steps a demonstration took."""
        routine = self.routines.get(agent.card.subject_id)
        return len(routine.steps) if routine and routine.steps else _DEFAULT_STEPS

    def _judge_all(self, effects: Effects) -> None:
        for agent in list(self.agents.values()):
            self._keep(self._judge(agent.card), effects)

    def _judge(self, card: ModelCard) -> Agent:
        """Check a card and its module, probes included."""
        if card.status is ModelStatus.STALE or _stale(card):
            return Agent(card, Verdict.STALE, card.reason or _stale(card))
        if card.status is not ModelStatus.READY or card.artifact is None:
            return Agent(card, Verdict.UNAVAILABLE, card.reason or f"its card says {card.status}")
        try:
            verified = self._verify(card, tuple(OPS))
            with Sandbox(verified, _Idle()):
                pass
        except (SandboxError, ArtifactError, ContractError) as error:
            return Agent(card, Verdict.REFUSED, str(error))
        if verified.manifest.encoding not in ENCODINGS:
            return Agent(card, Verdict.STALE, _wrong_encoding(verified.manifest.encoding))
        return Agent(card, Verdict.OK)

    def _verify(self, card: ModelCard, granted: Collection[str]) -> VerifiedModule:
        assert card.artifact is not None
        keys = [bytes.fromhex(key.public_key) for key in self.trusted_keys()]
        module = self._artifacts.get(card.artifact)
        verified = verify(module, granted=granted, trusted_keys=keys)
        if verified.manifest.routine_id != card.subject_id:
            raise SandboxError(
                f"module is of routine {verified.manifest.routine_id}, its card says "
                f"{card.subject_id}: do not run it"
            )
        return verified

    def _keep(self, agent: Agent, effects: Effects) -> None:
        self.agents[agent.card.subject_id] = agent
        effects.write(
            "INSERT OR REPLACE INTO cards VALUES (?,?,?,?)",
            (
                agent.card.subject_id,
                agent.card.model_dump_json(exclude_none=True),
                agent.verdict.value,
                agent.reason,
            ),
        )


def public_key(text: str) -> str:
    """Return a public key in lower-case hex. Raises ContractError for what is none."""
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ContractError("an Ed25519 public key is 64 hexadecimal digits")
    return key.hex()


def _stale(card: ModelCard) -> str | None:
    made_for = (card.abi, card.emitter)
    if None not in made_for and made_for != (ABI_VERSION, EMITTER_VERSION):
        return (
            f"it was made for abi {card.abi} and emitter {card.emitter}, this release runs "
            f"{ABI_VERSION} and {EMITTER_VERSION}: train it again"
        )
    if card.encoding not in (None, *ENCODINGS):
        return _wrong_encoding(card.encoding)
    return None


def _wrong_encoding(version: int | None) -> str:
    known = " and ".join(map(str, ENCODINGS))
    return f"it reads screens by encoding {version}, this release by {known}: train it again"
