"""task-learner's routes: routines ranked, each with its evidence; and what a person decides."""

from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from services.task_learner.exports import EXPORTS
from services.task_learner.forgetting import Place
from services.task_learner.learner import TaskLearner
from services.task_learner.routines import Known
from shared.api import Cursor, Limit, Page, decode_cursor, page
from shared.errors import ConflictError, ContractError
from shared.schemas import Routine, RoutineStatus, Trace

__all__ = ["router"]


class RoutineLine(BaseModel):
    """One routine in the list."""

    routine_id: str
    name: str
    status: RoutineStatus
    origin: str
    revision: int
    support: int
    num_steps: int
    parameters: list[str]
    median_ms: int
    coverage: float
    saves_ms: int = Field(description="time its executions have taken so far")
    saves_ms_a_week: int | None = Field(description="as its dry replay says; ranks the list")
    step_rate: float | None
    not_proposed: str | None


class PlaceRun(BaseModel):
    """Events of one session, one after the other."""

    user_id: str
    source: str
    session: str
    first_seq: int
    last_seq: int


class NewName(BaseModel):
    """What a routine shall be called."""

    name: Annotated[str, Field(min_length=1, max_length=120)]


class Merged(BaseModel):
    """Which routine it is the same as."""

    into: Annotated[str, Field(min_length=1, max_length=128, description="its routine_id")]


class SplitAt(BaseModel):
    """What tells the two kinds apart."""

    step: Annotated[int, Field(ge=1, description="a step that only some executions have, from 1")]


def router(logic: TaskLearner) -> APIRouter:
    """Return the room's routes."""
    routes = APIRouter()

    @routes.get("/routines")
    def list_routines(
        status: RoutineStatus | None = None, limit: Limit = 50, cursor: Cursor = None
    ) -> Page[RoutineLine]:
        """List routines, what saves most time first; forgotten ones only if asked for."""
        place = decode_cursor(cursor)
        if place is not None and not (
            isinstance(place, list) and [type(part) for part in place] == [int, int, str]
        ):
            raise ContractError("the cursor is not one that a page gave as `next`")
        lines = sorted((_line(k) for k in logic.routines.values() if _shown(k, status)), key=_rank)
        if place is not None:
            lines = [line for line in lines if _rank(line) > tuple(place)]
        return page(lines[: limit + 1], limit, _rank)

    @routes.get("/routines/{routine_id}")
    def show_routine(routine_id: str) -> Routine:
        """Show a routine with its steps, parameters and traces."""
        return _record(logic.known(routine_id))

    @routes.get("/routines/{routine_id}/traces/{trace_id}")
    def show_trace(routine_id: str, trace_id: str) -> Trace:
        """Show every event of one trace."""
        return logic.trace(routine_id, trace_id)

    @routes.get(
        "/routines/{routine_id}/export",
        response_class=Response,
        responses={200: {"content": {e.media_type: {} for e in EXPORTS.values()}}},
    )
    def export(
        routine_id: str, form: Literal["mermaid", "svg", "png", "bpmn", "xes", "ocel"] = "mermaid"
    ) -> Response:
        """Draw a routine, or hand out its process (BPMN) or its traces (XES, OCEL 2.0)."""
        known = logic.known(routine_id)
        if not known.is_live:
            raise ConflictError(f"routine {routine_id} has been forgotten: nothing is left of it")
        made = EXPORTS[form]
        wanted = known.traces if form in ("xes", "ocel") else ()
        traces = [logic.trace(routine_id, trace_id) for trace_id in list(wanted)]
        return Response(made.make(_record(known), traces), media_type=made.media_type)

    @routes.post("/routines/{routine_id}/approve")
    async def approve(routine_id: str) -> Routine:
        """Approve a routine: an agent is trained for it."""
        return await logic.decide(routine_id, RoutineStatus.APPROVED, train=True)

    @routes.post("/routines/{routine_id}/ignore")
    async def ignore(routine_id: str) -> Routine:
        """Never propose this routine again."""
        return await logic.decide(routine_id, RoutineStatus.IGNORED)

    @routes.post("/routines/{routine_id}/rename")
    async def rename(routine_id: str, body: NewName) -> Routine:
        """Give a routine another name."""
        return await logic.decide(routine_id, name=body.name)

    @routes.post("/routines/{routine_id}/merge")
    async def merge(routine_id: str, body: Merged) -> Routine:
        """Say that a routine is the same as another, which gets its traces from now on."""
        return await logic.join(routine_id, body.into)

    @routes.post("/routines/{routine_id}/split")
    async def split(routine_id: str, body: SplitAt) -> list[Routine]:
        """Make two routines of one: the executions that have a step, and those that have not."""
        return await logic.split(routine_id, body.step - 1)

    @routes.post("/routines/{routine_id}/restore")
    async def restore(routine_id: str) -> Routine:
        """Undo a merge or a split: the routine has its traces alone, and is to be approved anew."""
        return await logic.take_back(routine_id)

    @routes.post("/routines/{routine_id}/train")
    async def train(routine_id: str) -> Routine:
        """Train once more on the traces there are now."""
        return await logic.decide(routine_id, train=True)

    @routes.get("/places")
    def list_places(
        application: Annotated[str | None, Query(max_length=300)] = None,
        since_ms: Annotated[int | None, Query(ge=0, description="epoch, ms")] = None,
    ) -> list[PlaceRun]:
        """Name the events still kept here that fit, without any content: for forgetting them."""
        return _runs(sorted(set(logic.places(application, since_ms))))

    return routes


def _runs(places: Sequence[Place]) -> list[PlaceRun]:
    """Join neighbours of one session."""
    runs: list[PlaceRun] = []
    for user_id, source, session, seq in places:
        last = runs[-1] if runs else None
        if last is not None and (last.user_id, last.source, last.session, last.last_seq + 1) == (
            user_id, source, session, seq,
        ):  # fmt: skip
            last.last_seq = seq
        else:
            runs.append(
                PlaceRun(
                    user_id=user_id, source=source, session=session, first_seq=seq, last_seq=seq
                )
            )
    return runs


def _shown(known: Known, status: RoutineStatus | None) -> bool:
    return known.is_live if status is None else known.status is status


def _record(known: Known) -> Routine:
    return known.to_record(known.record.time_ms if known.record is not None else 0)


def _line(known: Known) -> RoutineLine:
    record = _record(known)
    figures = record.automatability
    return RoutineLine(
        routine_id=known.routine_id, name=record.name, status=record.status, origin=record.origin,
        revision=record.revision, support=record.support, num_steps=len(record.steps),
        parameters=[p.name for p in record.parameters], median_ms=record.median_ms,
        coverage=record.coverage, saves_ms=record.support * record.median_ms,
        saves_ms_a_week=figures.saves_ms_a_week if figures else None,
        step_rate=figures.step_rate if figures else None, not_proposed=record.not_proposed,
    )  # fmt: skip


def _rank(line: RoutineLine) -> tuple[int, int, str]:
    """Put first what an agent would save, then what has taken most time."""
    return (-(line.saves_ms_a_week or 0), -line.saves_ms, line.routine_id)
