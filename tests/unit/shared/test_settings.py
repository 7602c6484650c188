"""Settings: defaults that work, bounds, and no name that nobody reads."""

import json
import logging
from pathlib import Path

import pytest
from pydantic import Field

from shared.errors import ConfigError
from shared.logs import configure
from shared.settings import (
    ROOM_PREFIXES,
    CommonSettings,
    RoomSettings,
    SettingsConfigDict,
    load,
    refuse_unknown,
)
from shared.topics import Room


class Monitor(RoomSettings):
    model_config = SettingsConfigDict(
        env_prefix=ROOM_PREFIXES[Room.USER_MONITOR], frozen=True, extra="forbid"
    )
    spool_bytes: int = Field(1000, ge=10, description="bytes")


KNOWN = [CommonSettings, Monitor]


def test_the_defaults_are_valid():
    settings = load(CommonSettings)
    assert settings.data_dir.is_absolute()
    assert settings.bus == f"log:{settings.data_dir}/log"


def test_the_token_lies_outside_the_data(tmp_path: Path):
    settings = load(CommonSettings)
    assert settings.data_dir not in settings.token_file.parents


def test_a_variable_is_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WAT_USER_MONITOR_SPOOL_BYTES", "20")
    assert load(Monitor).spool_bytes == 20


@pytest.mark.parametrize(("name", "value"), [("WAT_PORT", "99999"), ("WAT_DATA_DIR", "relative")])
def test_a_wrong_value_is_said_with_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=name):
        load(CommonSettings)


@pytest.mark.parametrize("name", ["WAT_PROT", "WAT_USER_MONITOR_SPOL_BYTES", "wat_x"])
def test_a_misspelled_name_stops_the_start(name: str):
    with pytest.raises(ConfigError, match=f"{name} is not a setting"):
        refuse_unknown(KNOWN, {name: "1"})


def test_names_of_others_are_passed_over():
    environment = {"WAT_PORT": "1", "WAT_AGENT_RUNNER_ANYTHING": "1", "PATH": "/bin", "WATT": "1"}
    refuse_unknown(KNOWN, environment)


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load(CommonSettings).port = 1  # type: ignore[misc]


def test_folders_are_for_their_owner_alone(tmp_path: Path):
    settings = CommonSettings(data_dir=tmp_path / "data", config_dir=tmp_path / "config")
    settings.make_folders()
    assert settings.data_dir.stat().st_mode & 0o777 == 0o700
    assert settings.config_dir.stat().st_mode & 0o777 == 0o700


def test_a_folder_of_others_is_left_as_it_is(tmp_path: Path):
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o755)
    (folder / "file").touch()
    with pytest.raises(ConfigError, match="chmod 700 it, or name an empty folder"):
        CommonSettings(data_dir=folder, config_dir=tmp_path / "config").make_folders()
    assert folder.stat().st_mode & 0o777 == 0o755


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be made"):
        CommonSettings(data_dir=tmp_path / "file" / "data").make_folders()


def test_a_log_line_is_json_with_the_fields_that_are_allowed(capsys: pytest.CaptureFixture[str]):
    before = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        configure()
        logger = logging.getLogger("room")
        logger.info("handled", extra={"room": "task-learner", "offset": 3, "user_id": "ann"})
        try:
            raise ValueError("what was typed")
        except ValueError:
            logger.exception("handler failed")
    finally:
        logging.getLogger().handlers[:] = before[0]
        logging.getLogger().setLevel(before[1])
    handled, failed = map(json.loads, capsys.readouterr().err.splitlines())
    assert (handled["event"], handled["room"], handled["offset"]) == ("handled", "task-learner", 3)
    assert "user_id" not in handled
    assert failed["error"] == "ValueError"
    assert "what was typed" not in json.dumps(failed)
