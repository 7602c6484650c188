"""Routine: what the learner found or was taught; Trace: one execution of it."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from shared.schemas.base import Digest, Frozen, Record
from shared.schemas.programmes import Programme
from shared.schemas.raw_events import Action, Level, UiEvent

__all__ = [
    "Automatability",
    "Forward",
    "Origin",
    "Parameter",
    "ParameterSource",
    "Routine",
    "RoutineStatus",
    "Step",
    "Trace",
    "TraceRef",
]


class Origin(StrEnum):
    """How a routine came to be known."""

    MINED = "mined"
    TAUGHT = "taught"


class RoutineStatus(StrEnum):
    """How far a routine has come; `approved` starts the training."""

    PROVISIONAL = "provisional"
    CONFIRMED = "confirmed"
    PROPOSED = "proposed"
    APPROVED = "approved"
    IGNORED = "ignored"
    DELETED = "deleted"  # everything it was learned from has been forgotten


class ParameterSource(StrEnum):
    """Where a parameter's value came from in the traces."""

    SCREEN = "screen"  # it stood on the screen before it was used
    TYPED = "typed"  # it came from the user's head or another device


class Parameter(Frozen):
    """A value that changes from trace to trace."""

    name: str = Field(description="lower case, words joined by underscores")
    source: ParameterSource
    value_class: str = Field(description="class of Text.cls, the most general one seen")
    label: str | None = Field(None, description="label of the element it is read from or typed in")
    role: str | None = Field(None, description="role of the element it is read from on the screen")
    document: str | None = Field(None, description="document it is read from on the screen")
    programme: Programme | None = Field(
        None, description="how it follows from other parameters: it need not be given"
    )


class Step(Frozen):
    """One step that the traces have in common."""

    action: Action
    application: str
    document: str | None = None
    role: str | None = None
    label: str | None = Field(None, description="label or name of the control; None for data")
    parameter: str | None = Field(None, description="name of the parameter it carries")
    constant: str | None = Field(None, description="the value where it never changes")
    coverage: Annotated[float, Field(ge=0, le=1, description="share of traces that have it")] = 1.0


class TraceRef(Frozen):
    """Where a trace artifact is, and when it happened."""

    trace_id: str
    digest: Digest
    session: str
    started_ms: int
    ended_ms: int


Rate = Annotated[float, Field(ge=0, le=1)]


class Automatability(Frozen):
    """How well an agent could have done the routine, by replaying executions on paper.

    Of the newest executions, held out, each next step and value was foretold from the older ones.
    """

    num_held_out: Annotated[int, Field(ge=1, description="executions that were held out")]
    step_rate: Rate = Field(description="share of held-out steps foretold, with their values")
    step_low: Rate = Field(
        description="80 % lower bound of the step rate, each execution foretold from all others"
    )
    run_rate: Rate = Field(description="share of held-out executions foretold to the end")
    run_low: Rate = Field(description="lower end of the run rate's 80 % interval (Jeffreys)")
    run_high: Rate = Field(description="upper end of it")
    branching: Rate = Field(description="share of next steps foretold, values aside")
    values: Rate = Field(description="share of values read, computed or constant")
    selectors: Rate = Field(description="share of steps on what has a name, not only a place")
    trigger: Rate = Field(description="share of executions that begin as most do")
    num_side_effects: Annotated[int, Field(ge=0, description="steps that change what is stored")]
    saves_ms_a_week: Annotated[int, Field(ge=0, description="run rate x time the user spends")]


class Forward(Frozen):
    """Where a person sends the traces of a routine that was joined with another, or split."""

    into: str = Field(description="routine_id of the routine that gets them")
    step: str | None = Field(None, description="only those with, or without, this step; a digest")
    has: bool = True


class Routine(Record):
    """A repeated pattern with its parameters and evidence. Key on the topic: `routine_id`."""

    record_type: ClassVar[str] = "routine"

    routine_id: str
    revision: Annotated[int, Field(ge=1)]
    user_id: str
    name: str
    origin: Origin
    status: RoutineStatus
    level: Level = Field(description="the lowest level of any application it touches")
    applications: tuple[str, ...]
    steps: tuple[Step, ...]
    parameters: tuple[Parameter, ...]
    support: Annotated[int, Field(ge=0, description="number of traces seen")]
    coverage: Annotated[float, Field(ge=0, le=1, description="share of recent actions explained")]
    median_ms: Annotated[int, Field(ge=0, description="median duration of a trace")]
    traces: tuple[TraceRef, ...] = Field((), description="the newest 200")
    train: Annotated[int, Field(ge=0, description="counts the trainings asked for")] = 0
    automatability: Automatability | None = Field(None, description="None: seen too seldom")
    not_proposed: str | None = Field(None, description="why it is not proposed, in words")
    forwards: tuple[Forward, ...] | None = Field(
        None, description="joined or split: where its traces go"
    )
    left_out: tuple[Step, ...] | None = Field(
        None, description="taught: steps that only some demonstrations have, which nobody learns"
    )
    told_by: tuple[str, ...] | None = Field(
        None, description="words that the sentences share which tell each execution what to do"
    )
    derived_from: str | None = Field(None, description="routine_id of the one it was split from")
    num_forgotten: Annotated[int, Field(ge=0, description="counts traces that were forgotten")] = 0


class Trace(Frozen):
    """One execution: the events of the routine in order, noise left out. An artifact."""

    schema_version: int = 1
    trace_id: str
    routine_id: str
    user_id: str
    events: tuple[UiEvent, ...]
    parameters: dict[str, str] = Field(description="parameter name -> value in this execution")
    final_snapshot: Digest | None = Field(None, description="first snapshot after the last event")
