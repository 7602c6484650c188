"""Failpoints: nothing happens unless one is named, and then exactly there."""

import signal
import subprocess
import sys

import pytest

from shared.errors import ConfigError
from shared.settings import CommonSettings, load

PASSES = "from shared.failpoints import arm, reach\n{}\nfor n in range(3): print(n); reach('here')"


@pytest.mark.parametrize(
    ("armed", "printed", "code"),
    [
        ("", "0\n1\n2\n", 0),
        ("arm('elsewhere')", "0\n1\n2\n", 0),
        ("arm('here')", "0\n", -signal.SIGKILL),
        ("arm('here:2')", "0\n1\n", -signal.SIGKILL),
    ],
)
def test_a_process_dies_at_the_named_passage_alone(armed: str, printed: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-u", "-c", PASSES.format(armed)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == (printed, code)


def test_a_misspelled_failpoint_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAT_FAILPOINT", "here:0")
    with pytest.raises(ConfigError, match="WAT_FAILPOINT"):
        load(CommonSettings)
