"""One room on a log in tmp_path: consent, exclusion, pause, replay, crash, spool, teaching."""

import asyncio
import json
from dataclasses import replace

import httpx
import pytest

from services.user_monitor import monitor
from services.user_monitor.capture import (
    BrowserSpec,
    InputSpec,
    RawCapture,
    ReplaySpec,
    SourceKind,
    WindowSpec,
)
from services.user_monitor.consent import ConsentAsked, ExclusionAsked
from services.user_monitor.main import build
from services.user_monitor.monitor import Monitor
from services.user_monitor.recorder import Recorder, RecorderState
from services.user_monitor.settings import UserMonitorSettings
from shared.api import create_app
from shared.bus import open_bus
from shared.clock import SystemClock
from shared.errors import BusUnavailable, ConsentMissing
from shared.schemas import Action, Level, Source, UiEvent, decode
from shared.service import Service
from shared.settings import CommonSettings
from shared.topics import Topic

TOKEN = "t" * 40


class Room:
    """A running user-monitor."""

    def __init__(self, tmp_path, **settings):
        self.common = CommonSettings(
            data_dir=tmp_path / "data", config_dir=tmp_path / "config", user_id="jane"
        )
        self.common.make_folders()
        self.settings = UserMonitorSettings(**settings)

    async def __aenter__(self):
        clock = SystemClock()
        self.bus = open_bus(f"log:{self.common.data_dir / 'log'}", self.common.data_dir, clock)
        self.monitor, routes = build(self.settings, self.common, clock)
        self.service = Service(self.monitor, routes, self.common, clock)
        await self.service.open(self.bus, "127.0.0.1:1")
        self._stop = asyncio.Event()
        self._killed = False
        self._running = asyncio.create_task(self.service.run(self._stop))
        app = create_app([self.service], self.common, TOKEN)
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://127.0.0.1/v1/user-monitor",
            headers={"Authorization": f"Bearer {TOKEN}"},
        )
        return self

    async def __aexit__(self, *_):
        await self.http.aclose()
        self._stop.set()
        if not self._killed:
            await self._running
        await self.bus.close()

    async def kill(self):
        """End without draining, as kill -9 does."""
        self._killed = True
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)

    async def events(self) -> list[UiEvent]:
        found = []
        for partition, (oldest, _) in (await self.bus.bounds(Topic.RAW_EVENTS)).items():
            messages = await self.bus.read(Topic.RAW_EVENTS, partition, oldest, 10_000)
            found += [decode(m.value, m.headers) for m in messages]
        return found

    async def replayed(self, log: str, **spec):
        """Replay a log to its end."""
        key = await self.monitor.record(ReplaySpec(content=log.encode(), **spec))
        recorder = self.monitor.recorders[key]
        await until(lambda: recorder.is_done)
        await self.monitor.publisher.publish([recorder])
        return recorder


async def until(true):
    while not true():
        await asyncio.sleep(0.01)


class HandSource:
    """A source whose captures a test hands in."""

    def __init__(self, kind=SourceKind.BROWSER):
        self.kind = kind
        self.session = "by-hand"
        self.queue = asyncio.Queue()

    async def captures(self):
        while (capture := await self.queue.get()) is not None:
            yield capture

    async def close(self):
        self.queue.put_nowait(None)


def watch(room, source, next_seq=0, spec=BrowserSpec()):  # noqa: B008
    """Watch a source of the test's own as the room watches any other."""
    monitor: Monitor = room.monitor
    recorder = Recorder(
        source,
        "jane",
        next_seq,
        SystemClock(),
        room.settings.intake_events,
        monitor.consents.allowance,
        lambda: None,
    )
    monitor.recorders[source.session] = recorder
    monitor._specs[source.session] = spec
    return recorder


def click(n=0, application="shop", **fields):
    clock = SystemClock()
    return RawCapture(
        Action.CLICK, application, clock.time_ms() + n, boottime_ms=clock.boottime_ms(), **fields
    )


def line(n, action="click", application="shop", value=None, **more):
    record = {
        "id": f"e{n}", "time_ms": 1_700_000_000_000 + n * 1000, "user_id": "x", "source": "browser",
        "session": "s", "seq": n, "action": action, "application": application, **more,
    }  # fmt: skip
    if value is not None:
        record["value"] = {"clear": value}
    return json.dumps(record)


def log(count, **fields):
    return "\n".join(line(n, **fields) for n in range(count))


ALL_VALUES = ConsentAsked(level=Level.VALUES)


