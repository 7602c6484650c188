"""Drive a recorded log through the running stack to a run in the runner's container.

`up_check.py LOG.jsonl.gz COMPOSE…`: COMPOSE is the compose command of the stack. On the way one
process of each service is killed with -9. Holds if every event stands on its topic once, one agent
was trained, the application holds the orders that were asked for and no other, and the example of a
consumer reads that they are done. Needs Python alone; says what it measures, and ends with 1 at the
first thing that does not hold.
"""

import gzip
import http.client
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

PORTS = {"user-monitor": 8761, "task-learner": 8762, "agent-trainer": 8763, "agent-runner": 8764}
NUM_RECORDS = 5
MIN_SUPPORT = 9
"""Of the twelve chores in the log."""

_KILL = """for folder in /proc/[0-9]*; do
  read -r name < "$folder/comm" && [ "$name" = "$0" ] && kill -9 "${folder#/proc/}"
done 2>/dev/null"""
_ORDERS = "/tmp/orders.json"  # noqa: S108 — in the desk's container
_ENDED = ("done", "stopped", "failed", "cancelled", "in-doubt")


class CheckError(Exception):
    """Something does not hold; the message says what."""


class AwayError(CheckError):
    """A room or the broker is away for now: a busy machine's broker fences itself."""


class Stack:
    """The stack of one compose command, and its rooms over REST."""

    def __init__(self, compose: list[str]) -> None:
        self.command = compose
        self._token = ""

    def compose(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Run a compose command and return its output. Raises CheckError."""
        done = subprocess.run(  # noqa: S603
            [*self.command, *arguments], input=stdin, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise CheckError(f"compose {' '.join(arguments)}: {done.stderr.strip()[-800:]}")
        return done.stdout

    def ask(self, room: str, method: str, path: str, body: object = None) -> Any:
        """Ask a room; return the answer's JSON. Raises CheckError with the room's own words."""
        self._token = (
            self._token or self.compose("exec", "-T", room, "cat", "/config/token").strip()
        )
        request = urllib.request.Request(
            f"http://127.0.0.1:{PORTS[room]}/v1/{room}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                content = answer.read()
        except urllib.error.HTTPError as error:
            said = error.read().decode()[:400]
            kind = AwayError if error.code == 503 else CheckError
            raise kind(f"{method} {room}/{path}: {said}") from error
        return json.loads(content) if content else None

    def ask_again(self, room: str, method: str, path: str) -> Any:
        """Ask for what may be asked for twice, until the room and its broker can answer."""

        def answered() -> Any:
            try:
                return self.ask(room, method, path)
            except AwayError as error:
                say(f"{error}: again")
                return None

        return until(f"{room} answered {method} {path}", answered, 120)

    def all(self, room: str, path: str) -> list[dict[str, Any]]:
        """Return every item of a paged list."""
        items: list[dict[str, Any]] = []
        more = ""
        while True:
            page = self.ask(room, "GET", f"{path}?limit=500{more}")
            items += page["items"]
            if page.get("next") is None:
                return items
            more = f"&cursor={page['next']}"

    def is_ready(self, room: str) -> bool:
        """Tell whether the room answers that it is."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORTS[room]}/readyz", timeout=5):
                return True
        except (OSError, http.client.HTTPException):
            return False

    def kill(self, service: str, process: str = "wat") -> None:
        """Kill the service's process with -9 and wait until its container runs it again."""
        container = self.compose("ps", "-q", service).strip()
        before = _inspect(container, "{{.RestartCount}}")
        self.compose("exec", "-T", service, "bash", "-c", _KILL, process, check=False)
        began = time.monotonic()

        def again() -> bool | None:
            if _inspect(container, "{{.RestartCount}}") == before:
                return None
            if service in PORTS:
                return self.is_ready(service) or None
            return _inspect(container, "{{.State.Health.Status}}") == "healthy" or None

        until(f"{service} was ready again", again, 120)
        say(f"{service}: killed with -9, ready again after {time.monotonic() - began:.1f} s")


