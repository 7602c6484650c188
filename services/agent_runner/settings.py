"""Settings of the agent-runner: `WAT_AGENT_RUNNER_*`."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from shared.settings import ROOM_PREFIXES, RoomSettings
from shared.topics import Room

__all__ = ["RunnerSettings"]


class RunnerSettings(RoomSettings):
    """What may be set about running agents."""

    model_config = SettingsConfigDict(env_prefix=ROOM_PREFIXES[Room.AGENT_RUNNER])

    browser: str = Field("", description="path of the Chromium to launch; empty: searched for")
    headless: bool = Field(True, description="whether the agent's own Chromium shows no window")
    attach: str = Field(
        "",
        pattern=r"^(https?://(127\.0\.0\.1|localhost|\[::1\]):\d+/?)?$",
        description="http://127.0.0.1:PORT of a running Chromium's debugging port to act in, "
        "instead of one of our own; any program on this machine can reach such a port",
    )
    max_step_factor: Annotated[int, Field(ge=1, le=20)] = Field(
        3, description="steps a record may take, as a multiple of the demonstrated ones"
    )
    confirm_timeout_ms: Annotated[int, Field(ge=0, le=60_000)] = Field(
        5_000, description="how long the result may take to show before a record is not confirmed"
    )
    settle_timeout_ms: Annotated[int, Field(ge=100, le=60_000)] = Field(
        3_000, description="how long a page may take to stand still after a step"
    )
    resume_limit_min: Annotated[int, Field(ge=0, le=1440)] = Field(
        10, description="how long after a record began a run that a crash cut off may go on; min"
    )
    retention_days: Annotated[int, Field(ge=1, le=3650)] = Field(
        14, description="days that a run, its records and its evidence are kept"
    )