async def test_without_consent_no_source_is_opened(tmp_path):
    async with Room(tmp_path) as room:
        for spec in (ReplaySpec(content=log(1).encode()), InputSpec()):
            with pytest.raises(ConsentMissing):
                await room.monitor.record(spec)
        assert await room.events() == []


async def test_a_replay_arrives_in_order_with_ids_that_make_twice_harmless(tmp_path):
    async with Room(tmp_path) as room:
        await room.monitor.allow(ALL_VALUES)
        await room.replayed(log(250, value="Ann Smith"))
        events = await room.events()
        assert [e.seq for e in events] == list(range(250))
        assert {e.value.clear for e in events} == {"Ann Smith"}
        assert {e.boottime_ms for e in events} == {None}
        again = await room.replayed(log(250, value="Ann Smith"))
        assert again.dropped == {"duplicate": 250}
        assert len(await room.events()) == 250
        await room.replayed(log(250, value="Ann Smith"), as_user="joe")
        events = await room.events()
        assert {e.user_id for e in events} == {"jane", "joe"}
        assert len({e.id for e in events}) == 500


async def test_a_replay_cut_off_by_a_crash_goes_on_where_it_stood(tmp_path):
    async with Room(tmp_path) as room:
        await room.monitor.allow(ALL_VALUES)
        folder = room.common.data_dir / "replay"
        folder.mkdir()
        (folder / "log.jsonl").write_text(log(40))
        started = await room.http.post("/replay", json={"path": "log.jsonl", "speed": 100})
        recorder = room.monitor.recorders[started.json()["id"]]
        await until(lambda: recorder.num_published >= 5)
        await room.kill()
    async with Room(tmp_path) as room:
        await until(lambda: [r for r in room.monitor.recorders.values() if r.is_done])
        await room.monitor.stop_recording()
        assert [e.seq for e in await room.events()] == list(range(40))


async def test_seq_of_a_session_goes_on_after_a_crash(tmp_path):
    async with Room(tmp_path) as room:
        await room.monitor.allow(ALL_VALUES)
        source = HandSource()
        recorder = watch(room, source)
        for n in range(3):
            source.queue.put_nowait(click(n))
        await until(lambda: recorder.num_waiting == 3 or recorder.num_published)
        await room.monitor.publisher.publish([recorder])
        await room.kill()
    async with Room(tmp_path) as room:
        rows = room.monitor.port.store.query("SELECT next_seq, num_events FROM sessions")
        assert rows == [(3, 3)]
        source = HandSource()
        recorder = watch(room, source, next_seq=rows[0][0])
        source.queue.put_nowait(click())
        await until(lambda: recorder.num_published == 1 or recorder.num_waiting)
        await room.monitor.publisher.publish([recorder])
        assert [e.seq for e in await room.events()] == [0, 1, 2, 3]


async def test_what_is_excluded_or_not_allowed_is_not_captured(tmp_path):
    async with Room(tmp_path) as room:
        await room.monitor.allow(ConsentAsked(application="shop", level=Level.VALUES))
        await room.monitor.exclude(ExclusionAsked(kind="title", pattern="salary"))
        titled = [
            line(0, window={"clear": "Orders"}), line(1, window={"clear": "Salary of Ann"}),
            line(2, application="bank"), line(3, url={"clear": "http://shop/x"}),
        ]  # fmt: skip
        recorder = await room.replayed("\n".join(titled))
        assert [e.seq for e in await room.events()] == [0, 3]
        assert recorder.dropped == {"not-allowed": 2}


async def test_revoking_drops_what_is_not_yet_published_and_stops_the_source(tmp_path):
    async with Room(tmp_path, publish_ms=5000) as room:
        given = await room.monitor.allow(ALL_VALUES)
        source = HandSource()
        recorder = watch(room, source)
        source.queue.put_nowait(click())
        await until(lambda: recorder.num_waiting == 1)
        await room.monitor.revoke(given.id)
        await room.monitor.publisher.publish([recorder])
        assert await room.events() == []
        assert recorder.state is RecorderState.STOPPED
        assert recorder.reason == "its last consent was revoked"


