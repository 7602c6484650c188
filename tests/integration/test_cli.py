"""`wat` as a person uses it: real processes on a temporary data folder."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.__main__ import app
from services.client import Rooms
from shared.bus import find_owner
from shared.settings import CommonSettings
from shared.topics import Room, Topic

ROOT = Path(__file__).resolve().parents[2]
LOG = ROOT / "tests" / "data" / "desk_log.jsonl"
WAIT_S = 300


class Person:
    """Somebody with folders of their own who types commands."""

    def __init__(self, home: Path) -> None:
        self.common = CommonSettings(data_dir=home / "data", config_dir=home / "config")
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("WAT_")},
            "WAT_DATA_DIR": str(home / "data"),
            "WAT_CONFIG_DIR": str(home / "config"),
            "COLUMNS": "200",
        }

    def start(self, *arguments: str, **more: str) -> "Started":
        return Started(
            [sys.executable, "-m", "services", *arguments],
            cwd=ROOT, env={**self.environment, **more}, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def wat(self, *arguments: str, expect: int = 0, **more: str) -> tuple[str, str]:
        """Return what a command writes on standard output and standard error.

        The command runs in this process: what it asks are processes all the same.
        """
        answer = CliRunner().invoke(app, list(arguments), env={**self.environment, **more})
        if answer.exception is not None and not isinstance(answer.exception, SystemExit):
            raise answer.exception
        assert answer.exit_code == expect, f"{arguments}: {answer.stderr or answer.stdout}"
        return answer.stdout, answer.stderr

    def json(self, *arguments: str):
        return json.loads(self.wat(*arguments, "--json")[0])

    def running(self) -> list[Room]:
        return [room for room in Room if find_owner(self.common.bus, room, self.common.data_dir)]


@pytest.fixture
def person(tmp_path) -> Person:
    return Person(tmp_path)


@pytest.fixture(scope="module")
def at_home(tmp_path_factory) -> Iterator[Person]:
    """Somebody for whom `wat up` runs, and who has replayed a log."""
    someone = Person(tmp_path_factory.mktemp("home"))
    with someone.start("up", "--port", "0") as up:
        assert up.stdout is not None
        line = up.stdout.readline()
        assert line.startswith("user-monitor, task-learner, agent-trainer, agent-runner: http://")
        someone.wat("consent", "give", "--source", "replay", "--level", "values")
        someone.wat("replay", str(LOG))
        until(lambda: len(someone.json("routines")) == 2)
        yield someone
        up.send_signal(signal.SIGTERM)
        up.communicate(timeout=WAIT_S)
    assert up.returncode == 0
    assert someone.running() == []


class Started(subprocess.Popen[str]):
    """A command under way; a test that fails does not wait for its end."""

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, error, trace)


def until(holds) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_up_says_where_it_answers_and_where_the_token_is(person):
    with person.start("up", "--port", "0") as up:
        assert up.stdout is not None
        address = up.stdout.readline().rstrip().rpartition(" ")[2]
        assert up.stdout.readline() == f"token: {person.common.token_file}\n"
        assert {find_owner(person.common.bus, room, person.common.data_dir) for room in Room} == {
            address
        }
        up.send_signal(signal.SIGINT)
        up.communicate(timeout=WAIT_S)
    assert up.returncode == 0
    assert person.running() == []


def test_a_second_up_says_who_writes_the_topics(at_home):
    with at_home.start("up", "--port", "0", "--log-level", "error") as second:
        _, err = second.communicate(timeout=WAIT_S)
    assert second.returncode == 1
    assert "raw-events belongs to process" in err.splitlines()[-1]


def test_a_replay_is_fed_in_once(at_home):
    again = at_home.json("replay", str(LOG))
    assert again["num_published"] == 0
    assert again["dropped"]["duplicate"] == len(LOG.read_text().splitlines())


def test_the_bus_is_read_line_by_line(at_home):
    out, _ = at_home.wat("tail", "raw-events", "--limit", "3")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["offset"] for line in lines] == [0, 1, 2]
    assert {line["type"] for line in lines} == {"wasmagenttrainer.ui-event.v1"}
    assert lines[0]["value"]["source"] == "replay"
    out, _ = at_home.wat("tail", "raw-events", "--from", "2", "--limit", "1")
    assert json.loads(out) == lines[2]
    assert at_home.wat("tail", "raw-events", "--from", "newest")[0] == ""
    assert at_home.wat("tail", "forgets")[0] == ""


def test_following_a_topic_ends_with_ctrl_c(at_home):
    with at_home.start("tail", "raw-events", "--follow") as tail:
        assert tail.stdout is not None
        assert json.loads(tail.stdout.readline())["offset"] == 0
        tail.send_signal(signal.SIGINT)
        _, err = tail.communicate(timeout=WAIT_S)
    assert (tail.returncode, err) == (130, "")


def test_a_routine_is_shown_by_a_part_of_its_id_and_decided_by_its_name(at_home, tmp_path):
    first = at_home.json("routines")[0]
    shown = at_home.json("routines", "show", first["routine_id"][:6])
    assert shown["routine_id"] == first["routine_id"]
    out, _ = at_home.wat("routines", "show", first["routine_id"][:6])
    assert all(name in out for name in first["parameters"])
    trace = at_home.json(
        "routines", "show", first["name"], "--trace", shown["traces"][0]["trace_id"][:8]
    )
    assert set(trace["parameters"]) == set(first["parameters"])
    out, _ = at_home.wat("routines", "export", first["routine_id"][:6])
    assert out.startswith("flowchart TD")
    at_home.wat(
        "routines", "export", first["name"], "--format", "xes", "--out", str(tmp_path / "log.xes")
    )
    assert "<trace>" in (tmp_path / "log.xes").read_text()
    at_home.wat("routines", "rename", first["name"], "My chore")
    out, _ = at_home.wat("routines", "ignore", "my chore")
    assert out.startswith("My chore (")
    assert out.endswith("is ignored\n")


def test_errors_of_a_room_are_one_line(at_home):
    for arguments, said in (
        (("routines", "show", "nothing"), "there is no routine nothing"),
        (("models", "show", "nothing"), "there is no model nothing"),
        (("run", "nothing", "--param", "a=b"), "there is no agent nothing"),
        (("runs", "show", "nothing"), "there is no run nothing"),
        (("approve", "nothing"), "there is neither a run nor a routine nothing"),
        (("consent", "give", "--keep", "password"), "password cannot be kept"),
        (("consent", "revoke", "nothing"), "there is no consent nothing"),
        (("models", "import", str(LOG)), ""),
        (("record", "--source", "window"), "no consent covers source window"),
    ):
        out, err = at_home.wat(*arguments, expect=1)
        last = err.splitlines()[-1]
        assert last.startswith("wat: "), arguments
        assert said in last
        assert out == ""


def test_consent_says_what_is_captured_and_can_be_taken_back(at_home):
    out, err = at_home.wat("consent", "give", "--source", "window", "--application", "xterm")
    assert "Source window captures which application's window is active" in err
    assert "Level structure keeps names of controls" in err
    consent_id = out.split()[1]
    assert consent_id in at_home.wat("consent")[0]
    at_home.wat("consent", "revoke", consent_id)
    assert consent_id not in at_home.wat("consent", "list")[0]
    assert consent_id in at_home.wat("consent", "list", "--revoked")[0]


def test_an_exclusion_holds_until_it_is_dropped(at_home):
    out, _ = at_home.wat("consent", "exclude", "title", "Secret project")
    assert [e["pattern"] for e in at_home.json("consent")["exclusions"]] == ["Secret project"]
    at_home.wat("consent", "include", out.split()[1])
    assert at_home.json("consent")["exclusions"] == []


def test_recording_is_paused_and_resumed(at_home):
    assert at_home.wat("pause")[0].startswith("paused")
    assert at_home.wat("resume")[0].startswith("capturing again")


def test_nothing_runs_where_everything_is_stopped(at_home):
    assert at_home.wat("stop")[0] == "nothing was running\n"
    assert at_home.json("runs") == []


def test_a_wrong_token_is_said(at_home, tmp_path):
    (tmp_path / "token").write_text("x" * 43)
    (tmp_path / "token").chmod(0o600)
    _, err = at_home.wat("routines", expect=1, WAT_CONFIG_DIR=str(tmp_path))
    assert err == "wat: task-learner does not take our token: set WAT_CONFIG_DIR as it has it\n"


def test_a_misspelled_setting_stops_every_command(at_home):
    for command in (("routines",), ("models",), ("tail", "tasks")):
        _, err = at_home.wat(*command, expect=1, WAT_DATA_DIRR="/")
        assert err.splitlines()[-1].startswith("wat: WAT_DATA_DIRR is not a setting")


def test_a_model_is_imported_shown_exported_and_deleted(at_home, tmp_path):
    file = ROOT / "tests" / "data" / "modules" / "agent_v2_int8.wasm"
    assert "is ready" in at_home.wat("models", "import", str(file))[0]
    assert (
        "delete it, or ask to replace it" in at_home.wat("models", "import", str(file), expect=1)[1]
    )
    (card,) = at_home.json("models")
    assert at_home.json("models", "show", card["id"][:6])["size_bytes"] == file.stat().st_size
    assert card["name"] in at_home.wat("models", "show", card["subject_id"])[0]
    signer = card["signer"]
    assert "may run" in at_home.wat("models", "trust", signer, "--name", "a colleague")[0]
    assert "run no more" in at_home.wat("models", "distrust", signer)[0]
    assert "64 hexadecimal" in at_home.wat("models", "trust", "ab", "--name", "x", expect=1)[1]
    exported = tmp_path / "agent.wasm"
    at_home.wat("models", "export", card["name"], str(exported))
    assert exported.read_bytes() == file.read_bytes()
    at_home.wat("models", "export", card["name"], str(tmp_path / "agent.json"))
    assert json.loads((tmp_path / "agent.json").read_text())["routine_id"] == card["subject_id"]
    assert ".onnx" in at_home.wat("models", "export", card["id"], "agent.pt", expect=1)[1]
    none = at_home.wat("models", "export", card["id"], str(tmp_path / "a.onnx"), expect=1)[1]
    assert "has no onnx" in none
    assert "nothing was deleted" in at_home.wat("models", "delete", card["id"], expect=1)[0]
    at_home.wat("models", "delete", card["id"], "--yes")
    assert at_home.json("models") == []


def test_doctor_says_what_runs(at_home):
    found = {finding["what"]: finding for finding in at_home_doctor(at_home)}
    assert "agent-runner at http://127.0.0.1:" in found["running"]["found"]
    assert found["data folder"]["state"] == "ok"
    assert found["task-learner progress"]["state"] == "ok"
    assert found["task-learner progress"]["found"].startswith("nothing waits")


def at_home_doctor(someone: Person, **more: str):
    with someone.start("doctor", "--json", **more) as process:
        out, err = process.communicate(timeout=WAIT_S)
    assert "Traceback" not in err
    findings = json.loads(out)
    wrong = any(finding["state"] in ("missing", "stuck") for finding in findings)
    assert process.returncode == int(wrong)
    return findings


def test_doctor_finds_what_is_wrong_and_says_what_to_do(person, tmp_path):
    (tmp_path / "data").mkdir(mode=0o755)
    (tmp_path / "data").chmod(0o755)
    more = {"PATH": str(tmp_path), "WAT_BUS_URL": "kafka://127.0.0.1:1", "DISPLAY": ":97"}
    found = {f["what"]: f for f in at_home_doctor(person, **more)}
    wrong = {what for what, finding in found.items() if finding["state"] == "missing"}
    assert {"data folder", "bus", "browser"} <= wrong
    assert found["data folder"]["do"] == f"chmod 700 {tmp_path / 'data'}"
    assert found["bus"]["found"] == "no Kafka answers at 127.0.0.1:1"
    assert found["display"]["found"] == ":97 does not answer"
    assert found["Java"]["state"] == "optional"


@pytest.mark.slow
def test_a_command_runs_the_room_it_needs_and_ends_it(person):
    person.wat("consent", "give", "--source", "replay", "--level", "values")
    assert person.running() == []
    person.wat("replay", str(LOG))
    assert len(person.json("routines")) == 2  # all that was recorded is read before it is listed
    assert person.running() == []


@pytest.mark.slow
def test_two_commands_at_once_share_a_room(person):
    commands = [person.start("consent", "--json") for _ in range(3)]
    for command in commands:
        with command:
            out, err = command.communicate(timeout=WAIT_S)
            assert command.returncode == 0, err
            assert json.loads(out) == {"consents": [], "exclusions": []}
    assert person.running() == []


@pytest.mark.slow
def test_looking_takes_up_no_work(person):
    person.wat("consent", "give", "--source", "replay", "--level", "values")
    person.wat("replay", str(LOG))
    routine_id = person.json("routines")[0]["routine_id"]
    person.wat("approve", routine_id)
    person.wat("models")
    with Rooms(person.common) as rooms:
        trainings = rooms.ask(Room.AGENT_TRAINER).all("trainings")
    assert [(t["routine_id"], t["state"]) for t in trainings] == [(routine_id, "asked")]
    person.wat("trainings", "cancel", trainings[0]["id"][:8])
    assert [t["state"] for t in person.json("trainings")] == ["cancelled"]
    assert "cancelled" in person.wat("trainings")[0]


@pytest.mark.slow
def test_training_is_followed_and_says_why_it_failed(person, tmp_path):
    person.wat("consent", "give", "--source", "replay", "--level", "values")
    person.wat("replay", str(LOG))
    out, err = person.wat("train", person.json("routines")[0]["routine_id"], expect=1)
    assert out.splitlines()[0] == "reading: num traces 7"
    assert "has no picture of its screen" in err.splitlines()[-1]
    (training,) = person.json("trainings")
    assert (
        person.wat("trainings", "follow", training["id"])[0].splitlines()[0] == out.splitlines()[0]
    )
    person.wat("trainings", "logs", str(tmp_path / "logs"))
    (file,) = (tmp_path / "logs").glob("*/events.out.tfevents.*")
    assert file.parent.name.endswith(training["id"][:8])


def test_a_room_ends_with_the_command_that_started_it(person):
    with person.start("tail", "raw-events") as tail:  # makes the folders
        tail.communicate(timeout=WAIT_S)
    code = (
        "import time; from services.client import Rooms; from shared.topics import Room\n"
        "Rooms().ask(Room.TASK_LEARNER); print('up', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=person.environment, text=True,
        stdout=subprocess.PIPE,
    ) as command:  # fmt: skip
        assert command.stdout is not None
        assert command.stdout.readline() == "up\n"
        assert person.running() == [Room.TASK_LEARNER]
        command.kill()
    until(lambda: person.running() == [])


def test_a_room_that_cannot_start_is_said_in_one_line(person):
    _, err = person.wat("routines", expect=1, WAT_TASK_LEARNER_KEPT_TRACES="1")
    assert err.startswith("wat: WAT_TASK_LEARNER_KEPT_TRACES: ")
    assert len(err.splitlines()) == 1


@pytest.mark.browser
def test_recording_a_browser_teaches_until_ctrl_c(person):
    person.wat("consent", "give", "--source", "browser", "--level", "values")
    url = "data:text/html,<title>Desk</title><button>Go</button>"
    with Rooms(person.common) as rooms:  # a command that was killed left one open
        rooms.ask(Room.USER_MONITOR).post("teach/start", {"name": "Left open"})
    record = person.start("record", "--headless", "--url", url, "--teach", "Open the desk")
    with record:
        assert record.stdin is not None
        record.stdin.write("\n")  # begins a demonstration
        record.stdin.flush()
        until(lambda: _teaching(person) == "Open the desk")
        record.send_signal(signal.SIGINT)
        out, err = record.communicate(timeout=WAIT_S)
    assert record.returncode == 0, err
    assert "1 of Open the desk shown" in out
    assert person.running() == []


def _teaching(person: Person) -> str | None:
    if Room.USER_MONITOR not in person.running():
        return None
    with Rooms(person.common) as rooms:
        lesson = rooms.ask(Room.USER_MONITOR).get("recording")["teaching"]
    return lesson["name"] if lesson else None


def test_topics_and_rooms_are_offered_by_name(person):
    for command, names in (("tail", Topic), ("serve", Room)):
        out, _ = person.wat(command, "--help")
        assert all(name in out for name in names)


@pytest.mark.kafka
def test_a_broker_is_used_the_same_way(kafka, tmp_path):
    someone = Person(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    someone.environment |= {"WAT_BUS_URL": f"kafka://{kafka.address}", "WAT_PORT": port}
    assert someone.wat("tail", "raw-events")[0] == ""
    with someone.start("up") as up:
        assert up.stdout is not None
        assert up.stdout.readline().rstrip().endswith(f"http://127.0.0.1:{port}")
        someone.wat("consent", "give", "--source", "replay", "--level", "values")
        someone.wat("replay", str(LOG))
        until(lambda: len(someone.json("routines")) == 2)
        doctor = {finding["what"]: finding for finding in at_home_doctor(someone)}
        assert doctor["port"]["found"].startswith(f"{port} is ours: user-monitor")
        up.send_signal(signal.SIGTERM)
        up.communicate(timeout=WAIT_S)
    out, _ = someone.wat("tail", "raw-events")
    assert len(out.splitlines()) == len(LOG.read_text().splitlines())
    assert len(someone.json("routines")) == 2  # a command runs the room here too
