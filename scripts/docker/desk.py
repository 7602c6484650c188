"""The order desk as `scripts/up-check.sh` runs it, inside the agent-runner's network.

`desk.py serve FILE` serves it at the origin that the recorded log names and keeps FILE up to date
with what was ordered; `desk.py work N` reads a routine from standard input and prints N records for
its agent, and the orders that must come of them.
"""

import json
import sys
import time
from pathlib import Path

from demo.app import App
from demo.stack import values_of

SEED, PORT = 0, 18790
_LOOK_S = 0.2


def serve(file: Path) -> None:
    """Serve until the process ends."""
    draft = file.with_suffix(".draft")
    with App(SEED, "act", port=PORT) as app:
        while True:
            draft.write_text(json.dumps(app.orders()))
            draft.replace(file)
            time.sleep(_LOOK_S)


def work(num: int) -> None:
    """Print what to order, in the routine's own parameters, and what the desk must then hold."""
    routine = json.load(sys.stdin)
    app = App(SEED, "act")
    records = app.records(num)
    rows = [values_of(routine, record) for record in records]
    json.dump({"rows": rows, "orders": [app.expected(record) for record in records]}, sys.stdout)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(Path(sys.argv[2]))
    else:
        work(int(sys.argv[2]))
