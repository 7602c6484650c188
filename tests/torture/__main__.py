"""`make torture`: kill -9 at random while events flow; compare with an undisturbed `wat up`.

Prints the counts as one JSON object; exit 1 on any mismatch. What is killed, when, and at which
failpoint follows from --seed as far as the machine allows.
"""

import argparse
import asyncio
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from demo.app import App
from shared.signing import SigningKey
from shared.topics import Room
from tests.kafka.broker import Broker
from tests.torture.course import Course, duplicates
from tests.torture.fleet import Fleet, FleetError, Unit
from tests.torture.logs import DESK_SEED, NUM_EVENTS, record_desk, write_log

ROOT = Path(__file__).parents[2]
OFFERED_PER_S = 1_300
_UP_SHARE = 0.2  # of the kills hit `wat up`, the others `wat serve`
_FAILPOINT_SHARE = 0.25
_FLOW, _FLOW_WAIT_S = 1_000, 10.0
_BACKLOG = 10_000  # events that may wait for a learner before more are fed in
_STARTING_SHARE = 0.2  # chance to kill a process that is not ready, each time that is looked at
_DESK = "desk.jsonl"
_TRAINER_KILLS, _RUNNER_KILLS = 2, 3  # of one job: the fifth crash is its last by design
_NUM_DRY, _NUM_ORDERS = 3, 5
_DRAIN_S = 60.0  # without any event handled
_WEIGHTS = {
    Room.USER_MONITOR: 4, Room.TASK_LEARNER: 4, Room.AGENT_TRAINER: 2, Room.AGENT_RUNNER: 2,
}  # fmt: skip


def say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


