"""The settings of task-learner, from `WAT_TASK_LEARNER_*`."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from shared.settings import ROOM_PREFIXES, RoomSettings
from shared.topics import Room

__all__ = ["TaskLearnerSettings"]


class TaskLearnerSettings(RoomSettings):
    """What can be set in task-learner."""

    model_config = SettingsConfigDict(env_prefix=ROOM_PREFIXES[Room.TASK_LEARNER])

    window_actions: Annotated[int, Field(ge=200, le=50_000)] = Field(
        5_000, description="newest actions of one user that are searched for routines; counts"
    )
    kept_traces: Annotated[int, Field(ge=10, le=200)] = Field(
        200, description="newest traces kept of one routine; counts"
    )
    confirm_after: Annotated[int, Field(ge=2, le=100)] = Field(
        3, description="traces that confirm a routine; counts"
    )
    propose_after: Annotated[int, Field(ge=2, le=100)] = Field(
        5, description="traces from which on a routine is proposed to the user; counts"
    )
    result_wait_ms: Annotated[int, Field(ge=1_000, le=3_600_000)] = Field(
        120_000, description="how long after its last action a trace waits for a screen; ms"
    )
    teaching_idle_ms: Annotated[int, Field(ge=100, le=600_000)] = Field(
        3_000, description="silence after which a demonstration counts as ended; ms"
    )
