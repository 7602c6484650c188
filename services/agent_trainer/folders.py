"""One folder a routine for what its training has come to, until the model is published.

A training that was killed, cut off, cancelled or ended by a limit goes on from there.
"""

import shutil
from collections.abc import Collection
from pathlib import Path

from shared.schemas import derive_id

__all__ = ["Folders"]


class Folders:
    """The folders of all routines under one root, for their owner's account alone."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def make(self, routine_id: str) -> Path:
        """Return a routine's folder, which is there from now on."""
        folder = self._of(routine_id)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def drop(self, routine_id: str) -> None:
        """Delete a routine's folder, if it has one."""
        shutil.rmtree(self._of(routine_id), ignore_errors=True)

    def keep_only(self, routine_ids: Collection[str]) -> None:
        """Delete the folders of all other routines."""
        kept = {self._of(routine_id) for routine_id in routine_ids}
        for folder in set(self._root.glob("*")) - kept:
            shutil.rmtree(folder, ignore_errors=True)

    def _of(self, routine_id: str) -> Path:
        return self._root / derive_id(routine_id)