async def test_replays_cut_off_while_a_restart_takes_them_up_all_go_on(tmp_path, monkeypatch):
    names = [f"{n}.jsonl" for n in range(3)]
    async with Room(tmp_path) as room:
        await room.monitor.allow(ALL_VALUES)
        folder = room.common.data_dir / "replay"
        folder.mkdir()
        for n, name in enumerate(names):
            (folder / name).write_text(log(400, value=f"v{n}"))
            spec = {"path": name, "speed": 0.01}
            assert (await room.http.post("/replay", json=spec)).status_code == 201
            assert (await room.http.post("/replay", json=spec)).status_code == 201  # is once
        assert len(room.monitor.recorders) == 3
        await room.kill()
    record, asked = Monitor.record, []

    async def cut_off(self, spec):
        asked.append(spec)
        return await record(self, spec) if len(asked) == 1 else await asyncio.Event().wait()

    monkeypatch.setattr(Monitor, "record", cut_off)
    async with Room(tmp_path) as room:
        await until(lambda: len(asked) == 2)
        await room.kill()
    monkeypatch.setattr(Monitor, "record", record)
    async with Room(tmp_path) as room:
        await until(lambda: len(room.monitor.recorders) == 3)


async def test_nothing_is_captured_while_paused(tmp_path):
    async with Room(tmp_path) as room:
        await room.monitor.allow(ALL_VALUES)
        source = HandSource()
        recorder = watch(room, source)
        source.queue.put_nowait(click(untrusted_title="before"))
        await until(lambda: recorder.num_waiting or recorder.num_published)
        await room.monitor.pause()
        late = click(untrusted_title="paused")
        source.queue.put_nowait(late)
        await until(lambda: recorder.dropped["paused"] == 1)
        await asyncio.sleep(0.005)
        await room.monitor.resume()
        source.queue.put_nowait(late)  # it arrives late, but happened while paused
        source.queue.put_nowait(click(5, untrusted_title="after"))
        await until(lambda: recorder.num_waiting or recorder.num_published == 2)
        await room.monitor.publisher.publish([recorder])
        assert [e.window.clear for e in await room.events()] == ["before", "after"]
        assert recorder.dropped == {"paused": 2}


async def test_pause_outlasts_a_restart(tmp_path):
    async with Room(tmp_path) as room:
        await room.monitor.pause()
    async with Room(tmp_path) as room:
        assert room.monitor.paused


async def test_while_the_bus_is_away_events_wait_on_disk_in_order(tmp_path, monkeypatch):
    async with Room(tmp_path) as room:
        given = await room.monitor.allow(ConsentAsked(application="shop", level=Level.VALUES))
        doomed = await room.monitor.allow(ConsentAsked(application="bank"))
        commit = type(room.monitor.port).commit

        async def away(*_):
            raise BusUnavailable("the broker is away")

        monkeypatch.setattr(type(room.monitor.port), "commit", away)
        mixed = [line(n, application="bank" if n % 10 == 9 else "shop") for n in range(120)]
        await room.replayed("\n".join(mixed))
        assert room.monitor.publisher.spool.num_events == 120
        assert await room.events() == []
        await room.monitor.revoke(doomed.id)
        await room.monitor.exclude(ExclusionAsked(kind="title", pattern="none has it"))
        assert room.monitor.publisher.spool.num_events == 108
        await room.kill()  # what is on disk survives
        monkeypatch.setattr(type(room.monitor.port), "commit", commit)
    async with Room(tmp_path) as room:
        await room.monitor.publisher.drain_spool()
        events = await room.events()
        assert [e.seq for e in events] == [n for n in range(120) if n % 10 != 9]
        assert room.monitor.publisher.spool.num_events == 0
        assert given.id in room.monitor.consents.consents


async def test_the_spool_drains_by_itself_when_the_bus_is_back(tmp_path, monkeypatch):
    async with Room(tmp_path, publish_ms=5) as room:
        await room.monitor.allow(ALL_VALUES)
        port = type(room.monitor.port)
        commit, bus_is_back = port.commit, asyncio.Event()

        async def away(self, *given):
            if not bus_is_back.is_set():
                raise BusUnavailable("the broker is away")
            await commit(self, *given)

        monkeypatch.setattr(port, "commit", away)
        key = await room.monitor.record(ReplaySpec(content=log(500).encode()))
        recorder = room.monitor.recorders[key]
        await until(lambda: recorder.is_done)
        await until(lambda: room.monitor.publisher.spool.num_events == 500)
        bus_is_back.set()
        await until(lambda: room.monitor.publisher.spool.num_events == 0)
        assert [e.seq for e in await room.events()] == list(range(500))


