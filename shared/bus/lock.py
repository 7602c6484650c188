"""Who owns what: an flock on a file of its own, which names the owner's process and address.

Held by the process alone (O_CLOEXEC; children are spawned, never forked) and gone with it.
Does not cover: folders shared between machines.
"""

import asyncio
import fcntl
import json
import os
from pathlib import Path

from shared.errors import TopicLocked

__all__ = ["owner_address", "take"]

_TRIES, _WAIT_S = 5, 0.02


async def take(path: Path, what: str, address: str) -> int:
    """Take the lock file; return its descriptor, whose closing lets go. Raises TopicLocked."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in range(_TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # an owner, or somebody in `owner_address` for an instant
            await asyncio.sleep(_WAIT_S)
        else:
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps({"pid": os.getpid(), "address": address}).encode(), 0)
            return handle
    holder = json.loads(os.read(handle, 4096) or b"{}")
    os.close(handle)
    raise TopicLocked(
        f"{what} belongs to process {holder.get('pid')} ({holder.get('address')}): stop it, or "
        "ask it over REST"
    )


def owner_address(path: Path) -> str | None:
    """Return where the process that holds the lock file answers, or None where none does."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return str(json.loads(os.read(handle, 4096) or b"{}").get("address", "")) or None
    else:
        return None
    finally:
        os.close(handle)
