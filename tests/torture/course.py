"""What is asked of the services, killed or not: logs fed in, a routine approved, trained, run."""

import asyncio
import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from demo.app import App
from demo.stack import values_of
from shared.bus import open_bus
from shared.clock import SystemClock
from shared.proof import parse
from shared.schemas import derive_id
from shared.topics import OWNERS, Room, Topic
from shared.wasm import DATA
from tests.torture.fleet import Fleet, FleetError

__all__ = ["ALL_VALUES", "Course", "Fed", "duplicates"]

ALL_VALUES = {"application": "*", "level": "values", "keep": ["email"]}
_DESK_SUPPORT = 6
_ENDED = frozenset({"done", "stopped", "failed", "cancelled", "in-doubt"})
_TRIES = 8

_JOURNAL = """
CREATE TABLE IF NOT EXISTS journal(
  n INTEGER PRIMARY KEY AUTOINCREMENT, user_id TEXT, session TEXT, seq INTEGER);
CREATE TRIGGER IF NOT EXISTS handled AFTER INSERT ON seen BEGIN
  INSERT INTO journal(user_id, session, seq) VALUES (new.user_id, new.session, new.seq); END;
"""
"""Every event the learner takes in moves its high-water mark, in the transaction of its effects."""


@dataclass(frozen=True)
class Fed:
    """One log that was fed in, acknowledged."""

    name: str
    user: str
    session: str
    num_events: int