class Torture:
    """One course under kill."""

    def __init__(self, course: Course, num_kills: int, every_s: float, rng: random.Random) -> None:
        self.course = course
        self.fleet = course.fleet
        self.num_kills = num_kills
        self.every_s = every_s
        self.rng = rng
        self.deadline_s = float("inf")
        self.spared: dict[Room, int] = {}  # room -> kills it may still take
        self.flow_s = 0.0
        self.num_flowed = 0
        self._numbers = iter(range(1, 1_000_000))
        self._flowing = True
        self._worked = False  # kills go on until then
        self._handled = 0  # at the last kill

    async def main(self) -> dict[str, Any]:
        """Feed, kill, train and run at once; return what the agents did."""
        feeding = asyncio.create_task(self._feed())
        working = asyncio.create_task(self._work())
        killing = asyncio.create_task(self._kill_all())
        try:
            tasks = (feeding, working, killing)
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            killing.cancel()
            self._flowing = False
            await feeding
        return working.result()

    async def _feed(self) -> None:
        """Offer a steady flow while processes are killed."""
        began = time.monotonic()
        before = self.course.num_handled()
        while self._flowing:
            due_s = began + len(self.course.fed) * NUM_EVENTS / OFFERED_PER_S
            if (wait_s := due_s - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            name = await asyncio.to_thread(write_log, self.course.logs, next(self._numbers))
            while self._flowing and self.course.num_fed > self.course.num_handled() + _BACKLOG:
                await asyncio.sleep(0.2)
            await self.course.feed(name)
        self.flow_s = time.monotonic() - began
        self.num_flowed = self.course.num_handled() - before

    async def _kill_all(self) -> None:
        await self._kill(round(self.num_kills * _UP_SHARE))
        await self.fleet.stop()
        await self.fleet.start(one_process=False)
        await self._kill(self.num_kills)
        self._flowing = False

    async def _kill(self, until: int) -> None:
        while time.monotonic() < self.deadline_s and (
            self.fleet.num_kills < until or (until == self.num_kills and not self._worked)
        ):
            await asyncio.sleep(self.rng.uniform(0.1, 2 * self.every_s - 0.1))
            self.fleet.check()
            weights = [self._weight(unit) for unit in self.fleet.units]
            if not any(weights):
                continue
            unit = self.rng.choices(self.fleet.units, weights)[0]
            await self._flowed()
            while self.rng.random() > _STARTING_SHARE and not await self.fleet.is_ready(unit):
                await asyncio.sleep(0.2)
            planned = len(self.fleet.by_failpoint) + sum(
                bool(u.armed or u.failpoint) for u in self.fleet.units
            )
            if planned < _FAILPOINT_SHARE * (self.fleet.num_kills + 4):
                self.fleet.arm(unit, self.rng)
            if unit.kill():
                for room in unit.rooms:
                    if room in self.spared:
                        self.spared[room] -= 2 if unit.failpoint else 1
                if self.fleet.num_kills % 10 == 0:
                    say(f"{self.fleet.num_kills} kills, {len(self.fleet.by_failpoint)} at "
                        f"failpoints, {self.course.num_handled()} handled of "
                        f"{self.course.num_fed}")  # fmt: skip

    async def _flowed(self) -> None:
        """Wait until a second's events have been handled since the last kill, but not for long."""
        deadline = time.monotonic() + _FLOW_WAIT_S
        while self.course.num_handled() < self._handled + _FLOW and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        self._handled = self.course.num_handled()

    def _weight(self, unit: Unit) -> int:
        if unit.pid is None or unit.waits_for_failpoint:
            return 0
        if any(self.spared.get(room, 1) <= 0 for room in unit.rooms):
            return 0
        return sum(_WEIGHTS[room] for room in unit.rooms)

    async def _work(self) -> dict[str, Any]:
        """Once a quarter of the kills are done: approve, train, dry runs, orders."""
        while self.fleet.num_kills < self.num_kills // 4 and self._flowing:
            await asyncio.sleep(0.2)
        try:
            return await work(self.course, self.spared)
        finally:
            self._worked = True


async def work(course: Course, spared: dict[Room, int]) -> dict[str, Any]:
    """Approve the desk's routine, train, and let the agent act; return what came of it."""
    while (routine := await course.learned("desk")) is None:
        await asyncio.sleep(0.5)
    spared[Room.AGENT_TRAINER] = _TRAINER_KILLS
    card = await course.trained(routine["routine_id"])
    del spared[Room.AGENT_TRAINER]
    say(f"trained in {course.trained_s:.0f} s")
    port = json.loads((course.logs / "desk.port").read_text())
    ends: Counter[str] = Counter()
    async with one_desk(port) as app:
        dry = []
        for record in app.records(_NUM_DRY):
            spared[Room.AGENT_RUNNER] = _RUNNER_KILLS
            done = await course.run(routine, record, dry=True)
            dry.append((done["state"], done["reason"], done["num_steps"]))
        if app.orders():
            raise FleetError("a dry run saved something")
        for record in app.records(_NUM_ORDERS):
            spared[Room.AGENT_RUNNER] = _RUNNER_KILLS
            ends.update(await course.order(app, routine, record))
        spared.pop(Room.AGENT_RUNNER, None)
        orders = sorted(map(str, app.orders()))
        wanted = sorted(str(app.expected(record)) for record in app.records(_NUM_ORDERS))
    models = {
        c["subject_id"]: (c["id"], await course.module(c["id"]))
        for c in await course.fleet.all(Room.AGENT_TRAINER, "models")
    }
    return {
        "model": card["id"], "models": models, "dry": dry, "ends": dict(ends),
        "orders_right": orders == wanted, "num_orders": len(orders),
    }  # fmt: skip


async def undisturbed(calm: Course, course: Course) -> tuple[dict[str, Any], dict[str, Any]]:
    """Feed all that `course` was fed; return what the agents did, and the routines."""
    await calm.begin(one_process=True)
    await calm.feed(_DESK)
    working = asyncio.create_task(work(calm, {}))
    try:
        for log in course.fed[1:]:
            while calm.num_fed > calm.num_handled() + _BACKLOG:
                await asyncio.sleep(0.2)
            await calm.feed(log.name)
        came = await working
        await calm.drained(_DRAIN_S)
        return came, await calm.routines()
    finally:
        working.cancel()


@asynccontextmanager
async def one_desk(port: int) -> AsyncIterator[App]:
    """Serve the order desk where it was recorded, with an empty database."""
    with App(DESK_SEED, "act", port=port) as app:
        yield app


async def torture(options: argparse.Namespace, folder: Path, broker: Broker | None) -> int:
    """Run both courses and compare them; return the exit code."""
    rng = random.Random(options.seed)  # noqa: S311
    logs = folder / "logs"
    logs.mkdir(parents=True)
    desk = ROOT / "var" / f"torture-desk-{DESK_SEED}.jsonl"
    port = await record_desk(desk, folder / "recorded")
    (logs / _DESK).write_text(desk.read_text().partition("\n")[2])
    (logs / "desk.port").write_text(json.dumps(port))
    say(f"the desk's log: {desk.stat().st_size // 1024} KiB, port {port}")
    settings = {
        "WAT_USER_MONITOR_REPLAY_DIR": str(logs), "WAT_AGENT_TRAINER_NUM_VARIANTS": "8",
        **({"WAT_BUS_URL": f"kafka://{broker.address}"} if broker else {}),
    }  # fmt: skip
    SigningKey.load_or_create(folder / "keys")
    for name in ("killed", "calm"):
        shutil.copytree(folder / "keys", folder / name / "data" / "keys")
    began = time.monotonic()
    course = Course(Fleet(folder / "killed", settings), logs)
    calm = Course(Fleet(folder / "calm", {**settings, "WAT_BUS_URL": ""}), logs)
    try:
        await course.begin(one_process=True)
        await course.feed(_DESK)
        run = Torture(course, options.kills, options.every, rng)
        run.deadline_s = began + options.limit
        came = await run.main()
        killed_s = time.monotonic() - began
        say("the last kill is done; draining")
        drain_began = time.monotonic()
        await course.drained(_DRAIN_S)
        drain_s = time.monotonic() - drain_began
        topic, handled = await course.on_topic(), course.handled()
        routines = await course.routines()
        starts = sum(u.num_starts for u in (*course.fleet.units, *course.fleet.gone))
    finally:
        await course.fleet.close()
    cpu_s = _children_cpu_s()
    say("the same once more, undisturbed")
    try:
        calm_came, calm_routines = await undisturbed(calm, course)
    finally:
        await calm.fleet.close()

    acknowledged = {(f.user, f.session, seq) for f in course.fed for seq in range(f.num_events)}
    first = list(dict.fromkeys(topic))
    checks = {
        "every acknowledged event is on the topic": set(topic) == acknowledged,
        "the learner handled every acknowledged event": set(handled) == acknowledged,
        "the learner handled each once": duplicates(handled) == 0,
        "in order per key": _by_user(handled) == _by_user(first) and _ascending(handled),
        "routines as undisturbed": routines == calm_routines,
        "models as undisturbed": came["models"] == calm_came["models"],
        "dry runs as undisturbed": came["dry"] == calm_came["dry"],
        "every record ordered once": came["orders_right"] and calm_came["orders_right"],
    }
    by_failpoint = course.fleet.by_failpoint
    if broker is None:
        checks["each once on the topic"] = duplicates(topic) == 0
    figures = {
        "bus": options.bus, "seed": options.seed, "kills": course.fleet.num_kills,
        "kills_at_failpoints": len(by_failpoint), "failpoints": dict(Counter(by_failpoint)),
        "starts": starts, "killed_s": round(killed_s), "flow_s": round(run.flow_s),
        "handled_per_s_under_kill": round(run.num_flowed / max(run.flow_s, 1)),
        "cpu_s": round(cpu_s),
        "drain_s": round(drain_s), "acknowledged": len(acknowledged), "handled": len(handled),
        "on_topic": len(topic), "doubled_on_topic": duplicates(topic),
        "people": len(course.fed), "routines": len(routines),
        "trained_s": round(course.trained_s), "orders": came["num_orders"],
        "run_ends": came["ends"], "load_average": os.getloadavg()[0],
        "checks": checks,
    }  # fmt: skip
    _show_differences(folder, routines, calm_routines, came, calm_came)
    (ROOT / "var" / f"torture-{options.bus}.json").write_text(json.dumps(figures, indent=1))
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    return 0 if all(checks.values()) else 1


def _children_cpu_s() -> float:
    """Return what the services have used, starts included, but for browsers they left behind."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _by_user(rows: list[tuple[str, str, int]]) -> dict[str, list[tuple[str, int]]]:
    found: dict[str, list[tuple[str, int]]] = {}
    for user, session, seq in rows:
        found.setdefault(user, []).append((session, seq))
    return found


def _ascending(rows: list[tuple[str, str, int]]) -> bool:
    last: dict[tuple[str, str], int] = {}
    for user, session, seq in rows:
        if seq <= last.get((user, session), -1):
            return False
        last[user, session] = seq
    return True


def _show_differences(
    folder: Path, ours: dict[str, Any], calm: dict[str, Any], came: Any, calm_came: Any
) -> None:
    for routine_id in sorted(set(ours) | set(calm)):
        a, b = ours.get(routine_id), calm.get(routine_id)
        if a != b:
            fields = "missing" if a is None or b is None else [k for k in a if a[k] != b.get(k)]
            user = (a or b)["user_id"]
            say(f"routine {routine_id} of {user} differs: {fields}")
    (folder / "came.json").write_text(
        json.dumps([ours, calm, came, calm_came], indent=1, default=str)
    )


def main() -> int:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--bus", choices=("log", "kafka"), default="log")
    parser.add_argument("--every", type=float, default=1.5, help="mean seconds between kills")
    parser.add_argument("--limit", type=float, default=1e9, help="seconds of killing at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=ROOT / "var" / "torture")
    options = parser.parse_args()
    os.umask(0o077)  # a data folder that others can open is refused
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the services end, too
    if options.bus == "log":
        return asyncio.run(torture(options, options.folder, None))
    (options.folder / "broker").mkdir()
    broker = Broker(options.folder / "broker")
    broker.start()
    try:
        return asyncio.run(torture(options, options.folder, broker))
    finally:
        broker.stop()


if __name__ == "__main__":
    sys.exit(main())
