"""Forgetting with the four services running and events flowing: not a byte is left, the rest is.

Each log that is replayed has words of its own, made up anew; what is looked for in all files of the
data folder afterwards is these words.
"""

import asyncio
import contextlib
import gzip
import json
import os
import random
import secrets
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from prometheus_client import generate_latest

import shared.artifacts
from services.client import Rooms
from services.commands.forget import _READS
from services.serve import build_service, serve
from shared.bus import Bus, open_bus
from shared.clock import SystemClock
from shared.schemas import UiEvent, decode
from shared.settings import CommonSettings
from shared.topics import Room, Topic
from tests.unit.task_learner import ui_logs

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 300

pytestmark = pytest.mark.timeout(300)


def word() -> str:
    """Return a word that stands nowhere else."""
    return "".join(random.choices("bcdfghjklmnpqrstvwxz", k=14))  # noqa: S311


class Story:
    """A log in which every name, town and value holds one word."""

    def __init__(self, monkeypatch, seed, chore="claim", num=8, app="https://desk.test"):
        self.word = word()
        with monkeypatch.context() as patch:
            patch.setattr(ui_logs, "FIRST", [f"{self.word}{i}" for i in range(9)])
            patch.setattr(ui_logs, "TOWNS", [f"{self.word}town{i}" for i in range(9)])
            many = {"claims": num} if chore == "claim" else {"claims": 0, "mails": num}
            self.log = ui_logs.person(seed, session=f"s{seed}", detours=0, work=0, **many)
        self.num_events = len(self.log.events)
        lines = [
            json.dumps({"digest": digest, "snapshot": json.loads(raw)})
            for digest, raw in self.log.snapshots.items()
        ]
        lines += [event.model_dump_json(exclude_none=True) for event in self.log.events]
        self.content = "\n".join(lines).replace("https://desk.test", app)