def _inspect(container: str, what: str) -> str:
    command = ["docker", "inspect", "-f", what, container]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.strip()


def until(what: str, found: Callable[[], Any], timeout_s: float) -> Any:
    """Call `found` until it gives something. Raises CheckError."""
    deadline = time.monotonic() + timeout_s
    while (value := found()) is None:
        if time.monotonic() > deadline:
            raise CheckError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(0.2)
    return value


def say(text: str) -> None:
    """Tell the person how it goes."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def start(stack: Stack) -> None:
    """Start broker, then rooms, and say how long each took to be ready after the broker was."""
    began = time.monotonic()
    stack.compose("up", "-d", "--no-build", "--wait", "kafka")
    healthy = time.monotonic()
    say(f"kafka: ready after {healthy - began:.1f} s")
    with subprocess.Popen(  # noqa: S603
        [*stack.command, "up", "-d", "--no-build"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as up:  # fmt: skip
        waiting = list(PORTS)
        while waiting:
            for room in [room for room in waiting if stack.is_ready(room)]:
                waiting.remove(room)
                say(f"{room}: ready {time.monotonic() - healthy:.1f} s after the broker")
            if time.monotonic() - healthy > 180 or up.poll():
                raise CheckError(
                    f"not ready: {', '.join(waiting)}; {(up.stderr or sys.stdin).read()}"
                )
            time.sleep(0.05)
        up.wait()


def _said(process: subprocess.Popen[str]) -> str:
    process.kill()
    return process.communicate()[1].strip()[-800:]


def guard(stack: Stack) -> None:
    """Try, from inside a container, what the broker must refuse."""
    attempts = Path(__file__).with_name("guard.py").read_text()
    refused = stack.compose("exec", "-T", "task-learner", "python", "-", stdin=attempts)
    say(f"kafka: refused {refused.strip()}")


def watch(stack: Stack, log: str) -> None:
    """Replay the log; kill user-monitor in the middle of it, and replay it again."""
    num_events = sum("seq" in json.loads(line) for line in log.splitlines())
    consent = {"source": "replay", "level": "values", "keep": ["email"]}
    stack.ask("user-monitor", "POST", "consents", consent)
    replay = {"content": log, "format": "jsonl"}
    stack.ask("user-monitor", "POST", "replay", {**replay, "speed": 5.0})
    until("some events on the topic", lambda: len(_events(stack)) > 40 or None, 60)
    stack.kill("user-monitor")
    half = len(_events(stack))
    stack.ask("user-monitor", "POST", "replay", replay)

    def all_there() -> list[int] | None:
        seqs = [event["seq"] for event in _events(stack)]
        return seqs if sorted(set(seqs)) == list(range(num_events)) else None

    seqs = until(f"all {num_events} events of the log are on the topic", all_there, 120)
    twice = len(seqs) - len(set(seqs))
    say(f"user-monitor: {half} events at the kill, then all {num_events}, {twice} of them twice")


def _events(stack: Stack) -> list[dict[str, Any]]:
    return stack.all("user-monitor", "events")


def learn(stack: Stack) -> dict[str, Any]:
    """Kill task-learner, then wait for the routine and approve it."""
    stack.kill("task-learner")

    def proposed() -> dict[str, Any] | None:
        for line in stack.all("task-learner", "routines"):
            if line["status"] == "proposed" and line["support"] >= MIN_SUPPORT:
                return line
        return None

    line = until("a routine was proposed", proposed, 120)
    while (later := proposed()) != line:  # still reading
        line = later or line
        time.sleep(2)
    approve = f"routines/{line['routine_id']}/approve"
    routine = stack.ask_again("task-learner", "POST", approve)
    say(f"task-learner: “{routine['name']}”, seen {routine['support']} times; approved")
    return dict(routine)


def train(stack: Stack, routine: dict[str, Any]) -> None:
    """Kill agent-trainer while it trains, then wait for the one agent and the runner's verdict."""

    def trainings(*states: str) -> list[dict[str, Any]]:
        return [t for t in stack.all("agent-trainer", "trainings") if t["state"] in states]

    until("the training began", lambda: trainings("running") or None, 60)
    time.sleep(3)  # into the training
    stack.kill("agent-trainer")
    began = time.monotonic()
    until("the training ended", lambda: None if trainings("asked", "running") else True, 600)
    cards = [
        c for c in stack.all("agent-trainer", "models")
        if c["subject_id"] == routine["routine_id"]
    ]  # fmt: skip
    if [c["status"] for c in cards] != ["ready"]:
        raise CheckError(f"one agent that is ready was wanted: {cards}")
    took_s = time.monotonic() - began
    say(f"agent-trainer: one agent, {cards[0]['size_bytes']} bytes, {took_s:.0f} s")

    def verdict() -> dict[str, Any] | None:
        agents = stack.all("agent-runner", "models")
        return next((a for a in agents if a["card"]["id"] == cards[0]["id"]), None)

    agent = until("the runner took the agent", verdict, 30)
    if agent["verdict"] != "ok":
        raise CheckError(f"the runner refuses the agent: {agent['reason']}")


