"""REST of the agent-runner: agents, runs and evidence, approvals, the kill switch, grants."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from services.agent_runner import grants, runs
from services.agent_runner.catalog import Agent, TrustedKey
from services.agent_runner.evidence import StepEvidence
from services.agent_runner.grants import Grant
from services.agent_runner.records import MAX_RECORDS, read_csv
from services.agent_runner.runner import Approval, RunAsked, Runner
from services.agent_runner.runs import RecordRow, RunRow
from shared.api import Cursor, Limit, Page, decode_cursor, page
from shared.errors import ContractError
from shared.schemas import ModelCard

__all__ = ["router"]

Name = Annotated[str, Field(min_length=1, max_length=200)]
Index = Annotated[int, Field(ge=0, le=MAX_RECORDS)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _AgentNamed(_Body):
    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": [name], "properties": {name: {"type": "string"}}}
                for name in ("routine_id", "name")
            ]
        }
    )

    routine_id: Name | None = None
    name: Name | None = None

    def check_named(self) -> None:
        """Raise ContractError unless exactly one of the two is given."""
        if (self.routine_id is None) == (self.name is None):
            raise ContractError("name the agent by routine_id or by name, by one of them")


class RunBody(_AgentNamed):
    """A run to begin. Values are given by `records`, `csv` or `params`, by one at most."""

    records: list[dict[str, str]] | None = Field(None, max_length=MAX_RECORDS)
    csv: str | None = Field(None, description="text of a CSV file whose header names parameters")
    params: dict[str, str] | None = Field(None, description="the values of a single record")
    from_screen: bool = Field(False, description="read what is not given from the first page")
    limit: int | None = Field(None, ge=1, description="work on the first N records")
    dry_run: bool = Field(False, description="decide and write down, act on nothing")
    keep_going: bool = Field(False, description="go on after a record that did not end well")
    approve: Approval | None = Field(None, description="grant what it needs, once or always")


class RunView(RunRow):
    """A run, with how its records stand and what it waits for."""

    num_by_state: dict[str, int]
    lacks: str | None = Field(None, description="what it needs to be granted, in words")


class RecordView(RecordRow):
    """A record of a run with every step of its evidence."""

    steps: list[StepEvidence]


class RunDetail(RunView):
    """A run with a page of its records."""

    records: Page[RecordView]


class ApproveBody(_Body):
    """How far an approval reaches."""

    scope: Approval = "once"


class GrantBody(_AgentNamed):
    """A standing grant; without `ops` or `origins` it is all that the agent needs."""

    ops: list[Name] | None = None
    origins: list[Name] | None = None


class KeyBody(_Body):
    """A foreign key to trust."""

    public_key: Annotated[
        Name, Field(description="Ed25519", json_schema_extra={"pattern": "^[0-9a-fA-F]{64}$"})
    ]
    name: Name


class AgentView(BaseModel):
    """An agent with the verdict on its module."""

    routine_id: str
    name: str
    verdict: str
    reason: str | None
    card: ModelCard


class Stopped(BaseModel):
    """What the kill switch ended."""

    run_ids: list[str]


def router(logic: Runner) -> APIRouter:
    """Return the room's routes, below `/v1/agent-runner`."""
    routes = APIRouter()
    _add_runs(routes, logic)
    _add_decisions(routes, logic)
    _add_grants(routes, logic)
    _add_agents(routes, logic)
    return routes


def _view(logic: Runner, run: RunRow) -> RunView:
    waits = run.state == "waiting"
    return RunView(
        **run.model_dump(),
        num_by_state=runs.records_by_state(logic.port.store, run.run_id),
        lacks=grants.in_words(logic.lacking(run)) if waits else None,
    )


def _record_view(logic: Runner, run_id: str, record: RecordRow) -> RecordView:
    steps = runs.evidence_steps(logic.port.store, logic.artifacts, run_id, record)
    return RecordView(**record.model_dump(), steps=steps)


