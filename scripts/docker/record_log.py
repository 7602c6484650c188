"""Record the log that `scripts/up-check.sh` replays: a person at the order desk, watched.

`.venv/bin/python -m scripts.docker.record_log FILE.jsonl.gz`. The order desk listens on the same
port that the check's does, so an agent that learned from the log acts on the same origin.
"""

import asyncio
import gzip
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from demo.app import App
from demo.person import Person
from demo.stack import Stack
from demo.watching import watched
from scripts.docker.desk import PORT, SEED

NUM_CHORES = 12


async def record(folder: Path) -> list[dict[str, Any]]:
    """Return snapshots and events as the lines that `POST /v1/user-monitor/replay` takes."""
    async with Stack(folder, {"WAT_USER_ID": "me"}) as stack:
        with App(SEED, "watch", port=PORT) as app:
            async with watched(stack) as page:
                await Person(page, SEED, pace=0.03).work(app.url, NUM_CHORES)
        events = await stack.all("user-monitor/events")
        digests = dict.fromkeys(e["snapshot"] for e in events if e.get("snapshot"))
        snapshots = [
            {"digest": d, "snapshot": await stack.ask("GET", f"user-monitor/snapshots/{d}")}
            for d in digests
        ]
    return [*snapshots, *events]


def main(path: Path) -> None:
    """Record into a new file."""
    with tempfile.TemporaryDirectory() as folder:
        lines = asyncio.run(record(Path(folder)))
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    sys.stdout.write(f"{len(lines)} lines, {len(text)} bytes\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
