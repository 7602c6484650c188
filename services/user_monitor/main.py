"""Wires user-monitor together."""

from fastapi import APIRouter

from services.user_monitor.api import router
from services.user_monitor.hash_key import load_key, renew_key
from services.user_monitor.monitor import Monitor
from services.user_monitor.privacy import Redactor
from services.user_monitor.settings import UserMonitorSettings
from shared.artifacts import Artifacts
from shared.clock import Clock
from shared.settings import CommonSettings
from shared.topics import Room

__all__ = ["build"]


def build(
    settings: UserMonitorSettings, common: CommonSettings, clock: Clock
) -> tuple[Monitor, APIRouter]:
    """Return the room's logic and its routes. Raises ConfigError for a hash key out of place."""
    key_file = settings.hash_key_file or common.config_dir / "hash.key"
    redactor = Redactor(load_key(key_file, common.data_dir))
    artifacts = Artifacts(common.data_dir / "artifacts", Room.USER_MONITOR)
    monitor = Monitor(
        settings, common.user_id, clock, redactor, artifacts, lambda: renew_key(key_file)
    )
    return monitor, router(monitor, common)