class Office:
    """Somebody for whom the four services run, and who types commands."""

    def __init__(self, home: Path, url: str = "") -> None:
        self.common = CommonSettings(
            data_dir=home / "data", config_dir=home / "config", user_id="ada", bus_url=url
        )
        self.home = home
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("WAT_")},
            "WAT_DATA_DIR": str(home / "data"),
            "WAT_CONFIG_DIR": str(home / "config"),
            "WAT_USER_ID": "ada",
            "COLUMNS": "200",
        }
        self.flowed = 0

    async def open(self, rooms=tuple(Room), *, works=False) -> None:
        self.common.make_folders()
        clock = SystemClock()
        self.services = {
            room: build_service(
                room, self.common, clock, works=works or room is not Room.AGENT_TRAINER
            )
            for room in rooms
        }
        self.stop = asyncio.Event()
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.running = asyncio.create_task(
            serve(list(self.services.values()), self.common, clock, 0, ready.set_result, self.stop)
        )
        await asyncio.wait({self.running, ready}, return_when=asyncio.FIRST_COMPLETED)
        self.address = ready.result() if ready.done() else self.running.result()
        token = self.common.token_file.read_text().strip()
        self.http = httpx.AsyncClient(
            base_url=f"{self.address}/v1/", headers={"Authorization": f"Bearer {token}"}, timeout=60
        )

    async def close(self) -> None:
        await self.http.aclose()
        self.stop.set()
        await self.running

    async def get(self, path, **query):
        answer = await self.http.get(path, params=query)
        assert answer.status_code < 400, answer.text
        return answer.json()

    async def post(self, path, body=None):
        answer = await self.http.post(path, json=body)
        assert answer.status_code < 400, answer.text
        return answer.json()

    async def replay(self, story: Story) -> str:
        """Replay a log to its end; return its session."""
        started = await self.post("user-monitor/replay", {"content": story.content})
        await self.until(lambda: self._published(started["id"], story.num_events))
        return started["session"]

    async def _published(self, recording_id, count):
        state = await self.get("user-monitor/recording")
        [mine] = [r for r in state["recordings"] if r["id"] == recording_id]
        return mine["num_published"] == count

    async def until(self, what, limit_s=WAIT_S):
        async with asyncio.timeout(limit_s):
            while not (found := await what()):
                await asyncio.sleep(0.05)
        return found

    async def routines(self):
        return (await self.get("task-learner/routines"))["items"]

    async def learned(self, count, support):
        async def is_so():
            found = await self.routines()
            return len(found) == count and all(r["support"] >= support for r in found)

        await self.until(is_so)

    async def wat(self, *arguments: str, expect: int = 0) -> str:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services", *arguments, cwd=ROOT, env=self.environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        out, err = await child.communicate()
        assert child.returncode == expect, err.decode() + out.decode()
        return out.decode()

    async def forget(self, **asked) -> dict[str, dict[str, int]]:
        """Ask over REST, wait for every receipt; return what each room deleted."""
        started = await self.post("user-monitor/forget", asked)
        deleted, wrote = {}, {}
        for room in self.services:
            after = [f"{t}:{p}:{end}" for t in _READS[room] for p, end in wrote.get(t, {}).items()]

            async def done(room=room, after=after):
                receipt = await self.get(f"{room}/forgets/{started['request']}", after=after)
                return receipt if receipt["done"] else None

            receipt = await self.until(done)
            wrote |= receipt["wrote"]
            deleted[room] = receipt["deleted"]
        return deleted

    def files_with(self, text: str) -> list[str]:
        """Return the files of the data folder that hold a text, as another process sees them."""
        found = subprocess.run(
            ["grep", "-r", "-a", "-i", "-l", text, str(self.common.data_dir)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert found.returncode in (0, 1), found.stderr
        return found.stdout.splitlines()

    async def events(self, bus: Bus | None = None) -> list[UiEvent]:
        bus = bus or self.services[Room.USER_MONITOR].port
        found = []
        for partition, (oldest, end) in (await bus.bounds(Topic.RAW_EVENTS)).items():
            at = oldest
            while at < end and (some := await bus.read(Topic.RAW_EVENTS, partition, at, 5000)):
                found += [decode(m.value, m.headers) for m in some]
                at = some[-1].offset + 1
        return found

    async def flow(self, monkeypatch) -> None:
        """Let events come all the time."""
        while True:
            lines = [
                json.dumps({
                    "id": f"f{secrets.token_hex(4)}", "time_ms": time.time_ns() // 1_000_000,
                    "user_id": "ada", "source": "browser", "session": "flow", "seq": n,
                    "action": "scroll", "application": "https://flow.test",
                })
                for n in range(3)
            ]  # fmt: skip
            await self.post("user-monitor/replay", {"content": "\n".join(lines)})
            self.flowed += 3
            await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def office(tmp_path, monkeypatch, url: str = "", *, works: bool = False):
    monkeypatch.setattr(shared.artifacts, "_FRESH_S", 0.5)
    here = Office(tmp_path, url)
    await here.open(works=works)
    try:
        consent = {"source": "replay", "level": "values", "keep": ["email"]}
        await here.post("user-monitor/consents", consent)
        yield here
    finally:
        await here.close()


@contextlib.asynccontextmanager
async def flowing(here, monkeypatch):
    """Run with events flowing; at the end all of them are there."""
    task = asyncio.create_task(here.flow(monkeypatch))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def flow_events(here):
    async def all_there():
        there = [e for e in await here.events() if e.application == "https://flow.test"]
        return len(there) >= here.flowed

    await here.until(all_there)


async def test_one_session_goes_and_the_rest_stays(tmp_path, monkeypatch, caplog):
    caplog.set_level("DEBUG")
    async with office(tmp_path, monkeypatch) as here, flowing(here, monkeypatch):
        kept, gone = Story(monkeypatch, 1), Story(monkeypatch, 2, chore="mail")
        kept_session = await here.replay(kept)
        session = await here.replay(gone)
        await here.learned(2, 8)
        assert here.files_with(gone.word)
        said = await here.wat("forget", "--session", session)
        assert f"user-monitor: deleted {gone.num_events} events" in said
        assert "task-learner: deleted" in said
        assert "1 routines" in said
        assert "no byte of it is left" in said
        assert here.files_with(gone.word) == []
        assert here.files_with(kept.word)
        sessions = [e.session for e in await here.events()]
        assert sessions.count(kept_session) == kept.num_events
        assert session not in sessions
        [routine] = await here.routines()
        assert routine["support"] == 8
        await flow_events(here)
        # The same log again is the same events.
        await here.post("user-monitor/replay", {"content": gone.content})
        assert here.files_with(gone.word) == []
        receipts = (await here.get("user-monitor/forgets"))["items"]
        assert [r["deleted"]["events"] for r in receipts] == [gone.num_events]
        assert gone.word not in caplog.text
        assert gone.word.encode() not in generate_latest()


async def test_one_application_goes_from_sessions_that_hold_others(tmp_path, monkeypatch):
    async with office(tmp_path, monkeypatch) as here, flowing(here, monkeypatch):
        kept, gone = Story(monkeypatch, 1), Story(monkeypatch, 2, "mail", app="https://post.test")
        mixed = Story(monkeypatch, 3)  # one session, both applications, turn by turn
        mixed.content = _woven(kept, gone)
        mixed.num_events = kept.num_events + gone.num_events
        session = await here.replay(mixed)
        await here.learned(2, 5)
        before = {r["name"]: r["support"] for r in await here.routines()}
        await here.wat("forget", "--app", "HTTPS://post.test")
        assert here.files_with(gone.word) == []
        assert here.files_with("post.test") == []
        left = [e for e in await here.events() if e.session == session]
        assert len(left) == kept.num_events
        [routine] = await here.routines()
        assert routine["support"] == before[routine["name"]]
        await flow_events(here)


def _woven(*stories: Story) -> str:
    """Lay the chores of logs between one another, numbered anew."""
    screens, chores = [], []
    for story in stories:
        lines = [json.loads(line) for line in story.content.splitlines()]
        screens += [line for line in lines if "action" not in line]
        events = [line for line in lines if "action" in line]
        cuts = [0, *(end + 2 for _, _, end in story.log.chores), len(events)]
        chores += [events[a:b] for a, b in pairwise(cuts)]
    random.Random(1).shuffle(chores)  # noqa: S311
    events = [event for chore in chores for event in chore]
    for n, event in enumerate(events):
        event |= {"seq": n, "session": "woven", "time_ms": 1_700_000_000_000 + n * 900}
    return "\n".join(map(json.dumps, [*screens, *events]))


async def test_the_last_minutes_go_and_support_shrinks(tmp_path, monkeypatch):
    async with office(tmp_path, monkeypatch) as here, flowing(here, monkeypatch):
        early, late = Story(monkeypatch, 1), Story(monkeypatch, 2, num=3)
        session = await here.replay(early)
        await here.learned(1, 8)
        await asyncio.sleep(3)
        middle_s = time.time()
        await asyncio.sleep(3)
        await here.replay(late)
        await here.learned(1, 11)
        [before] = await here.routines()
        flowed = here.flowed
        await here.forget(last_ms=int((time.time() - middle_s) * 1000))
        assert here.files_with(late.word) == []
        [after] = await here.routines()
        assert after["support"] == 8
        assert after["routine_id"] == before["routine_id"]
        sessions = [e.session for e in await here.events()]
        assert sessions.count(session) == early.num_events
        assert here.flowed > flowed
        shown = await here.get(f"task-learner/routines/{after['routine_id']}")
        assert shown["num_forgotten"] >= 3


async def test_everything_goes_and_what_comes_later_is_learned(tmp_path, monkeypatch):
    async with office(tmp_path, monkeypatch) as here:
        first, second = Story(monkeypatch, 1), Story(monkeypatch, 2, chore="mail")
        key = (here.common.config_dir / "hash.key").read_bytes()
        async with flowing(here, monkeypatch):
            await here.replay(first)
            await here.replay(second)
            await here.learned(2, 8)
            for routine in await here.routines():
                await here.post(f"task-learner/routines/{routine['routine_id']}/approve")
            await here.wat("forget", "--all", expect=1)  # nobody there to be asked
            assert here.files_with(first.word)
            await here.wat("forget", "--all", "--yes")
            for words in (first.word, second.word, "Submit claim", "Scanned"):
                assert here.files_with(words) == []
        said = await here.wat("forget", "--all", "--yes")  # what flowed meanwhile too
        assert "no byte of it is left" in said
        for words in (first.word, second.word, "Submit claim", "Scanned", "desk.test", "flow.test"):
            assert here.files_with(words) == []
        assert await here.events() == []
        assert await here.routines() == []
        assert (await here.get("agent-trainer/trainings"))["items"] == []
        assert (here.common.config_dir / "hash.key").read_bytes() != key
        assert len((await here.get("user-monitor/consents"))["items"]) == 1
        assert (await here.get("user-monitor/sessions"))["items"] == []
        third = Story(monkeypatch, 3)
        await here.replay(third)
        await here.learned(1, 8)


async def test_a_learner_that_starts_anew_skips_what_was_forgotten(tmp_path, monkeypatch):
    """The topic as it was before, with the ranges: what a broker still holds until it retains."""
    async with office(tmp_path, monkeypatch) as here:
        kept, gone = Story(monkeypatch, 1), Story(monkeypatch, 2, chore="mail")
        await here.replay(kept)
        session = await here.replay(gone)
        await here.learned(2, 8)
        subprocess.run(["cp", "-r", str(here.common.data_dir), str(tmp_path / "copy")], check=True)
        await here.wat("forget", "--session", session)
    copy = tmp_path / "copy"
    for path in (copy / "log").glob("*"):
        if not path.name.startswith("raw-events"):
            path.unlink()
    for path in (here.common.data_dir / "log").glob("forgets*"):
        shutil.copy(path, copy / "log" / path.name)
    shutil.rmtree(copy / "artifacts" / "task-learner")
    anew = Office(tmp_path / "anew")
    shutil.move(copy, tmp_path / "anew" / "data")
    await anew.open((Room.TASK_LEARNER,))
    try:
        await anew.learned(1, 8)
        store = anew.services[Room.TASK_LEARNER].port.store
        assert gone.word not in str(store.query("SELECT * FROM actions"))
        assert gone.word not in str(await anew.routines())
        assert not [f for f in anew.files_with(gone.word) if "task" in f]
    finally:
        await anew.close()


async def test_what_fits_nothing_is_said_and_wrong_words_are_refused(tmp_path, monkeypatch):
    async with office(tmp_path, monkeypatch) as here:
        assert "nothing" in await here.wat("forget", "--app", "nobody")
        await here.wat("forget", "--session", "none", expect=1)
        await here.wat("forget", expect=2)
        await here.wat("forget", "--last", "soon", expect=2)
        await here.wat("forget", "--last", "1h", "--all", expect=2)
        answer = await here.http.post("user-monitor/forget", json={"everything": False})
        assert answer.status_code == 422
        assert (await here.http.get("task-learner/forgets/x", params={"after": "y"})).is_error


async def test_a_room_that_is_not_running_forgets_when_it_is_asked(tmp_path, monkeypatch):
    async with office(tmp_path, monkeypatch) as here:
        gone = Story(monkeypatch, 2)
        await here.replay(gone)
        await here.learned(1, 8)
    monkeypatch.setenv("WAT_DATA_DIR", str(here.common.data_dir))
    said = await here.wat("forget", "--all", "--yes")
    assert "task-learner: deleted" in said
    assert here.files_with(gone.word) == []
    assert Rooms(here.common).address(Room.TASK_LEARNER) is None


async def test_a_log_bus_reads_what_is_left(tmp_path, monkeypatch):
    async with office(tmp_path, monkeypatch) as here:
        story = Story(monkeypatch, 1)
        session = await here.replay(story)
        bus = open_bus(here.common.bus, tmp_path, SystemClock())
        tail = await bus.subscribe("tail", [Topic.RAW_EVENTS])
        await here.wat("forget", "--session", session)
        assert await tail.poll(500, 0.5) == []
        assert await here.events(bus) == []
        await bus.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_an_agent_is_trained_again_without_what_was_forgotten(tmp_path, monkeypatch):
    with gzip.open(ROOT / "demo" / "recorded.jsonl.gz", "rt") as file:
        content = file.read()
    lines = [json.loads(line) for line in content.splitlines()]
    events = [line for line in lines if "action" in line]
    first = events[len(events) * 3 // 4]["seq"]
    kept = [e for e in events if e["seq"] < first]
    screens = {e.get("snapshot") for e in kept}
    kept += [line for line in lines if "action" not in line and line["digest"] in screens]
    values = {_value(e) for e in events if e["seq"] >= first}
    gone = sorted(
        v for v in values if len(v) >= 8 and v not in json.dumps(kept, ensure_ascii=False)
    )
    assert gone
    monkeypatch.setenv("WAT_AGENT_TRAINER_NUM_VARIANTS", "2")
    async with office(tmp_path, monkeypatch, works=True) as here:
        started = await here.post("user-monitor/replay", {"content": content})
        await here.until(lambda: here._published(started["id"], len(events)))

        async def ready(other_than=None):
            cards = (await here.get("agent-trainer/models"))["items"]
            assert not [c["reason"] for c in cards if c["status"] == "failed"]
            found = [c for c in cards if c["status"] == "ready" and c["id"] != other_than]
            return found[0] if found else None

        async def proposed():
            found = await here.routines()
            return [r for r in found if r["status"] == "proposed" and r["support"] >= 5]

        [routine] = await here.until(proposed)
        await here.post(f"task-learner/routines/{routine['routine_id']}/approve")
        card = await here.until(ready, 400)
        assert any(here.files_with(text) for text in gone)
        place = {
            "source": "replay", "session": started["session"],
            "first_seq": first, "last_seq": events[-1]["seq"],
        }  # fmt: skip
        deleted = await here.forget(application="none", places=[place])
        assert deleted[Room.AGENT_TRAINER]["models"] == 1
        assert {text: here.files_with(text) for text in gone if here.files_with(text)} == {}
        again = await here.until(lambda: ready(card["id"]), 400)
        assert again["routine_revision"] > card["routine_revision"]
        module = tmp_path / "data" / "artifacts" / Room.AGENT_RUNNER / again["artifact"][:2]
        assert (module / again["artifact"]).exists()
        assert not (module.parent / card["artifact"][:2] / card["artifact"]).exists()
        await here.forget(everything=True)
        assert list((tmp_path / "data" / "artifacts").glob("*/??/*")) == []
        assert (await here.get("agent-trainer/models"))["items"] == []
        assert (await here.get("agent-runner/models"))["items"] == []


def _value(event) -> str:
    return (event.get("value") or {}).get("clear") or ""
