"""Settings of the agent-trainer: `WAT_AGENT_TRAINER_*`."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from shared.settings import ROOM_PREFIXES, RoomSettings
from shared.topics import Room

__all__ = ["TrainerSettings"]


class TrainerSettings(RoomSettings):
    """What may be set about training agents."""

    model_config = SettingsConfigDict(env_prefix=ROOM_PREFIXES[Room.AGENT_TRAINER])

    auto_train: bool = Field(
        False, description="train as soon as a routine is proposed, before anyone approves it"
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="seed of every training")
    num_variants: Annotated[int, Field(ge=1, le=200)] = Field(
        12, description="synthetic demonstrations made of each real one"
    )
    cpu_limit_s: Annotated[int, Field(ge=10, le=86_400)] = Field(
        600, description="seconds of processor time that a training may take"
    )
    wall_limit_s: Annotated[int, Field(ge=10, le=86_400)] = Field(
        1_800, description="seconds that a training may take by the clock"
    )
    memory_limit_mib: Annotated[int, Field(ge=256, le=1_048_576)] = Field(
        4_096, description="MiB of memory that a training may take"
    )
