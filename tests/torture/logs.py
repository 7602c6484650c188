"""Recorded UI logs to feed in: known routines in much noise, one person each; and the order desk's.

A person's log is one session, so that what is learned does not hang on how sessions interleave.
"""

import json
from pathlib import Path
from urllib.parse import urlsplit

from demo.app import App
from demo.person import Person
from demo.stack import Stack
from demo.watching import watched
from shared.schemas import Action
from tests.unit.task_learner.ui_logs import person

__all__ = ["DESK_SEED", "NUM_EVENTS", "record_desk", "write_log"]

NUM_EVENTS = 5_000
"""Events of one person's log."""

DESK_SEED = 1
_DESK_CHORES = 9


def write_log(folder: Path, number: int) -> str:
    """Write the log of person `number` into `folder`; return its name."""
    log = person(number, claims=4, mails=3, work=2, user=f"p{number:05}", session="desk")
    events = log.events
    noise = events[0].model_copy(
        update={"action": Action.SCROLL, "element": None, "snapshot": None, "value": None}
    ).model_dump(mode="json", exclude_none=True)  # fmt: skip
    each, more = divmod(NUM_EVENTS - len(events), len(events))
    lines = [
        json.dumps({"digest": digest, "snapshot": json.loads(data)})
        for digest, data in log.snapshots.items()
    ]
    for index, event in enumerate(events):
        lines.append(event.model_dump_json(exclude_none=True))
        scroll = json.dumps({**noise, "time_ms": event.time_ms})
        lines += [scroll] * (each + (index < more))
    name = f"{log.user}.jsonl"
    (folder / name).write_text("\n".join(lines))
    return name


async def record_desk(path: Path, folder: Path) -> int:
    """Have a scripted person work at the order desk, watched, unless `path` has it already.

    Returns the port that the desk must answer at again.
    """
    if not path.exists():
        async with Stack(folder) as stack:
            with App(DESK_SEED, "watch") as app:
                port = urlsplit(app.url).port
                async with watched(stack) as page:
                    await Person(page, DESK_SEED, 0.02).work(app.url, _DESK_CHORES)
            events = await stack.all("user-monitor/events")
            digests = {e["snapshot"] for e in events if "snapshot" in e}
            lines = [json.dumps({"port": port})]
            for digest in sorted(digests):
                snapshot = await stack.ask("GET", f"user-monitor/snapshots/{digest}")
                lines.append(json.dumps({"digest": digest, "snapshot": snapshot}))
            lines += [json.dumps(event) for event in events]
        path.write_text("\n".join(lines))
    port: int = json.loads(path.read_text().partition("\n")[0])["port"]
    return port
