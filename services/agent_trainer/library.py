"""The models: their cards in memory and in rows, their modules and weights as artifacts.

Publishes cards to `models` and signs modules; the private key never leaves this process.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from services.agent_trainer import rows
from shared.artifacts import Artifacts
from shared.bus.base import Effects, Port
from shared.clock import Clock
from shared.errors import ConflictError, ContractError, NotFound
from shared.manifest import OPS
from shared.proof import VerifiedModule, parse, sign, verify
from shared.schemas import ModelCard, ModelKind, ModelStatus, derive_id
from shared.signing import SigningKey
from shared.topics import Room

__all__ = ["Library"]

_MAX_MODELS = 100_000


class Library:
    """What has been trained, imported or announced. `load` comes first."""

    def __init__(self, artifacts: Artifacts, key_dir: Path, clock: Clock) -> None:
        self._artifacts = artifacts
        self._key_dir = key_dir
        self._clock = clock
        self._cards: dict[str, ModelCard] = {}
        self._port: Port
        self._key: SigningKey

    def load(self, port: Port) -> None:
        """Read cards and key, which is made on first use. Raises ConfigError for a bad key file."""
        self._port = port
        self._key = SigningKey.load_or_create(self._key_dir)
        cards = rows.list_models(port.store, (2**62, ""), _MAX_MODELS)
        self._cards = {card.subject_id: card for card in cards}

    def find(self, subject_id: str) -> ModelCard | None:
        """Return a subject's card, if it has one."""
        return self._cards.get(subject_id)

    def keep(
        self, card: ModelCard, module: bytes, beside: Mapping[str, bytes], effects: Effects
    ) -> None:
        """Sign and keep a new module and publish its card, which replaces the one before.

        The same network for other tools is kept `beside` it; the card's options name the files.
        """
        signed = sign(module, self._key)
        self._artifacts.drop(card.subject_id, effects)
        kept = {k: self._artifacts.put(v, effects, card.subject_id) for k, v in beside.items()}
        update = {
            "artifact": self._artifacts.put(signed, effects, card.subject_id),
            "size_bytes": len(signed),
            "signer": self._key.public.hex(),
            "options": {**card.options, **kept},
        }
        self.publish(card.model_copy(update=update), effects)

    def publish(self, card: ModelCard, effects: Effects) -> None:
        """Publish a card and remember it."""
        if card.status is ModelStatus.DELETED:
            self._cards.pop(card.subject_id, None)
            rows.delete_model(card, effects)
        else:
            self._cards[card.subject_id] = card
            rows.save_model(card, effects)

    def let_go(self, subject_id: str, status: ModelStatus, reason: str, effects: Effects) -> None:
        """Retire or delete a subject's model with its files, where it has one."""
        card = self._cards.get(subject_id)
        if card is None or card.status is status:
            return
        self.publish(_without_module(card, status, reason, self._clock.time_ms()), effects)
        self._artifacts.drop(subject_id, effects)

    def list(self, before: tuple[int, str], limit: int) -> list[ModelCard]:
        """Return cards older than (time_ms, subject_id), the newest first."""
        return rows.list_models(self._port.store, before, limit)

    def card(self, model_id: str) -> ModelCard:
        """Return a card by its id or its subject's. Raises NotFound."""
        for card in self._cards.values():
            if model_id in (card.id, card.subject_id):
                return card
        raise NotFound(f"there is no model {model_id}: GET models lists them")

    def module(self, model_id: str) -> bytes:
        """Return the signed module. Raises NotFound where the model has none."""
        card = self.card(model_id)
        if card.artifact is None:
            raise NotFound(f"model {model_id} is {card.status}: it has no module")
        return self._artifacts.get(card.artifact)

    def beside(self, model_id: str, what: Literal["weights", "onnx"]) -> bytes:
        """Return the network for other tools. Raises NotFound where the model has no such file."""
        card = self.card(model_id)
        digest = card.options.get(what)
        if card.artifact is None or not isinstance(digest, str):
            raise NotFound(
                f"model {model_id} has no {what}: they are kept of agents that were trained here, "
                "from this release on"
            )
        return self._artifacts.get(digest)

    async def delete(self, model_id: str) -> None:
        """Delete a model and its files. Raises NotFound."""
        card = self.card(model_id)
        effects = Effects(Room.AGENT_TRAINER)
        self.let_go(card.subject_id, ModelStatus.DELETED, "deleted by the user", effects)
        await self._commit(effects)

    async def import_module(self, untrusted_module: bytes, replace: bool) -> ModelCard:
        """Publish a module that was made elsewhere; the runner asks before it trusts its signer.

        Raises what `shared.proof.verify` raises, and ConflictError where it would replace a model.
        """
        signature = parse(untrusted_module).signature
        if signature is None:
            raise ContractError("the module is not signed: export it with its signature")
        proved = verify(untrusted_module, granted=tuple(OPS), trusted_keys=[signature.public])
        manifest = proved.manifest
        present = self._cards.get(manifest.routine_id)
        if present is not None and present.status is ModelStatus.READY and not replace:
            raise ConflictError(
                f"the routine has a model already ({present.id}): delete it, or ask to replace it"
            )
        effects = Effects(Room.AGENT_TRAINER)
        self._artifacts.drop(manifest.routine_id, effects)
        digest = self._artifacts.put(untrusted_module, effects, manifest.routine_id)
        card = _imported(proved, digest, self._clock.time_ms())
        self.publish(card, effects)
        await self._commit(effects)
        return card

    async def add_adapter(self, card: ModelCard) -> None:
        """Publish the card of a code assistant's adapter. Raises ContractError for another kind."""
        if card.kind is not ModelKind.ADAPTER:
            raise ContractError("only cards of kind adapter are taken: agents are trained here")
        present = self._cards.get(card.subject_id)
        if present is not None and present.kind is not ModelKind.ADAPTER:
            raise ConflictError(f"{card.subject_id} is an agent: give the adapter its own id")
        effects = Effects(Room.AGENT_TRAINER)
        self.publish(card, effects)
        await self._commit(effects)

    async def _commit(self, effects: Effects) -> None:
        try:
            await self._port.commit(effects)
        except BaseException:
            self.load(self._port)  # memory must not know what the store does not
            raise


def _without_module(card: ModelCard, status: ModelStatus, reason: str, time_ms: int) -> ModelCard:
    return card.model_copy(
        update={
            "status": status, "reason": reason, "artifact": None, "size_bytes": None,
            "time_ms": time_ms, "metrics": {}, "curves": {},
            # The topic keeps this for ever: of one that is deleted it keeps no word.
            **({"name": "(deleted)", "parameters": (), "options": {}, "data_digest": None}
               if status is ModelStatus.DELETED else {}),
        }
    )  # fmt: skip


def _imported(proved: VerifiedModule, digest: str, time_ms: int) -> ModelCard:
    manifest = proved.manifest
    return ModelCard(
        id=derive_id("import", digest),
        time_ms=time_ms,
        kind=ModelKind.AGENT,
        subject_id=manifest.routine_id,
        name=manifest.name,
        status=ModelStatus.READY,
        routine_revision=manifest.routine_revision,
        artifact=digest,
        size_bytes=len(proved.data),
        precision=manifest.precision,
        capabilities=manifest.capabilities,
        parameters=tuple(s for s in manifest.slots if s not in manifest.constants),
        abi=manifest.abi,
        emitter=manifest.emitter,
        encoding=manifest.encoding,
        signer=proved.signer.hex(),
        data_digest=manifest.data_digest,
        git_revision=manifest.git_revision,
        metrics={f"held_out_{k}": v for k, v in manifest.held_out.items()},
    )
