"""ModelCard: what the trainer made, from what, and how well it does."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from shared.schemas.base import Digest, Record

__all__ = ["ModelCard", "ModelKind", "ModelStatus"]


class ModelKind(StrEnum):
    """An agent is run by the runner; an adapter belongs to the code assistant and is skipped."""

    AGENT = "agent"
    ADAPTER = "adapter"


class ModelStatus(StrEnum):
    """Whether a model may be used."""

    READY = "ready"
    FAILED = "failed"
    STALE = "stale"  # its abi, emitter or encoding version is gone: train again
    RETIRED = "retired"  # replaced, or what it was learned from changed
    DELETED = "deleted"


class ModelCard(Record):
    """One trained model. Key on the topic: `subject_id`."""

    record_type: ClassVar[str] = "model-card"

    kind: ModelKind
    subject_id: str = Field(description="an agent's routine_id; an adapter's own id")
    user_id: str | None = None
    name: str
    status: ModelStatus
    reason: str | None = Field(None, description="why it failed, is stale or was retired")
    routine_revision: int | None = None
    artifact: Digest | None = Field(None, description="the module, or the adapter's archive")
    size_bytes: Annotated[int, Field(ge=0)] | None = None
    precision: str | None = Field(None, description="f32 or int8")
    capabilities: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    abi: int | None = None
    emitter: int | None = None
    encoding: int | None = None
    signer: str | None = Field(None, description="Ed25519 public key, hex")
    base: str | None = Field(None, description="an adapter's base model")
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)
    data_digest: str | None = None
    git_revision: str | None = None
    seed: int | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    curves: dict[str, tuple[float, ...]] = Field(default_factory=dict)