async def test_nothing_waits_in_memory_while_the_bus_is_looked_for_and_a_stop_loses_nothing(
    tmp_path, monkeypatch
):
    async def away(*_):
        raise BusUnavailable("the broker is away")

    looked_for = asyncio.Event()

    async def look(*_):
        looked_for.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        async with Room(tmp_path, publish_ms=5) as room:
            await room.monitor.allow(ALL_VALUES)
            port = type(room.monitor.port)
            patched.setattr(port, "commit", away)
            patched.setattr(port, "reach", look)
            await room.monitor.record(ReplaySpec(content=log(300).encode()))
            await looked_for.wait()
            await room.monitor.record(ReplaySpec(content=log(300).encode(), as_user="bob"))
            await until(lambda: room.monitor.publisher.spool.num_events == 600)
            assert room.monitor.publisher.num_held == 0
            watch(room, source := HandSource())
            source.queue.put_nowait(click())
    async with Room(tmp_path) as room:
        await until(lambda: room.monitor.publisher.spool.num_events == 0)
        assert len(await room.events()) == 601


async def test_snapshots_are_stored_filtered_beside_their_event(tmp_path):
    snapshot = {
        "application": "shop", "level": "values",
        "elements": [
            {"index": 0, "role": "cell", "text": {"clear": "card 4111 1111 1111 1111"}},
            {"index": 1, "role": "cell", "text": {"clear": "Ann Smith"}},
        ],
    }  # fmt: skip
    digest = "ab" * 32
    lines = [json.dumps({"digest": digest, "snapshot": snapshot}), line(0, snapshot=digest)]
    async with Room(tmp_path) as room:
        await room.monitor.allow(ALL_VALUES)
        await room.replayed("\n".join(lines))
        (event,) = await room.events()
        answer = await room.http.get(f"/snapshots/{event.snapshot}")
        texts = [element["text"] for element in answer.json()["elements"]]
        assert [t["cls"] for t in texts] == ["secret", "text"]
        assert [t["clear"] for t in texts] == [None, "Ann Smith"]
        held = room.monitor.port.store.query("SELECT digest, holder FROM artifacts")
        assert held == [(event.snapshot, f"replay/{event.session}")]


async def test_a_demonstration_is_marked_by_the_time_of_its_events(tmp_path):
    async with Room(tmp_path) as room:
        await room.monitor.allow(ALL_VALUES)
        source = HandSource()
        recorder = watch(room, source)
        await room.monitor.teach("invoice")
        source.queue.put_nowait(click())
        await until(lambda: recorder.num_waiting or recorder.num_published)
        lesson = await room.monitor.stop_teaching()
        source.queue.put_nowait(click(60_000))
        await until(lambda: recorder.num_waiting or recorder.num_published == 2)
        await room.monitor.publisher.publish([recorder])
        marks = [(e.demonstration, e.showing) for e in await room.events()]
        assert marks == [("invoice", lesson.showing), (None, None)]


async def test_rest_shows_what_a_person_decides_and_what_was_captured(tmp_path):
    async with Room(tmp_path) as room:
        refused = await room.http.post("/replay", json={"content": log(3)})
        assert refused.status_code == 403
        assert refused.headers["content-type"] == "application/problem+json"
        given = await room.http.post("/consents", json={"source": "replay", "level": "values"})
        assert given.status_code == 201
        started = await room.http.post("/replay", json={"content": log(30)})
        assert started.status_code == 201
        session = started.json()["session"]
        await until(lambda: all(r.is_done for r in room.monitor.recorders.values()))
        await room.http.post("/recording/stop")
        assert (await room.http.get(f"/sessions/{session}")).json()["num_events"] == 30
        assert len((await room.http.get("/sessions")).json()["items"]) == 1
        assert (await room.http.get("/sessions/nope")).status_code == 404
        assert (await room.http.get(f"/snapshots/{'0' * 64}")).status_code == 404
        seqs, cursor = [], None
        while True:
            query = {"limit": 7, "session": session, **({"cursor": cursor} if cursor else {})}
            found = (await room.http.get("/events", params=query)).json()
            seqs += [e["seq"] for e in found["items"]]
            if (cursor := found["next"]) is None:
                break
        assert seqs == list(range(30))
        consent_id = given.json()["id"]
        assert (await room.http.delete(f"/consents/{consent_id}")).json()["revoked_ms"]
        assert (await room.http.get("/consents")).json()["items"] == []
        shown = await room.http.get("/consents", params={"revoked": True})
        assert [c["id"] for c in shown.json()["items"]] == [consent_id]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/consents", {"keep": ["card"]}, 422),
        ("/consents", {"attach_url": "http://127.0.0.1:1"}, 422),
        ("/replay", {}, 400),
        ("/replay", {"path": "../../etc/passwd"}, 400),
        ("/replay", {"content": "x", "format": "csv"}, 400),
        ("/recording/start", {"source": "browser", "attach_url": "http://far.example:9222"}, 422),
        ("/recording/start", {"source": "window"}, 403),
        ("/teach/stop", {}, 409),
        ("/consents", {"aplication": "shop"}, 422),
        ("/exclusions", {"kind": "url", "pattern": "bank", "regex": True}, 422),
        ("/exclusions", {"kind": "smell", "pattern": "x"}, 422),
    ],
)
async def test_what_does_not_fit_is_refused_in_words(tmp_path, path, body, status):
    async with Room(tmp_path) as room:
        answer = await room.http.post(path, json=body)
        assert answer.status_code == status, answer.text
        assert answer.json()["detail"]


