"""The command line as a whole, without any process of ours: what it loads, says and refuses."""

import gzip
import json
import lzma
import os
import signal
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from services.__main__ import app
from services.commands import recording, runs, training
from services.commands.terminal import WatGroup, ago, ended_by_signals, took
from shared.errors import ConfigError, NotFound

HEAVY = ("httpx", "pydantic", "fastapi", "uvicorn", "asyncio", "torch", "playwright", "apsw")


def test_naming_the_commands_loads_nothing_heavy():
    code = f"import sys, services.__main__; print([m for m in {HEAVY!r} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_every_command_explains_itself():
    runner = CliRunner()
    group = typer.main.get_command(app)
    for name in group.commands:  # type: ignore[attr-defined]
        answer = runner.invoke(app, [name, "--help"])
        assert answer.exit_code == 0, name
        assert len(answer.stdout.splitlines()) > 4


def erring(error: BaseException) -> typer.Typer:
    failing = typer.Typer(cls=WatGroup)

    @failing.callback()
    def group() -> None:
        """Have commands."""

    @failing.command()
    def fail() -> None:
        raise error

    return failing


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_what_is_under_way_once_and_in_order(first):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
    ended = []

    def under_way():
        with ended_by_signals():
            try:
                os.kill(os.getpid(), first)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)  # does not cut off the ending
                ended.append(first)

    with pytest.raises(KeyboardInterrupt):
        under_way()
    assert ended == [first]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)) == before


def test_an_error_of_ours_is_one_line_and_exit_code_1():
    answer = CliRunner().invoke(erring(NotFound("there is no run x:\n  `wat runs`")), ["fail"])
    assert answer.exit_code == 1
    assert answer.stderr == "wat: there is no run x: `wat runs`\n"


def test_ctrl_c_is_quiet():
    answer = CliRunner().invoke(erring(KeyboardInterrupt()), ["fail"])
    assert (answer.exit_code, answer.output) == (130, "")


def test_a_bug_is_not_hidden():
    answer = CliRunner().invoke(erring(AssertionError("ours")), ["fail"])
    assert isinstance(answer.exception, AssertionError)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "x"],
        ["run", "x", "--param", "nothing"],
        ["run", "x", "--records", "a.csv", "--param", "a=b"],
        ["tail", "no-topic"],
        ["tail", "tasks", "--from", "yesterday"],
        ["serve", "no-room"],
        ["serve", "task-learner", "--log-level", "loud"],
        ["record", "--source", "window", "--url", "http://x"],
        ["replay", "log.csv", "--columns", "time"],
        ["unheard-of"],
    ],
)
def test_wrong_usage_ends_with_2(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.csv").write_text("a,b\n")
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_values_come_from_a_file_or_from_single_parameters(tmp_path):
    file = tmp_path / "records.csv"
    file.write_bytes("\ufeffname,town\nZoë,Köln\n".encode())
    assert runs._values(file, None, from_screen=False) == {"csv": "name,town\nZoë,Köln\n"}
    given = runs._values(None, ["name=Zoë", "formula=a=b"], from_screen=False)
    assert given == {"params": {"name": "Zoë", "formula": "a=b"}}
    assert runs._values(None, None, from_screen=True) == {}


def test_a_file_that_cannot_be_read_is_said(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        runs._values(tmp_path / "none.csv", None, from_screen=False)
    (tmp_path / "latin.csv").write_bytes(b"name\nZo\xeb\n")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        runs._values(tmp_path / "latin.csv", None, from_screen=False)
    with pytest.raises(ConfigError, match="cannot be read"):
        recording._read(tmp_path)


def test_a_packed_log_is_sent_unpacked_and_told_by_its_name(tmp_path):
    for name, pack in (("log.csv.gz", gzip.compress), ("log.csv.xz", lzma.compress)):
        (tmp_path / name).write_bytes(pack("a,b\nZoë,1\n".encode()))
        assert recording._read(tmp_path / name) == "a,b\nZoë,1\n"
        assert recording._format(tmp_path / name) == "csv"
        (tmp_path / name).write_bytes(pack(b"x" * 99)[:-9])
        with pytest.raises(ConfigError, match="cannot be unpacked"):
            recording._read(tmp_path / name)
    assert recording._format(tmp_path / "a.b.XES") == "xes"
    assert recording._format(tmp_path / "log") == "jsonl"


def test_columns_of_a_csv_are_field_and_column():
    assert recording._columns(["time=Start", "value=a|b"]) == {"time": "Start", "value": "a|b"}
    assert recording._columns(None) is None


def test_counts_say_what_was_dropped_and_why():
    now = {
        "paused": True, "num_published": 3, "num_waiting": 0,
        "dropped": {"pressure": 0, "not-allowed": 2},
    }  # fmt: skip
    assert recording._counts(now) == "paused, 3 events kept, dropped: 2 not-allowed"


def test_a_training_line_is_said_with_its_figures():
    line = json.loads('{"event": "epoch", "epoch": 3, "loss": 0.12345, "left_out": ["a"]}')
    assert training.in_words(line) == "epoch: epoch 3, loss 0.12345"
    assert training.in_words({"event": "done", "sha256": "00"}) == "done"


def test_durations_are_said_as_a_person_says_them():
    assert [took(ms) for ms in (0, 1_500, 59_900, 61_000, 3_700_000)] == [
        "0.0 s", "1.5 s", "59.9 s", "1 min 1 s", "1 h 1 min",
    ]  # fmt: skip
    assert ago(None) == ""
    assert ago(0).endswith("min ago")
