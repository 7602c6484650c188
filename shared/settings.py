"""Settings from `WAT_*` environment variables; a misspelled name stops the start.

Each room adds its own under `WAT_<ROOM>_`. Every field has a default that works, bounds, and a
description with its unit. Built once where a process starts, then passed down.
"""

import getpass
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import ConfigError
from shared.topics import Room

__all__ = [
    "ROOM_PREFIXES",
    "CommonSettings",
    "RoomSettings",
    "WatSettings",
    "default_port",
    "load",
    "refuse_unknown",
]

ROOM_PREFIXES: dict[Room, str] = {
    room: f"WAT_{room.package.upper()}_" for room in Room
}  # fmt: skip

_DEFAULT_PORTS = {room: 8761 + index for index, room in enumerate(Room)}

T = TypeVar("T", bound="WatSettings")


class WatSettings(BaseSettings):
    """Base of all settings: frozen, checked, no surplus names."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_ignore_empty=True)


class RoomSettings(WatSettings):
    """Base of a room's settings; a subclass sets `env_prefix` from ROOM_PREFIXES."""


class CommonSettings(WatSettings):
    """What all rooms and the command line share."""

    model_config = SettingsConfigDict(env_prefix="WAT_")

    data_dir: Path = Field(
        Path("~/.local/share/wasmagenttrainer"),
        description="absolute folder for topics, artifacts and keys; made with mode 0700",
        validate_default=True,
    )
    config_dir: Path = Field(
        Path("~/.config/wasmagenttrainer"),
        description="absolute folder for the token and the hash key, outside the data folder",
        validate_default=True,
    )
    bus_url: str = Field("", description="log:DIR or kafka://HOST:PORT; empty: log:<data_dir>/log")
    host: str = Field("127.0.0.1", description="address that REST binds to")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        8760, description="TCP port of `wat up`; 0: any free one"
    )
    allowed_hosts: str = Field(
        "127.0.0.1,localhost", description="comma-separated Host headers that are answered"
    )
    user_id: str = Field(
        default_factory=getpass.getuser, description="whose events these are; key of raw-events"
    )
    failpoint: Annotated[str, Field(pattern=r"^([a-z]+(:[1-9]\d*)?)?$")] = Field(
        "", description="for crash tests: NAME or NAME:COUNT of a point to be killed at; empty: off"
    )

    @field_validator("data_dir", "config_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        path = value.expanduser()
        if not path.is_absolute():
            raise ValueError("must be an absolute path")
        return path

    @property
    def bus(self) -> str:
        """Return the bus address with its default filled in."""
        return self.bus_url or f"log:{self.data_dir / 'log'}"

    @property
    def token_file(self) -> Path:
        """Return the file that holds the REST token."""
        return self.config_dir / "token"

    def make_folders(self) -> None:
        """Make the data and configuration folders with mode 0700.

        Raises ConfigError, also for a folder that others can open and that holds something: it may
        be another program's, or everybody's.
        """
        for folder in (self.data_dir, self.config_dir):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if folder.stat().st_mode & 0o077:
                    if any(folder.iterdir()):
                        raise ConfigError(
                            f"{folder} holds something and can be opened by others: chmod 700 it, "
                            "or name an empty folder"
                        )
                    folder.chmod(0o700)
            except OSError as error:
                raise ConfigError(f"{folder} cannot be made: {error}") from error


def default_port(room: Room) -> int:
    """Return the port of a room that is served alone."""
    return _DEFAULT_PORTS[room]


def load(settings: type[T], **values: Any) -> T:
    """Build `settings` from the environment and `values`; raises ConfigError in plain words."""
    try:
        return settings(**values)
    except ValidationError as error:
        prefix = settings.model_config.get("env_prefix", "")
        first = error.errors()[0]
        name = prefix + "_".join(map(str, first["loc"])).upper()
        raise ConfigError(f"{name}: {first['msg']}") from error


def refuse_unknown(
    known: Iterable[type[WatSettings]], environment: Mapping[str, str] | None = None
) -> None:
    """Raise ConfigError for a `WAT_*` variable that none of the `known` settings reads.

    A room that is not among `known` keeps its own prefix: its variables are passed over.
    pydantic-settings itself ignores such names silently.
    """
    classes = list(known)
    names = {
        f"{c.model_config.get('env_prefix', '')}{field}".upper()
        for c in classes
        for field in c.model_fields
    }
    checked = {c.model_config.get("env_prefix", "") for c in classes}
    others = tuple(p for p in ROOM_PREFIXES.values() if p not in checked)
    for name in sorted(environment if environment is not None else os.environ):
        upper = name.upper()
        if upper.startswith("WAT_") and upper not in names and not upper.startswith(others):
            near = ", ".join(sorted(n for n in names if n.rpartition("_")[0] in upper)[:5])
            raise ConfigError(
                f"{name} is not a setting" + (f" (near: {near})" if near else "") + ": correct it"
            )
