import os
import shutil
import subprocess

import pytest
from hands import Hands


@pytest.fixture
def display(monkeypatch):
    """Start an X server of the test's own on a free display, and point DISPLAY at it."""
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is not installed")
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "1280x900x24", "-nolisten", "tcp"],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    with os.fdopen(read) as told:
        number = told.readline().strip()
    monkeypatch.setenv("DISPLAY", f":{number}")
    monkeypatch.delenv("XAUTHORITY", raising=False)
    yield f":{number}"
    server.terminate()
    server.wait()


@pytest.fixture
def hands(display):
    hands = Hands(display)
    yield hands
    # pynput's threads end at the next event after their stop, and need the server for it.
    hands.press("Shift_L")
    hands.click(1, 1)
    hands.close()
