"""What the service asks its training child for."""

from pathlib import Path

from services.agent_trainer.options import TrainOptions
from shared.schemas import Frozen, Routine

__all__ = ["Order"]


class Order(Frozen):
    """One training: the data by reference, where to put the result, and the limits."""

    routine: Routine
    options: TrainOptions = TrainOptions()
    data_digest: str
    artifacts: Path
    folder: Path
    cpu_limit_s: int
    memory_limit_bytes: int
