"""Wire the agent-runner: settings in, logic and routes out."""

import logging

from fastapi import APIRouter

from services.agent_runner.actuators import Actuator
from services.agent_runner.api import router
from services.agent_runner.catalog import Catalog
from services.agent_runner.grants import origins_of
from services.agent_runner.runner import Runner
from services.agent_runner.settings import RunnerSettings
from shared.artifacts import Artifacts
from shared.clock import Clock
from shared.module import Manifest
from shared.settings import CommonSettings
from shared.topics import Room

__all__ = ["Settings", "build"]

Settings = RunnerSettings

_log = logging.getLogger(__name__)


def build(
    settings: RunnerSettings, common: CommonSettings, clock: Clock
) -> tuple[Runner, APIRouter]:
    """Return the room's logic and its routes."""

    profile_dir = common.data_dir / "agent-browser"

    async def open_actuator(manifest: Manifest, dry_run: bool) -> Actuator:
        # The browser's library is large and is loaded only once something runs.
        from services.agent_runner.actuators.browser import BrowserActuator
        from services.agent_runner.actuators.dry_run import DryRunActuator

        if settings.attach:
            _log.warning("acting in a browser that any program on this machine can reach")
        browser = await BrowserActuator.start(
            origins_of(manifest),
            profile_dir=profile_dir,
            attach_url=settings.attach or None,
            executable=settings.browser or None,
            headless=settings.headless,
        )
        return DryRunActuator(browser) if dry_run else browser

    artifacts = Artifacts(common.data_dir / "artifacts", Room.AGENT_RUNNER)
    agents = Catalog(artifacts, common.data_dir / "keys")
    logic = Runner(settings, common.user_id, clock, artifacts, agents, open_actuator, profile_dir)
    return logic, router(logic)