def act(stack: Stack, routine: dict[str, Any]) -> None:
    """Ask for a run, kill agent-runner, approve the run, and read the orders back from the desk."""
    text = stack.compose(
        "exec", "-T", "desk", "python", "/desk/desk.py", "work", str(NUM_RECORDS),
        stdin=json.dumps(routine),
    )  # fmt: skip
    work = json.loads(text)
    asked = {"routine_id": routine["routine_id"], "records": work["rows"]}
    run_id = stack.ask("agent-runner", "POST", "runs", asked)["run_id"]
    stack.kill("agent-runner")
    stack.compose("restart", "desk")  # the runner's network is a new one
    until("the desk is open", lambda: _orders(stack) == [] or None, 30)
    began = time.monotonic()
    stack.ask("agent-runner", "POST", f"runs/{run_id}/approve", {"scope": "once"})

    def ended() -> dict[str, Any] | None:
        run = stack.ask("agent-runner", "GET", f"runs/{run_id}?limit=500")
        return run if run["state"] in _ENDED else None

    run = until("the run ended", ended, 300)
    time.sleep(0.5)  # the desk writes down what it has several times a second
    orders = _orders(stack)
    states = [(r["state"], r["reason"]) for r in run["records"]["items"]]
    if sorted(orders, key=str) != sorted(work["orders"], key=str):
        raise CheckError(f"records: {states}; the desk has {orders}, wanted {work['orders']}")
    say(
        f"agent-runner: {len(orders)} of {NUM_RECORDS} orders read back from the application, none "
        f"wrong, {(time.monotonic() - began) / NUM_RECORDS:.1f} s each"
    )


def follow(stack: Stack) -> None:
    """Read how the records ended as the documentation's consumer does, as the user `downstream`."""
    example = (Path(__file__).parents[2] / "docs/examples/follow_runs.py").read_text()
    login = ("kafka:9092", "downstream", "/config/kafka/downstream")
    said = stack.compose(
        "exec", "-T", "task-learner", "timeout", "30", "python", "-", *login,
        stdin=example, check=False,
    )  # fmt: skip
    records = {tuple(line.split()[:2]) for line in said.splitlines() if line.endswith(" done")}
    if len(records) != NUM_RECORDS:
        raise CheckError(f"the example consumer read {said!r}, wanted {NUM_RECORDS} records done")
    say(f"downstream: {NUM_RECORDS} records done, read by the example consumer")


def _orders(stack: Stack) -> list[dict[str, str]] | None:
    text = stack.compose("exec", "-T", "desk", "cat", _ORDERS, check=False)
    return json.loads(text) if text else None


def main() -> int:
    """Return the exit status."""
    log = gzip.decompress(Path(sys.argv[1]).read_bytes()).decode()
    stack = Stack(sys.argv[2:])
    try:
        start(stack)
        guard(stack)
        watch(stack, log)
        routine = learn(stack)
        stack.kill("kafka", "java")
        train(stack, routine)
        act(stack, routine)
        follow(stack)
    except (CheckError, OSError) as error:
        say(f"does not hold: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
