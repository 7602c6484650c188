"""The room's logic: what a person decides, and the sources that consents allow.

Reads: its own tables (consents, exclusions, facts). Writes: those tables; events go through
`publisher` alone.
Does not cover: what the filter keeps (privacy) and how a source sees (capture/).
Longer than most: every decision must take effect on recorders, spool and store together.
"""

import asyncio
import json
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from services.user_monitor import consent, publisher, spool
from services.user_monitor.capture import (
    BrowserSpec,
    InputSpec,
    ReplaySpec,
    SourceKind,
    SourceSpec,
    WindowSpec,
    open_source,
)
from services.user_monitor.consent import (
    Consent,
    ConsentAsked,
    Consents,
    Exclusion,
    ExclusionAsked,
    Place,
)
from services.user_monitor.forgetting import (
    ForgetAsked,
    ForgetStarted,
    erase_events,
    ranges_of,
)
from services.user_monitor.metrics import RECORDING
from services.user_monitor.privacy import Redactor
from services.user_monitor.publisher import Publisher
from services.user_monitor.recorder import Recorder, RecorderState
from services.user_monitor.settings import UserMonitorSettings
from services.user_monitor.teaching import Lesson, Teaching
from shared.artifacts import Artifacts
from shared.bus import Effects, Message, Port
from shared.clock import Clock
from shared.errors import BusUnavailable, ConflictError, ConsentMissing, NotFound, WatError
from shared.jobs import Job
from shared.schemas import ForgetRange, Record, Text, UiEvent
from shared.store import Statement
from shared.topics import Room, Topic

__all__ = ["Monitor"]

_log = logging.getLogger(__name__)

_TABLES = "CREATE TABLE IF NOT EXISTS facts(name TEXT PRIMARY KEY, value TEXT NOT NULL);"
_BACKOFF_S, _BACKOFF_MAX_S = 0.1, 5.0
_IDLE_S = 1.0
_TIDY_EVERY_S = 3600.0
_DAY_MS = 24 * 3600 * 1000
_ENDED_SHOWN = 50
_RESUMABLE = {"input": InputSpec, "window": WindowSpec, "replay": ReplaySpec}


