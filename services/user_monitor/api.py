"""The REST routes of user-monitor, below `/v1/user-monitor`."""

from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query

from services.user_monitor.asked import (
    RecordingAsked,
    RecordingView,
    ReplayAsked,
    SessionView,
    StartedView,
    StateView,
    StopAsked,
    TeachAsked,
)
from services.user_monitor.consent import Consent, ConsentAsked, Exclusion, ExclusionAsked
from services.user_monitor.forgetting import ForgetAsked, ForgetStarted
from services.user_monitor.monitor import Monitor
from services.user_monitor.teaching import Lesson
from shared.api import Cursor, Limit, Page, decode_cursor, page
from shared.bus import Port
from shared.errors import ContractError, NotFound
from shared.schemas import Digest, Snapshot, UiEvent, decode
from shared.settings import CommonSettings
from shared.topics import Topic

__all__ = ["router"]

Stated = TypeVar("Stated", Consent, Exclusion)

_MAX_SCANNED = 5_000
_SESSION_COLUMNS = "source, session, user_id, started_ms, last_ms, next_seq, num_events"
_ATTACH_WARNING = (
    "an open debugging port lets any program on this machine drive that browser; close it when "
    "you are done"
)


def router(monitor: Monitor, common: CommonSettings) -> APIRouter:
    """Return the routes of one monitor."""
    routes = APIRouter()
    for part in (
        _consents(monitor), _recording(monitor, common), _sessions(monitor), _forget(monitor),
    ):  # fmt: skip
        routes.include_router(part)
    return routes


def _consents(monitor: Monitor) -> APIRouter:
    routes = APIRouter()

    @routes.get("/consents")
    def list_consents(
        limit: Limit = 100, cursor: Cursor = None, revoked: bool = False
    ) -> Page[Consent]:
        """List what was allowed, oldest first; `revoked` includes what no longer holds."""
        given = [c for c in monitor.consents.consents.values() if revoked or not c.revoked_ms]
        return _listed(given, limit, cursor)

    @routes.post("/consents", status_code=201)
    async def give_consent(asked: ConsentAsked) -> Consent:
        """Allow capture from now on."""
        return await monitor.allow(asked)

    @routes.delete("/consents/{consent_id}")
    async def revoke_consent(consent_id: str) -> Consent:
        """Revoke a consent; what is not yet published is dropped."""
        return await monitor.revoke(consent_id)

    @routes.get("/exclusions")
    def list_exclusions(limit: Limit = 100, cursor: Cursor = None) -> Page[Exclusion]:
        """List what is never captured."""
        return _listed(list(monitor.consents.exclusions.values()), limit, cursor)

    @routes.post("/exclusions", status_code=201)
    async def exclude(asked: ExclusionAsked) -> Exclusion:
        """Never capture what fits."""
        return await monitor.exclude(asked)

    @routes.delete("/exclusions/{exclusion_id}", status_code=204)
    async def include(exclusion_id: str) -> None:
        """Let consents decide again."""
        await monitor.include(exclusion_id)

    return routes


def _recording(monitor: Monitor, common: CommonSettings) -> APIRouter:
    routes = APIRouter()

    def started(recording_id: str, warning: str | None = None) -> StartedView:
        view = RecordingView.of(recording_id, monitor.recorders[recording_id])
        return StartedView(**view.model_dump(), warning=warning)

    @routes.get("/recording")
    def show_recording() -> StateView:
        """Show what is being watched, how much was kept, and what was dropped and why."""
        return StateView(
            paused=monitor.paused,
            teaching=monitor.teaching.open,
            num_spooled=monitor.publisher.spool.num_events,
            recordings=[RecordingView.of(key, r) for key, r in monitor.recorders.items()],
        )

    @routes.post("/recording/start", status_code=201)
    async def start_recording(asked: RecordingAsked) -> StartedView:
        """Watch a source that a consent covers."""
        if asked.teach is not None:
            monitor.teaching.begin(asked.teach, 0)  # refused before anything is watched
        recording_id = await monitor.record(asked.spec(monitor.settings, common))
        if asked.teach is not None:
            await monitor.teach(asked.teach)
        return started(recording_id, _ATTACH_WARNING if asked.attach_url else None)

    @routes.post("/recording/stop")
    async def stop_recording(asked: StopAsked | None = None) -> StateView:
        """Stop watching; what was captured is published first."""
        wanted = asked or StopAsked()
        await monitor.stop_recording(wanted.source, wanted.id)
        return show_recording()

    @routes.post("/recording/pause")
    async def pause() -> StateView:
        """Capture nothing until it is resumed."""
        await monitor.pause()
        return show_recording()

    @routes.post("/recording/resume")
    async def resume() -> StateView:
        """Capture again from now on."""
        await monitor.resume()
        return show_recording()

    @routes.post("/teach/start", status_code=201)
    async def start_teaching(asked: TeachAsked) -> Lesson:
        """Mark what happens from now on as a demonstration."""
        return await monitor.teach(asked.name)

    @routes.post("/teach/stop")
    async def stop_teaching() -> Lesson:
        """End the demonstration."""
        return await monitor.stop_teaching()

    @routes.post("/replay", status_code=201)
    async def replay(asked: ReplayAsked) -> StartedView:
        """Feed in a recorded log; twice is once."""
        return started(await monitor.record(asked.spec(monitor.settings, common)))

    return routes


