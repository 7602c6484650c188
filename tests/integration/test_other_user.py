"""Another account of the same machine: it reads no topic, no artifact, no key and no token."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from services.user_monitor.consent import ConsentAsked
from shared.api import read_token
from shared.schemas import Level
from tests.integration.test_user_monitor import Room, log

NOBODY = 65534

TRY_ALL = """
for path in "$@"; do
  if [ -d "$path" ]; then ls "$path" >/dev/null 2>&1 && echo "listed $path"
  elif head -c 1 "$path" >/dev/null 2>&1; then echo "read $path"; fi
done; true
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")
async def test_another_account_reads_nothing():
    with tempfile.TemporaryDirectory() as home:
        here = Path(home)
        here.chmod(0o755)  # the way there is open, only ours is shut
        note = here / "anyone"
        note.write_text("x")
        note.chmod(0o644)
        async with Room(here) as room:
            await room.monitor.allow(ConsentAsked(level=Level.VALUES))
            await room.replayed(log(20, value="Ann Smith"))
            read_token(room.common.token_file)
            folders = [room.common.data_dir, room.common.config_dir]
            paths = [p for folder in folders for p in folder.rglob("*")]
            assert {"token", "hash.key", "raw-events.sqlite3"} <= {p.name for p in paths}
            tried = subprocess.run(
                ["sh", "-c", TRY_ALL, "sh", *map(str, [*folders, *paths, note])],
                capture_output=True, text=True, check=True, user=NOBODY, group=NOBODY,
                extra_groups=[], cwd="/",
            )  # fmt: skip
            assert tried.stdout.splitlines() == [f"read {note}"]
