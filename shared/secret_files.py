"""Files that hold a secret: whole from the moment they have their name, for their owner alone."""

import contextlib
import os
import tempfile
from pathlib import Path

__all__ = ["keep_secret"]


def keep_secret(path: Path, secret: bytes) -> None:
    """Write a secret in full before it gets its name; leave one that is there already.

    Raises OSError.
    """
    handle, draft = tempfile.mkstemp(dir=path.parent)  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        Path(draft).unlink()
