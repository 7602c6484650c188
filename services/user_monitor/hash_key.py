"""The user's key for hashes; it lies outside the data folder, so a copied folder stays mute.

Reads and writes: one file of 32 bytes, readable by its owner alone.
"""

import os
import secrets
from pathlib import Path

from shared.errors import ConfigError
from shared.secret_files import keep_secret

__all__ = ["load_key", "renew_key"]

_KEY_BYTES = 32


def load_key(path: Path, data_dir: Path) -> bytes:
    """Return the key at `path`; it is made where there is none.

    Raises ConfigError where the path lies in the data folder, holds no key or others can read it.
    """
    if path.resolve().is_relative_to(data_dir.resolve()):
        raise ConfigError(
            f"hash key {path} lies in the data folder {data_dir}: set "
            "WAT_USER_MONITOR_HASH_KEY_FILE to a path outside it"
        )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        keep_secret(path, secrets.token_bytes(_KEY_BYTES))
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise ConfigError(
            f"{path} holds {len(key)} bytes instead of a key of {_KEY_BYTES}: restore or "
            "delete it (hashes recorded so far then match no new ones)"
        )
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"hash key {path} can be read by others: chmod 600 it")
    return key


def renew_key(path: Path) -> bytes:
    """Put a new key in place of the old one: hashes made so far tell nobody anything any more."""
    temporary = path.with_name(f".{secrets.token_hex(8)}")
    key = secrets.token_bytes(_KEY_BYTES)
    keep_secret(temporary, key)
    with path.open("r+b") as old:  # overwritten first: a rename alone leaves the bytes on the disk
        old.write(secrets.token_bytes(_KEY_BYTES))
        old.flush()
        os.fsync(old.fileno())
    temporary.rename(path)
    return key