@dataclass
class Course:
    """One way through the pipeline."""

    fleet: Fleet
    logs: Path
    fed: list[Fed] = field(default_factory=list)
    trained_s: float = 0.0

    async def begin(self, *, one_process: bool) -> None:
        """Start, allow all to be replayed, and keep a journal of what the learner handles."""
        await self.fleet.start(one_process=one_process)
        await self.fleet.ask("POST", Room.USER_MONITOR, "consents", ALL_VALUES)
        await self.fleet.stop()
        with apsw.Connection(str(self.learner_store)) as connection:
            connection.execute(_JOURNAL)
        await self.fleet.start(one_process=one_process)

    @property
    def learner_store(self) -> Path:
        """Return the learner's file."""
        data = self.fleet.folder / "data"
        if self.fleet.environment.get("WAT_BUS_URL", "").startswith("kafka:"):
            return data / "kafka" / f"{Room.TASK_LEARNER}.sqlite3"
        return data / "log" / f"{OWNERS[Room.TASK_LEARNER][0]}.sqlite3"

    async def feed(self, name: str) -> None:
        """Feed in a log; it is acknowledged on return."""
        data = (self.logs / name).read_bytes()
        user = name.partition(".")[0]
        session = derive_id(hashlib.sha256(data).hexdigest(), user)
        asked = {"path": name, "as_user": user}
        await self.fleet.ask("POST", Room.USER_MONITOR, "replay", asked)
        num_events = sum(b'"digest"' not in line[:12] for line in data.splitlines())
        self.fed.append(Fed(name, user, session, num_events))

    @property
    def num_fed(self) -> int:
        """Return how many events were acknowledged."""
        return sum(log.num_events for log in self.fed)

    def handled(self) -> list[tuple[str, str, int]]:
        """Return user, session and seq of what the learner took in, in order."""
        flags = apsw.SQLITE_OPEN_READONLY
        with apsw.Connection(str(self.learner_store), flags=flags) as connection:
            rows = connection.execute("SELECT user_id, session, seq FROM journal ORDER BY n")
            return [(str(u), str(s), int(q)) for u, s, q in rows]

    def num_handled(self) -> int:
        """Return how much the learner took in."""
        flags = apsw.SQLITE_OPEN_READONLY
        with apsw.Connection(str(self.learner_store), flags=flags) as connection:
            connection.set_busy_timeout(5_000)
            # Nothing is ever deleted from it, and counting a million rows would be a load itself.
            return int(connection.execute("SELECT max(n) FROM journal").fetchall()[0][0] or 0)

    async def drained(self, timeout_s: float) -> None:
        """Wait until the learner has taken in as much as was acknowledged.

        Raises FleetError where it takes in nothing for `timeout_s`.
        """
        deadline, before = time.monotonic() + timeout_s, -1
        while (num := self.num_handled()) < self.num_fed:
            self.fleet.check()
            if num > before:
                deadline, before = time.monotonic() + timeout_s, num
            if time.monotonic() > deadline:
                raise FleetError(
                    f"the learner handled {num} of {self.num_fed} events; {await self.missing()}"
                )
            await asyncio.sleep(0.5)

    async def missing(self) -> str:
        """Say which logs have not arrived in full."""
        sessions = {
            s["session"]: s["num_events"]
            for s in await self.fleet.all(Room.USER_MONITOR, "sessions")
        }
        short = [f"{f.name}: {sessions.get(f.session, 0)} of {f.num_events}" for f in self.fed]
        return "; ".join(text for text, f in zip(short, self.fed, strict=True)
                         if sessions.get(f.session) != f.num_events)  # fmt: skip

    async def on_topic(self) -> list[tuple[str, str, int]]:
        """Return user, session and seq of what stands on raw-events, in order per partition."""
        data = self.fleet.folder / "data"
        url = self.fleet.environment.get("WAT_BUS_URL") or f"log:{data / 'log'}"
        bus = open_bus(url, self.fleet.folder / "reader", SystemClock())
        found = []
        try:
            for partition, (at, end) in (await bus.bounds(Topic.RAW_EVENTS)).items():
                while at < end:
                    messages = await bus.read(Topic.RAW_EVENTS, partition, at, 5_000)
                    if not messages:
                        break
                    for message in messages:
                        event = json.loads(message.value)
                        found.append((event["user_id"], event["session"], event["seq"]))
                    at = messages[-1].offset + 1
        finally:
            await bus.close()
        return found

    # ---- what is learned, trained and run ----------------------------------------------------

    async def routines(self) -> dict[str, dict[str, Any]]:
        """Return every routine as REST shows it, without what names the moment."""
        shown = {}
        for line in await self.fleet.all(Room.TASK_LEARNER, "routines"):
            routine = await self.fleet.ask(
                "GET", Room.TASK_LEARNER, f"routines/{line['routine_id']}"
            )
            shown[line["routine_id"]] = {
                k: v for k, v in routine.items() if k not in ("id", "time_ms")
            }
        return shown

    async def learned(self, user: str) -> dict[str, Any] | None:
        """Return the best routine of a user, once it is proposed."""
        for line in await self.fleet.all(Room.TASK_LEARNER, "routines"):
            wanted = line["status"] in ("proposed", "approved")
            if not wanted or line["support"] < _DESK_SUPPORT:
                continue
            path = f"routines/{line['routine_id']}"
            routine = dict(await self.fleet.ask("GET", Room.TASK_LEARNER, path))
            if routine["user_id"] == user:
                return routine
        return None

    async def trained(self, routine_id: str, timeout_s: float = 600) -> dict[str, Any]:
        """Approve a routine; wait for its agent and for the runner's verdict. Raises FleetError."""
        began = time.monotonic()
        await self.fleet.ask("POST", Room.TASK_LEARNER, f"routines/{routine_id}/approve")
        while time.monotonic() < began + timeout_s:
            self.fleet.check()
            for agent in await self.fleet.all(Room.AGENT_RUNNER, "models"):
                if agent["card"]["subject_id"] == routine_id:
                    if agent["verdict"] != "ok" or agent["card"]["status"] != "ready":
                        raise FleetError(f"no agent: {agent}")
                    self.trained_s = time.monotonic() - began
                    return dict(agent["card"])
            await asyncio.sleep(0.5)
        trainings = await self.fleet.all(Room.AGENT_TRAINER, "trainings")
        raise FleetError(f"no agent within {timeout_s:.0f} s: {trainings}")

    async def module(self, model_id: str) -> str:
        """Return a digest of a module, of all but the revision of the sources it was made by."""
        data = await self.fleet.ask("GET", Room.AGENT_TRAINER, f"models/{model_id}/module")
        parsed = parse(data)
        manifest = parsed.manifest.model_copy(update={"git_revision": ""})
        weights = next(s.payload for s in parsed.sections if s.id == DATA)
        return hashlib.sha256(manifest.model_dump_json().encode() + weights).hexdigest()

    async def run(self, routine: dict[str, Any], record: dict[str, str], *, dry: bool) -> Any:
        """Do one record; return it as it ended."""
        body = {
            "routine_id": routine["routine_id"], "records": [values_of(routine, record)],
            "dry_run": dry, **({} if dry else {"approve": "once"}),
        }  # fmt: skip
        before = {r["run_id"] for r in await self.fleet.all(Room.AGENT_RUNNER, "runs")}
        run_id = await self._asked(body, before)
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            shown = await self.fleet.ask("GET", Room.AGENT_RUNNER, f"runs/{run_id}")
            if shown["state"] in _ENDED:
                return shown["records"]["items"][0]
            await asyncio.sleep(0.3)
        raise FleetError(f"run {run_id} did not end: {shown}")

    async def _asked(self, body: dict[str, Any], before: set[str]) -> str:
        """Ask for a run once: a lost answer must not make two of it."""
        while True:
            try:
                answer = await self.fleet.once("POST", Room.AGENT_RUNNER, "runs", body)
                return str(answer["run_id"])
            except OSError:
                now = {r["run_id"] for r in await self.fleet.all(Room.AGENT_RUNNER, "runs")}
                if fresh := now - before:
                    return fresh.pop()

    async def order(self, app: App, routine: dict[str, Any], record: dict[str, str]) -> list[str]:
        """Have one record done as a careful user would: asked again only where it was not done.

        Returns how each try ended. Raises FleetError where the application and the product differ.
        """
        ends: list[str] = []
        for _ in range(_TRIES):
            done = await self.run(routine, record, dry=False)
            ends.append(done["state"])
            saved = app.orders().count(app.expected(record))
            if saved > 1 or (done["state"] == "done" and saved != 1):
                raise FleetError(f"{saved} orders for a record that ended {done['state']}")
            if saved:
                return ends
        raise FleetError(f"not done after {_TRIES} tries: {ends} {done}")


def duplicates(rows: Sequence[tuple[str, str, int]]) -> int:
    """Count rows that were there before."""
    return sum(count - 1 for count in Counter(rows).values())