async def test_nothing_is_watched_where_its_demonstration_cannot_begin(tmp_path):
    async with Room(tmp_path) as room:
        await room.monitor.allow(ALL_VALUES)
        assert (await room.http.post("/teach/start", json={"name": "one"})).status_code == 201
        asked = {"source": "window", "teach": "another"}
        refused = await room.http.post("/recording/start", json=asked)
        assert refused.status_code == 409
        assert (await room.http.get("/recording")).json()["recordings"] == []


@pytest.mark.parametrize("source", ["input", "window"])
async def test_a_missing_display_stops_that_source_alone(tmp_path, monkeypatch, source):
    monkeypatch.delenv("DISPLAY", raising=False)
    async with Room(tmp_path) as room:
        await room.monitor.allow(ALL_VALUES)
        refused = await room.http.post("/recording/start", json={"source": source})
        assert refused.status_code == 503
        assert refused.json()["title"] == "NoDisplay"
        assert "DISPLAY" in refused.json()["detail"]
        await room.replayed(log(3))
        assert len(await room.events()) == 3


async def test_revoking_the_consent_to_attach_ends_what_is_attached(tmp_path):
    url = "http://127.0.0.1:1"
    async with Room(tmp_path) as room:
        await room.monitor.allow(ConsentAsked(source=Source.BROWSER, level=Level.VALUES))
        to_attach = ConsentAsked(source=Source.BROWSER, level=Level.VALUES, attach_url=url)
        given = await room.monitor.allow(to_attach)
        recorder = watch(room, HandSource(), spec=BrowserSpec(attach_url=url))
        await room.monitor.revoke(given.id)
        assert recorder.state is RecorderState.STOPPED


async def test_a_consent_revoked_while_a_source_opens_keeps_it_closed(tmp_path, monkeypatch):
    source = HandSource(SourceKind.WINDOW)
    async with Room(tmp_path) as room:
        given = await room.monitor.allow(ALL_VALUES)

        async def opening(spec, clock):
            await room.monitor.revoke(given.id)
            return source

        monkeypatch.setattr(monitor, "open_source", opening)
        with pytest.raises(ConsentMissing):
            await room.monitor.record(WindowSpec())
        assert room.monitor.recorders == {}
        assert source.queue.get_nowait() is None  # closed


async def test_attaching_needs_a_consent_by_name(tmp_path):
    async with Room(tmp_path) as room:
        await room.monitor.allow(ALL_VALUES)
        asked = {"source": "browser", "attach_url": "http://127.0.0.1:1"}
        refused = await room.http.post("/recording/start", json=asked)
        assert refused.status_code == 403
        assert "names it" in refused.json()["detail"]


@pytest.mark.parametrize(
    "bad", ["{", '{"id": 1}', line(0, action="dance"), line(0, time_ms=-5), line(0, time_ms=10**15)]
)
async def test_a_log_that_cannot_be_read_fails_visibly_and_quotes_nothing(tmp_path, bad):
    async with Room(tmp_path) as room:
        await room.monitor.allow(ALL_VALUES)
        recorder = await room.replayed(f"{line(0)}\n{bad}\n{line(2)}")
        assert recorder.state is RecorderState.FAILED
        assert recorder.reason.startswith("line 2 of the log")
        assert "dance" not in recorder.reason
        assert len(await room.events()) == 1


