"""What the picture of a demonstration shows, on a terminal and in a pipe."""

import io

import pytest
from rich.console import Console

from demo.view import View

STAGES = {"watch": "A person works", "act": "The agent works"}


def _console(*, terminal, height=50):
    return Console(file=io.StringIO(), force_terminal=terminal, width=110, height=height)


def _written(console):
    return console.file.getvalue()


def test_a_pipe_gets_one_line_per_thing_that_began_or_ended():
    console = _console(terminal=False)
    with View("demo", STAGES, console) as view:
        view.begin("watch")
        view.event("edit", "textbox City", "Åre")
        view.update("watch", "1 of 2", 0.5)
        view.end("watch", "2 chores")
        view.records(["city"], [["Åre"], ["[b]Cork[/b]"]])
        view.record(0, "running")
        view.record(0, "done", "saved")
        view.record(1, "failed", "no such page")
    lines = _written(console).splitlines()
    assert lines[:2] == ["demo", "… A person works"]
    assert lines[2].startswith("✔ A person works: 2 chores (")
    assert lines[3:] == ["✔ Åre: saved", "✘ [b]Cork[/b]: no such page"]


def test_a_terminal_shows_stages_events_routine_and_records():
    console = _console(terminal=True)
    with View("demo", STAGES, console) as view:
        view.begin("watch", "at work")
        view.event("edit", "textbox [City]", "'s-Hertogenbosch")
        view.routine("Routine, seen twice", ["type {city} into City"])
        view.records(["city"], [["Åre"]])
        view.record(0, "running", "filling in")
    last = _written(console)
    for text in ("A person works", "Events seen: 1", "textbox [City]", "'s-Hertogenbosch"):
        assert text in last
    for text in ("type {city} into City", "Åre", "filling in", "The agent works"):
        assert text in last


def test_on_a_low_screen_the_records_get_the_room():
    console = _console(terminal=True, height=20)
    with View("demo", STAGES, console) as view:
        view.records(["city"], [["Åre"]])
        view.event("edit", "textbox City", "unseen")
    assert "Åre" in _written(console)
    assert "unseen" not in _written(console)


def test_an_error_marks_what_was_running_as_failed():
    console = _console(terminal=False)

    def work():
        with View("demo", STAGES, console) as view:
            view.begin("watch")
            raise RuntimeError("the browser went away")

    with pytest.raises(RuntimeError):
        work()
    assert "✘ A person works: interrupted" in _written(console)


def test_the_summary_never_cuts_an_address():
    console = _console(terminal=False)
    address = "http://127.0.0.1:8701/" + "x" * 150
    View("demo", STAGES, console).summary([("events", "1,024")], [("REST", address)])
    assert address in "".join(_written(console).split()).replace("─", "")
