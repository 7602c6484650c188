"""Files named by the SHA-256 of their bytes, with reference rows in their owner's store.

`root/<owner>/ab/abcd…`: written to a temporary name, fsynced, renamed, the folder fsynced; only
then does the owner commit the reference row. To drop one the row goes first, then the file; a crash
between leaves an orphan, which `collect` removes after an hour.
"""

import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterable
from pathlib import Path

from shared.bus.base import Effects
from shared.errors import ArtifactError, ArtifactMissing, BusUnavailable, DigestMismatch
from shared.store import Store
from shared.topics import Room

__all__ = ["ARTIFACT_TABLE", "Artifacts"]

ARTIFACT_TABLE = """
CREATE TABLE IF NOT EXISTS artifacts(
  digest TEXT NOT NULL, holder TEXT NOT NULL, num_bytes INTEGER NOT NULL,
  PRIMARY KEY(digest, holder)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS artifacts_dropped(
  n INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT NOT NULL);
CREATE TRIGGER IF NOT EXISTS artifact_dropped AFTER DELETE ON artifacts
  BEGIN INSERT INTO artifacts_dropped(digest) VALUES (old.digest); END;
"""
"""Every room's store has it; `holder` names what needs the artifact: the last one counts."""

_ORPHAN_AGE_S = 3600
_FRESH_S = 15.0
"""A file this young may be needed by a reference row that is being committed."""

_SWEPT_AT_ONCE = 500
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Artifacts:
    """The artifacts of one room, and read access to the others'."""

    def __init__(self, root: Path, owner: Room) -> None:
        self._root = root
        self._owner = owner

    def put(self, data: bytes, effects: Effects, holder: str = "") -> str:
        """Store `data`; its reference row comes with `effects`. Return the digest.

        Raises BusUnavailable where the disk refuses.
        """
        digest = hashlib.sha256(data).hexdigest()
        path = self.path(digest)
        try:
            if path.exists():
                os.utime(path)  # an orphan about to be collected is young again
            else:
                self._write(path, data)
        except OSError as error:
            raise BusUnavailable(f"artifact cannot be written ({error}): free disk") from error
        effects.write(
            "INSERT OR IGNORE INTO artifacts VALUES (?, ?, ?)", (digest, holder, len(data))
        )
        return digest

    def get(self, digest: str, owner: Room | None = None) -> bytes:
        """Return the bytes. Raises ArtifactMissing, DigestMismatch."""
        path = self.path(digest, owner)
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise ArtifactMissing(
                f"artifact {digest[:12]}… of {owner or self._owner} is gone: it was forgotten, or "
                "its folder is not shared with this service"
            ) from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise DigestMismatch(f"artifact {digest[:12]}… was changed on disk: delete {path}")
        return data

    def copy_from(self, owner: Room, digest: str, effects: Effects, holder: str = "") -> str:
        """Keep another room's artifact beyond its life there. Raises as `get`."""
        if not self.path(digest).exists():
            return self.put(self.get(digest, owner), effects, holder)
        os.utime(self.path(digest))
        size = self.path(digest).stat().st_size
        effects.write("INSERT OR IGNORE INTO artifacts VALUES (?, ?, ?)", (digest, holder, size))
        return digest

    def drop(self, holder: str, effects: Effects) -> None:
        """Let go of what `holder` needs; files that nobody needs any more are swept away."""
        effects.write("DELETE FROM artifacts WHERE holder = ?", (holder,))

    async def sweep(self, store: Store) -> bool:
        """Remove the files whose last reference row is gone; tell whether there may be more now."""
        rows = store.query(
            "SELECT d.n, d.digest, EXISTS(SELECT 1 FROM artifacts a WHERE a.digest = d.digest) "
            "FROM artifacts_dropped d ORDER BY d.n LIMIT ?",
            (_SWEPT_AT_ONCE,),
        )
        done = [(n,) for n, digest, needed in rows if needed or self._removed(digest)]
        if done:
            await store.write(
                lambda writer: writer.executemany("DELETE FROM artifacts_dropped WHERE n = ?", done)
            )
        return len(done) == _SWEPT_AT_ONCE

    def _removed(self, digest: str) -> bool:
        """Remove a file that nobody needs; tell whether it is gone."""
        path = self.path(digest)
        try:
            if time.time() - path.stat().st_mtime < _FRESH_S:
                return False
            path.unlink()
        except FileNotFoundError:
            return True
        return True

    def collect(self, store: Store, now_s: float, min_age_s: float = _ORPHAN_AGE_S) -> int:
        """Remove files without a reference row that are older than `min_age_s`; return how many."""
        removed = 0
        for path in self._files():
            try:
                old = now_s - path.stat().st_mtime >= min_age_s
            except FileNotFoundError:
                continue
            if old and not self._referenced(store, path.name):
                path.unlink(missing_ok=True)
                removed += 1
        return removed

    def path(self, digest: str, owner: Room | None = None) -> Path:
        """Return where an artifact is. Raises ArtifactError for what is no digest."""
        if not _DIGEST.fullmatch(digest):
            raise ArtifactError(f"{digest[:80]!r} is no SHA-256 digest in lower-case hex")
        return self._root / (owner or self._owner) / digest[:2] / digest

    def _files(self) -> Iterable[Path]:
        return (self._root / self._owner).glob("??/*")

    def _referenced(self, store: Store, digest: str) -> bool:
        return bool(store.query("SELECT 1 FROM artifacts WHERE digest = ? LIMIT 1", (digest,)))

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_name(f".{secrets.token_hex(8)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