@pytest.mark.parametrize("bad", ["-5", "1e300", "nan", "inf"])
async def test_a_time_that_no_event_can_have_fails_its_replay_and_nothing_else(tmp_path, bad):
    columns = {"time": "t", "action": "a", "application": "app"}
    async with Room(tmp_path) as room:
        await room.monitor.allow(ALL_VALUES)
        folder = room.common.data_dir / "replay"
        folder.mkdir()
        (folder / "bad.csv").write_text(f"t,a,app\n1700000000,click,shop\n{bad},click,shop\n")
        asked = {"path": "bad.csv", "format": "csv", "columns": columns}
        started = await room.http.post("/replay", json=asked)
        recorder = room.monitor.recorders[started.json()["id"]]
        await until(lambda: recorder.is_done)
        assert recorder.state is RecorderState.FAILED
        assert "time" in recorder.reason
    async with Room(tmp_path) as room:  # and is not tried again
        assert room.monitor.recorders == {}
        await room.replayed(line(0))
        assert len(await room.events()) == 2


async def test_a_capture_that_is_no_event_is_dropped_and_counted(tmp_path):
    async with Room(tmp_path) as room:
        await room.monitor.allow(ALL_VALUES)
        source = HandSource()
        recorder = watch(room, source)
        for title in ("before", "half a character \ud83d", "after"):
            source.queue.put_nowait(replace(click(), untrusted_title=title))
        await until(lambda: recorder.num_waiting == 3)
        await room.monitor.publisher.publish([recorder], everything=True)
        assert [e.window.clear for e in await room.events()] == ["before", "after"]
        assert recorder.dropped == {"unfit": 1}
        assert [e.seq for e in await room.events()] == [0, 2]  # the gap shows


async def test_a_csv_is_read_by_its_column_map(tmp_path):
    table = (
        "when,what,app,cell,form\n"
        "2024-01-05T10:00:00Z,copyCell,Excel,Ann Smith,\n"
        "2024-01-05T10:00:01Z,paste,Chrome,,Ann Smith\n"
        "2024-01-05T10:00:02Z,clickButton,Chrome,,\n"
    )
    columns = {"time": "when", "action": "what", "application": "app", "value": "cell|form"}
    async with Room(tmp_path) as room:
        await room.monitor.allow(ALL_VALUES)
        await room.replayed(table, columns=columns)
        events = await room.events()
        assert [e.action for e in events] == [Action.COPY, Action.PASTE, Action.CLICK]
        assert [e.value and e.value.clear for e in events] == ["Ann Smith", "Ann Smith", None]
        assert {e.source for e in events} == {Source.REPLAY}


async def test_recording_stops_visibly_before_a_click_would_be_lost(tmp_path, monkeypatch):
    async with Room(tmp_path, intake_events=100, publish_ms=5000) as room:
        await room.monitor.allow(ALL_VALUES)
        source = HandSource()
        recorder = watch(room, source)
        for n in range(150):
            source.queue.put_nowait(click(n))
        await until(lambda: recorder.state is RecorderState.FAILED)
        assert "no more may be dropped" in recorder.reason
        await room.monitor.publisher.publish([recorder])
        assert [e.seq for e in await room.events()] == list(range(100))
        shown = (await room.http.get("/recording")).json()["recordings"]
        assert [r["state"] for r in shown] == ["failed"]


async def test_what_neither_bus_nor_disk_takes_waits_and_is_published_in_order(
    tmp_path, monkeypatch
):
    async with Room(tmp_path) as room:
        await room.monitor.allow(ALL_VALUES)
        port = type(room.monitor.port)
        commit, append = port.commit, type(room.monitor.publisher.spool).append

        async def full(*_):
            raise BusUnavailable("the disk is full")

        monkeypatch.setattr(port, "commit", full)
        monkeypatch.setattr(type(room.monitor.publisher.spool), "append", full)
        key = await room.monitor.record(ReplaySpec(content=log(250).encode()))
        recorder = room.monitor.recorders[key]
        await until(lambda: room.monitor.publisher.num_held)
        assert recorder.num_published == 0
        monkeypatch.setattr(port, "commit", commit)
        monkeypatch.setattr(type(room.monitor.publisher.spool), "append", append)
        await until(lambda: recorder.is_done)
        await room.monitor.publisher.publish([recorder])
        assert [e.seq for e in await room.events()] == list(range(250))


async def test_of_two_consents_in_the_same_instant_the_later_holds(tmp_path):
    async with Room(tmp_path) as room:
        given = [
            await room.monitor.allow(ConsentAsked(source=Source.REPLAY, level=level))
            for level in (Level.STRUCTURE, Level.VALUES, Level.STRUCTURE, Level.VALUES)
        ]
        times = [consent.since_ms for consent in given]
        assert times == sorted(set(times))