def _sessions(monitor: Monitor) -> APIRouter:
    routes = APIRouter()

    @routes.get("/sessions")
    def list_sessions(limit: Limit = 50, cursor: Cursor = None) -> Page[SessionView]:
        """List sessions, newest first."""
        started_ms, session = _place(cursor, (int, str)) or (2**62, "")
        rows = monitor.port.store.query(
            f"SELECT {_SESSION_COLUMNS} FROM sessions WHERE (started_ms, session) < (?, ?) "  # noqa: S608
            "ORDER BY started_ms DESC, session DESC LIMIT ?",
            (started_ms, session, limit + 1),
        )
        views = [_session(row) for row in rows]
        return page(views, limit, lambda view: [view.started_ms, view.session])

    @routes.get("/sessions/{session}")
    def show_session(session: str) -> SessionView:
        """Show a session."""
        rows = monitor.port.store.query(
            f"SELECT {_SESSION_COLUMNS} FROM sessions WHERE session = ? LIMIT 1",  # noqa: S608
            (session,),
        )
        if not rows:
            raise NotFound(f"there is no session {session}")
        return _session(rows[0])

    @routes.get("/events")
    async def list_events(
        limit: Limit = 50,
        cursor: Cursor = None,
        session: Annotated[str | None, Query(max_length=128)] = None,
    ) -> Page[UiEvent]:
        """List events as they stand on the topic, oldest first; a page may be short or empty."""
        return await _events(monitor.port, limit, _place(cursor, (int, int)), session)

    @routes.get("/snapshots/{digest}")
    def show_snapshot(digest: Digest) -> Snapshot:
        """Show the element tree an event refers to."""
        return Snapshot.model_validate_json(monitor.artifacts.get(digest))

    return routes


def _forget(monitor: Monitor) -> APIRouter:
    routes = APIRouter()

    @routes.post("/forget", status_code=202)
    async def forget(asked: ForgetAsked) -> ForgetStarted:
        """Forget events and all that any room made of them; each has a receipt at its /forgets."""
        return await monitor.forget(asked)

    return routes


async def _events(
    port: Port, limit: int, place: tuple[Any, ...] | None, session: str | None
) -> Page[UiEvent]:
    """Read one page of the topic; a filtered read scans a bounded number of records."""
    first_partition, offset = place or (0, 0)
    found: list[UiEvent] = []
    num_scanned = 0
    for partition, (oldest, end) in sorted((await port.bounds(Topic.RAW_EVENTS)).items()):
        if partition < first_partition:
            continue
        at = max(oldest, offset if partition == first_partition else 0)
        while at < end:
            messages = await port.read(Topic.RAW_EVENTS, partition, at, 500)
            if not messages:
                break
            for message in messages:
                if len(found) == limit or num_scanned == _MAX_SCANNED:
                    return Page(items=found, next=_following(partition, message.offset))
                num_scanned += 1
                at = message.offset + 1
                record = decode(message.value, message.headers)
                if isinstance(record, UiEvent) and session in (None, record.session):
                    found.append(record)
    return Page(items=found)


def _following(partition: int, offset: int) -> str | None:
    return page((0, 0), 1, lambda _: [partition, offset]).next


def _session(row: tuple[Any, ...]) -> SessionView:
    return SessionView(**dict(zip(SessionView.model_fields, row, strict=True)))


def _listed(items: list[Stated], limit: int, cursor: str | None) -> Page[Stated]:
    """Page a list that is in memory, by date and id."""
    place = _place(cursor, (int, str)) or (-1, "")
    rest = [item for item in items if (item.since_ms, item.id) > place]
    rest.sort(key=lambda item: (item.since_ms, item.id))
    return page(rest[: limit + 1], limit, lambda item: [item.since_ms, item.id])


def _place(cursor: str | None, kinds: tuple[type, type]) -> tuple[Any, Any] | None:
    """Return the two parts of a cursor. Raises ContractError."""
    place = decode_cursor(cursor)
    if place is None:
        return None
    if (
        not isinstance(place, list)
        or len(place) != 2
        or any(type(part) is not kind for part, kind in zip(place, kinds, strict=True))
        or any(type(part) is int and not 0 <= part < 2**63 for part in place)
    ):
        raise ContractError("the cursor is not one that this list gave as `next`")
    return place[0], place[1]
