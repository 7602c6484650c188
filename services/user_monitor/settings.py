"""The settings of user-monitor, from `WAT_USER_MONITOR_*`."""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from shared.settings import ROOM_PREFIXES, RoomSettings
from shared.topics import Room

__all__ = ["UserMonitorSettings"]


class UserMonitorSettings(RoomSettings):
    """What can be set in user-monitor."""

    model_config = SettingsConfigDict(env_prefix=ROOM_PREFIXES[Room.USER_MONITOR])

    hash_key_file: Path | None = Field(
        None, description="the key of hashes, outside the data folder; empty: <config_dir>/hash.key"
    )
    browser_profile_dir: Path | None = Field(
        None,
        description="profile of the browser that is launched, 0700, outside the data folder; "
        "empty: <config_dir>/browser",
    )
    browser_executable: str | None = Field(
        None, description="the Chromium to launch; empty: looked for on PATH"
    )
    replay_dir: Path | None = Field(
        None, description="where logs named by path may be replayed from; empty: <data_dir>/replay"
    )
    intake_events: Annotated[int, Field(ge=100, le=1_000_000)] = Field(
        10_000, description="captures of one source that may wait in memory; counts events"
    )
    batch_events: Annotated[int, Field(ge=1, le=1_000)] = Field(
        100, description="events published at once; counts events"
    )
    publish_ms: Annotated[int, Field(ge=5, le=5_000)] = Field(
        40, description="longest wait between capture and publishing, in ms"
    )
    spool_events: Annotated[int, Field(ge=1_000)] = Field(
        2_000_000,
        description="events kept on disk while the broker is away; recording stops beyond them",
    )
    session_days: Annotated[int, Field(ge=1, le=3_650)] = Field(
        14, description="days after which a session's snapshots go, as its events do"
    )
