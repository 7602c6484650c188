"""Wire the agent-trainer: settings in, logic and routes out."""

from fastapi import APIRouter

from services.agent_trainer.api import router
from services.agent_trainer.room import AgentTrainer
from services.agent_trainer.settings import TrainerSettings
from shared.clock import Clock
from shared.settings import CommonSettings

__all__ = ["Settings", "build"]

Settings = TrainerSettings


def build(
    settings: TrainerSettings, common: CommonSettings, clock: Clock
) -> tuple[AgentTrainer, APIRouter]:
    """Return the room's logic and its routes."""
    logic = AgentTrainer(settings, common.data_dir, clock)
    return logic, router(logic)
