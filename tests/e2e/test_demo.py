"""`wat demo`, as the README's first command ends in it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demonstration_ends_with_five_of_five_and_stops_at_a_changed_page(tmp_path: Path):
    asked = ["demo", "--seed", "7", "--folder", str(tmp_path / "demo")]
    shown = subprocess.run(
        [sys.executable, "-m", "services", *asked], cwd=ROOT, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stdout[-2000:] + shown.stderr[-2000:]
    assert "5 of 5 right, 0 wrong" in shown.stdout
    assert "stopped: " in shown.stdout