class Monitor:
    """user-monitor as the frame runs it."""

    room: ClassVar[Room] = Room.USER_MONITOR
    inputs: ClassVar[tuple[Topic, ...]] = (Topic.FORGETS,)
    tables: ClassVar[str] = _TABLES + publisher.TABLES + consent.TABLES + spool.TABLES

    def __init__(
        self,
        settings: UserMonitorSettings,
        user_id: str,
        clock: Clock,
        redactor: Redactor,
        artifacts: Artifacts,
        renew_key: Callable[[], bytes],
    ) -> None:
        self.settings = settings
        self.user_id = user_id
        self.clock = clock
        self.artifacts = artifacts
        self.consents = Consents()
        self.teaching = Teaching()
        self.recorders: dict[str, Recorder] = {}
        self.paused = False
        self.port: Port
        self.publisher: Publisher
        self._redactor = redactor
        self._renew_key = renew_key
        self._is_started = False
        self._specs: dict[str, SourceSpec] = {}
        self._to_resume: list[Any] = []  # kind and options of what a crash cut off
        self._arrived = asyncio.Event()

    # What the frame calls.

    async def start(self, port: Port) -> None:
        """Load what the store has; once, for handling a record changes nothing in memory."""
        if self._is_started:
            return
        self._is_started = True
        self.port = port
        store = port.store
        self.consents = Consents.load(
            store.query("SELECT body FROM consents"), store.query("SELECT body FROM exclusions")
        )
        self.paused = self._fact("paused") == "1"
        self.teaching = Teaching.load(self._fact("teaching"))
        self._to_resume = json.loads(self._fact("recordings") or "[]")
        self.publisher = Publisher(
            port,
            self._redactor,
            self.artifacts,
            self.clock.boot_id,
            self.consents,
            lambda: self.teaching,
            batch_events=self.settings.batch_events,
            spool_events=self.settings.spool_events,
        )

    def handle(self, record: Record, message: Message, effects: Effects) -> None:
        """Do nothing with a range: `erase` takes its events off the topic, beside the loop."""

    async def work(self, job: Job, port: Port) -> Effects:
        """Refuse: this room has no long work."""
        raise ConflictError(f"user-monitor has no jobs of kind {job.kind}")

    async def background(self, stop: asyncio.Event) -> None:
        """Go on with what was being recorded, publish what arrives until `stop`, then the rest."""
        await self._go_on_recording()
        await asyncio.gather(self._publish_until(stop), self._drain_until(stop))
        await self._close_recorders()

    async def close(self) -> None:
        """Stop watching, where `background` did not come to it."""
        for recorder in self.recorders.values():
            await recorder.stop()

    # Recording.

    async def record(self, spec: SourceSpec) -> str:
        """Start to watch a source; return the recording's id.

        Raises ConsentMissing, ConflictError where the source is being watched, and what opening
        the source raises.
        """
        kind = _kind(spec)
        self._check_consent(kind, spec)
        self._check_single(kind)
        source = await open_source(spec, self.clock)
        try:  # opening takes a while: a person may have decided anew
            self._check_consent(kind, spec)
            self._check_single(kind)
        except WatError:
            await source.close()
            raise
        for key, present in self.recorders.items():  # a log that is being replayed: twice is once
            if present.source.session == source.session and not present.is_done:
                return key
        rows = self.port.store.query(
            "SELECT next_seq FROM sessions WHERE source = ? AND session = ?",
            (kind.value, source.session),
        )
        as_user = spec.as_user if isinstance(spec, ReplaySpec) else None
        recorder = Recorder(
            source,
            as_user or self.user_id,
            rows[0][0] if rows else 0,
            self.clock,
            self.settings.intake_events,
            lambda place: self.consents.allowance(place),
            self._arrived.set,
        )
        if self.paused:
            recorder.pause()
        recording_id = secrets.token_hex(8)
        self.recorders[recording_id] = recorder
        self._specs[recording_id] = spec
        await self._remember_recording()
        return recording_id

    async def stop_recording(self, kind: SourceKind | None = None, id_: str | None = None) -> int:
        """Stop what fits (None: everything), publish what waited; return how many were stopped.

        Raises NotFound for an id there is not.
        """
        if id_ is not None and id_ not in self.recorders:
            raise NotFound(f"there is no recording {id_}")
        named = self.recorders.values() if id_ is None else [self.recorders[id_]]
        chosen = [
            r for r in named if r.state is RecorderState.RECORDING and kind in (None, r.source.kind)
        ]
        if id_ is None:
            self._to_resume = [e for e in self._to_resume if kind not in (None, e[0])]
        for recorder in chosen:
            await recorder.stop()
        await self.publisher.publish(self.recorders.values())
        await self._remember_recording()
        return len(chosen)

    async def pause(self) -> None:
        """Capture nothing until `resume`; what happened before is published."""
        self.paused = True
        for recorder in self.recorders.values():
            recorder.pause()
        await self._keep_fact("paused", "1")
        await self.publisher.publish(self.recorders.values(), everything=True)

    async def resume(self) -> None:
        """Capture again what happens from now on."""
        await self._keep_fact("paused", "0")
        self.paused = False
        for recorder in self.recorders.values():
            recorder.resume()
        self._arrived.set()

    async def teach(self, name: str) -> Lesson:
        """Mark what happens from now on as a demonstration. Raises ConflictError."""
        self.teaching = self.teaching.begin(name, self.clock.time_ms())
        await self._keep_fact("teaching", self.teaching.dump())
        lesson = self.teaching.open
        assert lesson is not None
        return lesson

    async def stop_teaching(self) -> Lesson:
        """End the demonstration and publish it. Raises ConflictError where none is open."""
        self.teaching, lesson = self.teaching.end(self.clock.time_ms())
        await self._keep_fact("teaching", self.teaching.dump())
        await self.publisher.publish(self.recorders.values(), everything=True)
        return lesson

    # Consent.

    async def allow(self, asked: ConsentAsked) -> Consent:
        """Store a consent."""
        # Of two equally specific consents the newest wins: no two may bear the same time.
        newest_ms = max((c.since_ms for c in self.consents.consents.values()), default=-1)
        since_ms = max(self.clock.time_ms(), newest_ms + 1)
        given = Consent(id=secrets.token_hex(8), since_ms=since_ms, **asked.model_dump())
        await self._write(given.insert())
        self.consents.put(given)
        return given

    async def revoke(self, consent_id: str) -> Consent:
        """Revoke a consent; what rests on it and is not yet published is dropped.

        Raises NotFound.
        """
        given = self.consents.consents.get(consent_id)
        if given is None:
            raise NotFound(f"there is no consent {consent_id}")
        if given.revoked_ms is not None:
            return given
        revoked, statement = given.revoke(self.clock.time_ms())
        self.consents.put(revoked)
        async with self.publisher.lock:
            await self._write(statement)
            await self.publisher.spool.drop(lambda rests_on, _: rests_on == consent_id)
        for key, recorder in list(self.recorders.items()):
            if recorder.state is not RecorderState.RECORDING:
                continue
            try:
                self._check_consent(recorder.source.kind, self._specs[key])
            except ConsentMissing:
                await recorder.stop()
                recorder.reason = "its last consent was revoked"
        await self._remember_recording()
        return revoked

    async def exclude(self, asked: ExclusionAsked) -> Exclusion:
        """Store an exclusion; what it covers and is not yet published is dropped."""
        now_ms = self.clock.time_ms()
        stored = Exclusion(id=secrets.token_hex(8), since_ms=now_ms, **asked.model_dump())
        self.consents.exclude(stored)
        async with self.publisher.lock:
            await self._write(stored.insert())
            await self.publisher.spool.drop(lambda _, value: self._is_excluded(value, stored))
        return stored

    async def include(self, exclusion_id: str) -> None:
        """Remove an exclusion. Raises NotFound."""
        stored = self.consents.exclusions.get(exclusion_id)
        if stored is None:
            raise NotFound(f"there is no exclusion {exclusion_id}")
        await self._write(stored.delete())
        self.consents.include(exclusion_id)

    # Forgetting.

    async def forget(self, asked: ForgetAsked) -> ForgetStarted:
        """Say on `forgets` what is to be forgotten; durable on return.

        Raises NotFound, and BusUnavailable where what was captured cannot be reached now.
        """
        await self.publisher.publish(self.recorders.values(), everything=True)
        await self.publisher.drain_spool()
        ranges = await ranges_of(asked, self.port, self.user_id, self.clock.time_ms())
        effects = Effects(self.room)
        for forget in ranges:
            effects.publish(forget)
        await self.port.commit(effects)
        request = ranges[0].request if ranges else None
        return ForgetStarted(request=request or "", num_ranges=len(ranges))

    async def erase(self, ranges: Sequence[ForgetRange]) -> int | None:
        """Take events and snapshots away; with everything, the hash key and demonstrations too."""
        gone_by_ms = await erase_events(ranges, self.port, self.publisher.lock)
        if any(r.session is None and r.user_id == self.user_id for r in ranges):
            self._redactor.use(await asyncio.to_thread(self._renew_key))
            self.teaching = Teaching()
            await self._keep_fact("teaching", self.teaching.dump())
        return gone_by_ms

    # Inside.

    def _goes_on(self, recorder: Recorder) -> bool:
        """Tell whether a restart must take it up again: a log read to its end may still wait."""
        waits = recorder.state is RecorderState.FINISHED and not recorder.is_done
        return recorder.state is RecorderState.RECORDING or waits

    def _recording(self) -> list[Recorder]:
        return [r for r in self.recorders.values() if r.state is RecorderState.RECORDING]

    def _check_consent(self, kind: SourceKind, spec: SourceSpec) -> None:
        if not self.consents.live(kind):
            raise ConsentMissing(
                f"no consent covers source {kind}: give one first (wat consent), it can be revoked"
            )
        attach_url = spec.attach_url if isinstance(spec, BrowserSpec) else None
        if attach_url is not None and not self.consents.may_attach(attach_url):
            raise ConsentMissing(
                f"attaching to the debugging port {attach_url} needs a consent that names it: "
                "any local program can drive a browser whose port is open"
            )

    def _check_single(self, kind: SourceKind) -> None:
        if kind is not SourceKind.REPLAY and kind in {r.source.kind for r in self._recording()}:
            raise ConflictError(
                f"source {kind} is being recorded: end that first (Enter at its `wat record`, or "
                "POST /v1/user-monitor/recording/stop)"
            )

    def _is_excluded(self, value: bytes, newest: Exclusion) -> bool:
        event = UiEvent.model_validate_json(value)
        named = {"title": event.window, "url": event.url}.get(newest.kind)
        if named is not None and (named.hash is not None or named.clear is None):
            return True  # it may be what is excluded: what it was is known no more
        texts = [t.clear if isinstance(t, Text) else None for t in (event.window, event.url)]
        return self.consents.excluded(Place(event.source, event.application, *texts))

    async def _publish_until(self, stop: asyncio.Event) -> None:
        failures, next_tidy_s, num_events = 0, 0.0, 0
        now_s = asyncio.get_running_loop().time
        while not stop.is_set():
            try:
                num_events = await self._publish_once()
                if now_s() >= next_tidy_s:
                    next_tidy_s = now_s() + _TIDY_EVERY_S
                    await self._tidy()
                failures = 0
            except BusUnavailable as error:
                failures, num_events = failures + 1, 0
                _log.warning(str(error), extra={"room": self.room, "outcome": "waiting"})
                await _wait(stop, min(_BACKOFF_S * 2**failures, _BACKOFF_MAX_S))
            if num_events >= self.settings.batch_events:
                continue  # more has come meanwhile
            await _either(stop, self._arrived, self._idle_s())
            self._arrived.clear()
            # Captures arrive in bursts: a short wait makes one commit of many.
            await _wait(stop, self.settings.publish_ms / 1000)

    async def _publish_once(self) -> int:
        num_events = await self.publisher.publish(self.recorders.values())
        RECORDING.set(len(self._recording()))
        ended = [key for key, r in self.recorders.items() if r.is_done]
        for key in ended[:-_ENDED_SHOWN]:
            del self.recorders[key]
            self._specs.pop(key, None)
        return num_events

    async def _drain_until(self, stop: asyncio.Event) -> None:
        """Try the bus again, ever more rarely while it is away.

        Beside the publishing, which is what empties memory to disk meanwhile.
        """
        failures = 0
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                await _either(stop, self.publisher.spooled, _IDLE_S)
                draining = asyncio.ensure_future(self.publisher.drain_spool())
                try:
                    await asyncio.wait({draining, stopping}, return_when=asyncio.FIRST_COMPLETED)
                    if draining.done():
                        draining.result()
                        failures = 0
                except BusUnavailable as error:
                    failures += 1
                    _log.warning(str(error), extra={"room": self.room, "outcome": "waiting"})
                    await _wait(stop, min(_BACKOFF_S * 2**failures, _BACKOFF_MAX_S))
                finally:
                    draining.cancel()
                    await asyncio.gather(draining, return_exceptions=True)
        finally:
            stopping.cancel()

    def _idle_s(self) -> float:
        """Wait long where nothing waits: whatever arrives ends it."""
        waiting = any(r.num_waiting and not r.paused for r in self.recorders.values())
        return self.settings.publish_ms / 1000 if waiting else _IDLE_S

    async def _close_recorders(self) -> None:
        for recorder in self.recorders.values():
            await recorder.stop()
        try:
            await self.publisher.publish(self.recorders.values(), everything=True)
        except BusUnavailable as error:
            lost = self.publisher.num_held + sum(r.num_waiting for r in self.recorders.values())
            _log.warning(str(error), extra={"room": self.room, "outcome": "lost", "count": lost})

    async def _go_on_recording(self) -> None:
        """Watch again what was watched when the process ended, a launched browser apart."""
        while self._to_resume:
            kind, kept = self._to_resume[0]
            options = {**kept, "path": Path(kept["path"])} if "path" in kept else kept
            try:
                await self.record(_RESUMABLE[kind](**options))
            except WatError as error:
                extra = {"room": self.room, "outcome": type(error).__name__}
                _log.warning("recording cannot go on", extra=extra)
            del self._to_resume[:1]

    async def _remember_recording(self) -> None:
        kept = [
            [_kind(spec).value, {name: _plain(value) for name, value in asdict(spec).items()}]
            for key, spec in self._specs.items()
            if _is_resumable(spec) and self._goes_on(self.recorders[key])
        ]
        waiting = [entry for entry in self._to_resume if entry not in kept]
        await self._keep_fact("recordings", json.dumps(kept + waiting))

    async def _tidy(self) -> None:
        """Let the snapshots of sessions go whose events retention has removed."""
        oldest_ms = self.clock.time_ms() - self.settings.session_days * _DAY_MS
        rows = self.port.store.query(
            "SELECT source, session FROM sessions WHERE last_ms < ? AND started_ms < ? LIMIT 1000",
            (oldest_ms, oldest_ms),
        )
        effects = Effects(self.room)
        for source, session in rows:
            self.artifacts.drop(publisher.holder_of(SourceKind(source), session), effects)
            effects.write(
                "DELETE FROM sessions WHERE source = ? AND session = ?", (source, session)
            )
        if effects:
            await self.port.commit(effects)

    def _fact(self, name: str) -> str | None:
        rows = self.port.store.query("SELECT value FROM facts WHERE name = ?", (name,))
        return rows[0][0] if rows else None

    async def _keep_fact(self, name: str, value: str) -> None:
        await self._write(("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value)))

    async def _write(self, statement: Statement) -> None:
        # Straight into the room's own file: a decision must hold while the broker is away.
        sql, params = statement
        await self.port.store.write(lambda writer: writer.execute(sql, params).fetchall())


def _kind(spec: SourceSpec) -> SourceKind:
    match spec:
        case BrowserSpec():
            return SourceKind.BROWSER
        case InputSpec():
            return SourceKind.INPUT
        case WindowSpec():
            return SourceKind.WINDOW
        case ReplaySpec():
            return SourceKind.REPLAY


def _is_resumable(spec: SourceSpec) -> bool:
    """Say whether a spec holds no content and opens no window."""
    if isinstance(spec, ReplaySpec):
        return spec.path is not None
    return not isinstance(spec, BrowserSpec)


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for `event`, but no longer than `seconds`."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return


async def _either(first: asyncio.Event, second: asyncio.Event, seconds: float) -> None:
    """Wait for either event, but no longer than `seconds`."""
    waits = [asyncio.create_task(event.wait()) for event in (first, second)]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
