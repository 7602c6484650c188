"""Points between an effect and its commit at which a test has this process killed.

Off unless the setting WAT_FAILPOINT names one. Does not cover kills at any other moment: those
come from outside.
"""

import os
import signal

__all__ = ["arm", "reach"]

_armed: dict[str, int] = {}


def arm(text: str) -> None:
    """Kill this process at a point: `NAME`, or `NAME:COUNT` for its COUNTth passage."""
    name, _, count = text.partition(":")
    _armed[name] = int(count or 1)


def reach(name: str) -> None:
    """Pass the point `name`."""
    if name not in _armed:
        return
    _armed[name] -= 1
    if _armed[name] <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
