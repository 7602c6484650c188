"""What `wat doctor` says of how far a room has come, in words."""

from typing import Any

import pytest

from services.commands.doctor import _words
from shared.progress import Progress
from shared.topics import Room


def shown(**changes: Any) -> dict[str, Any]:
    """Return what a room with nothing to do answers, changed."""
    idle = {
        "measured_ms": 1_000_000,
        "inputs": [{"topic": "runs", "num_unhandled": 0, "oldest_ms": None}],
        "stalled_ms": 0,
        "failing_attempts": 0,
        "num_dead_letters": 0,
        "num_revived": 0,
        "jobs": {"asked": 0, "done": 0},
    }
    return Progress.model_validate({**idle, **changes}).model_dump()


def waiting(num: int, for_ms: int) -> list[dict[str, Any]]:
    return [{"topic": "raw-events", "num_unhandled": num, "oldest_ms": 1_000_000 - for_ms}]


@pytest.mark.parametrize(
    ("changes", "state", "said"),
    [
        ({}, "ok", "nothing waits"),
        ({"inputs": waiting(12, 4_000)}, "ok", "12 of raw-events wait, the oldest for 4.0 s"),
        (
            {"inputs": waiting(12, 130_000), "stalled_ms": 120_000}, "stuck",
            "12 of raw-events wait, the oldest for 2 min 10 s; nothing was handled for 2 min 0 s",
        ),
        (
            {"inputs": waiting(1, 60_000), "stalled_ms": 60_000, "failing_attempts": 3}, "ok",
            "1 of raw-events wait, the oldest for 1 min 0 s; one record failed 3 times",
        ),
        (
            {"num_dead_letters": 2, "jobs": {"running": 1, "failed": 0}}, "ok",
            "nothing waits; jobs: 1 running; 2 dead letters (GET /v1/task-learner/dead-letters)",
        ),
    ],
)  # fmt: skip
def test_progress_is_said_in_words(changes: dict[str, Any], state: str, said: str):
    finding = _words(Room.TASK_LEARNER, shown(**changes))
    assert (finding.state, finding.found) == (state, said)
    assert finding.what == "task-learner progress"
    assert bool(finding.do) is (state == "stuck" or "failed 3 times" in said)
