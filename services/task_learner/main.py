"""Wire task-learner."""

from fastapi import APIRouter

from services.task_learner.api import router
from services.task_learner.learner import TaskLearner
from services.task_learner.settings import TaskLearnerSettings
from shared.artifacts import Artifacts
from shared.clock import Clock
from shared.settings import CommonSettings
from shared.topics import Room

__all__ = ["Settings", "build"]

Settings = TaskLearnerSettings


def build(
    settings: TaskLearnerSettings, common: CommonSettings, clock: Clock
) -> tuple[TaskLearner, APIRouter]:
    """Return the room's logic and its routes."""
    artifacts = Artifacts(common.data_dir / "artifacts", Room.TASK_LEARNER)
    logic = TaskLearner(
        settings, artifacts, clock, lambda digest: artifacts.get(digest, Room.USER_MONITOR)
    )
    return logic, router(logic)
