"""RunMark: what the runner itself acted on, and when; RunOutcome: how a run of one record ended."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from shared.schemas.base import Digest, Record
from shared.schemas.raw_events import Target

__all__ = ["RunMark", "RunOutcome", "RunState"]


class RunMark(Record):
    """Says that events on `target` are the agent's own. Key on the topic: `user_id`.

    An event is the agent's iff its target is equal and its boot time lies in
    [start, end + 500 ms]; a mark that is not renewed ends with its lease.
    """

    record_type: ClassVar[str] = "run-mark"

    user_id: str
    run_id: str
    target: Target
    boot_id: str
    start_boottime_ms: int
    renewed_boottime_ms: int = Field(description="the lease runs from here")
    lease_ms: Annotated[int, Field(gt=0)] = 30_000
    end_boottime_ms: int | None = Field(None, description="None while the run is open")


class RunState(StrEnum):
    """States of one record of a run."""

    ASKED = "asked"
    WAITING = "waiting"  # for the user's approval
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"  # the agent stopped by itself: the screen is not what it learned
    FAILED = "failed"
    CANCELLED = "cancelled"  # by the user
    IN_DOUBT = "in-doubt"  # a crash hit a step whose effect cannot be verified


class RunOutcome(Record):
    """How one record of a run ended. Key on the topic: `user_id`."""

    record_type: ClassVar[str] = "run-outcome"

    user_id: str
    run_id: str
    record_index: Annotated[int, Field(ge=0)]
    routine_id: str
    model_id: str
    state: RunState
    reason: str | None = None
    dry_run: bool = False
    num_steps: Annotated[int, Field(ge=0)] = 0
    started_ms: int
    ended_ms: int
    evidence: Digest | None = Field(None, description="artifact with every step")