def _add_runs(routes: APIRouter, logic: Runner) -> None:
    @routes.post("/runs", status_code=201)
    async def ask(body: RunBody) -> RunView:
        """Ask for a run; it waits for approval unless it was granted what it needs."""
        body.check_named()
        if body.csv is not None and body.records is not None:
            raise ContractError("give records or csv, not both")
        fields = body.model_dump(exclude={"csv", "params"})
        if body.csv is not None:
            fields["records"] = read_csv(body.csv)
        return _view(logic, await logic.ask(RunAsked(**fields, parameters=body.params)))

    @routes.get("/runs")
    async def list_runs(limit: Limit = 50, cursor: Cursor = None) -> Page[RunView]:
        """List runs, the newest first."""
        found = runs.list_runs(logic.port.store, _place(cursor), limit + 1)
        views = [_view(logic, run) for run in found]
        return page(views, limit, lambda run: [run.asked_ms, run.run_id])

    @routes.get("/runs/{run_id}")
    async def show_run(run_id: str, limit: Limit = 50, cursor: Cursor = None) -> RunDetail:
        """Show a run with its records, in order, and every step of their evidence."""
        run = runs.get_run(logic.port.store, run_id)
        after = _index(cursor)
        rows = runs.list_records(logic.port.store, run_id, after, limit + 1)
        shown = page(rows, limit, lambda row: row.record_index)
        views = [_record_view(logic, run_id, row) for row in shown.items]
        return RunDetail(
            **_view(logic, run).model_dump(), records=Page(items=views, next=shown.next)
        )

    @routes.get("/runs/{run_id}/records/{index}")
    async def show_record(run_id: str, index: Index) -> RecordView:
        """Show one record of a run with every step of its evidence."""
        record = runs.get_record(logic.port.store, run_id, index)
        return _record_view(logic, run_id, record)


def _add_decisions(routes: APIRouter, logic: Runner) -> None:
    @routes.post("/runs/{run_id}/approve")
    async def approve(run_id: str, body: ApproveBody | None = None) -> RunView:
        """Grant a waiting run what it needs, and let it begin."""
        return _view(logic, await logic.approve(run_id, (body or ApproveBody()).scope))

    @routes.post("/runs/{run_id}/reject")
    async def reject(run_id: str) -> RunView:
        """End a run that waits for approval."""
        return _view(logic, await logic.reject(run_id))

    @routes.post("/runs/{run_id}/stop")
    async def stop_run(run_id: str) -> RunView:
        """Stop a run; once this has answered it does nothing any more."""
        return _view(logic, await logic.stop_run(run_id))

    @routes.post("/stop")
    async def stop_all() -> Stopped:
        """Stop every run; once this has answered none does anything any more."""
        return Stopped(run_ids=await logic.stop_all())


def _add_grants(routes: APIRouter, logic: Runner) -> None:
    @routes.get("/grants")
    async def list_grants(limit: Limit = 50, cursor: Cursor = None) -> Page[Grant]:
        """List grants, revoked ones too, the newest first."""
        found = grants.list_grants(logic.port.store, _place(cursor), limit + 1)
        return page(found, limit, lambda grant: [grant.granted_ms, grant.grant_id])

    @routes.post("/grants", status_code=201)
    async def grant(body: GrantBody) -> Grant:
        """Let an agent do what it needs, or a part of that, until revoked."""
        body.check_named()
        return await logic.grant(**body.model_dump())

    @routes.delete("/grants/{grant_id}", status_code=204)
    async def revoke(grant_id: str) -> None:
        """Take a grant back; a run under way notices before its next step."""
        await logic.revoke(grant_id)

    @routes.get("/trusted-keys")
    async def list_keys() -> list[TrustedKey]:
        """List the keys whose modules may run."""
        return logic.catalog.trusted_keys()

    @routes.post("/trusted-keys", status_code=201)
    async def trust(body: KeyBody) -> TrustedKey:
        """Accept modules that a foreign key signed."""
        return await logic.trust(body.public_key, body.name)

    @routes.delete("/trusted-keys/{key}", status_code=204)
    async def distrust(key: str) -> None:
        """Accept modules of an added key no more."""
        await logic.distrust(key)


def _add_agents(routes: APIRouter, logic: Runner) -> None:
    @routes.get("/models")
    async def list_agents(
        limit: Limit = 50,
        cursor: Cursor = None,
        verdict: Annotated[
            Literal["ok", "refused", "stale", "unavailable"] | None, Query(description="only these")
        ] = None,
    ) -> Page[AgentView]:
        """List agents by routine id, with the verdict on each one's module."""
        after = str(decode_cursor(cursor) or "")
        found = [
            _agent_view(logic, agent)
            for routine_id, agent in sorted(logic.catalog.agents.items())
            if routine_id > after and verdict in (None, agent.verdict)
        ]
        return page(found[: limit + 1], limit, lambda agent: agent.routine_id)


def _agent_view(logic: Runner, agent: Agent) -> AgentView:
    return AgentView(
        routine_id=agent.card.subject_id,
        name=logic.catalog.name(agent),
        verdict=agent.verdict,
        reason=agent.reason,
        card=agent.card,
    )


def _place(cursor: str | None) -> tuple[int, str] | None:
    place = decode_cursor(cursor)
    if place is None:
        return None
    if not isinstance(place, list) or [type(part) for part in place] != [int, str]:
        raise ContractError("the cursor is not one that this list gave as `next`")
    return place[0], place[1]


def _index(cursor: str | None) -> int:
    place = decode_cursor(cursor)
    if place is None:
        return -1
    if type(place) is not int:
        raise ContractError("the cursor is not one that this list gave as `next`")
    return place
