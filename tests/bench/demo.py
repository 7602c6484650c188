"""`make bench-demo SEEDS=10`: the demonstration for many seeds, each judged by its database.

Every seed has other records, another order of lists and fields, other ids, and another page that
changes in a way that matters. Prints one JSON object last and writes it to var/bench/demo.json.
"""

import argparse
import asyncio
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from demo.run import NUM_RECORDS, main
from demo.stack import StackError

ROOT = Path(__file__).parents[2]


def run(seed: int) -> dict[str, Any]:
    """Run one seed in a folder of its own; an error is a row too."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="wat-demo-") as folder:
        try:
            ok, figures = asyncio.run(main(seed=seed, folder=Path(folder) / "demo"))
        except StackError as error:
            return {"seed": seed, "ok": False, "error": str(error), "total_s": None}
    row = dataclasses.asdict(figures)
    return {"seed": seed, "ok": ok, **row, "total_s": time.monotonic() - started}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the seeds have in common."""
    whole = [row for row in rows if row["total_s"] is not None]
    took = sorted(row["total_s"] for row in whole) or [0.0]
    return {
        "num_seeds": len(rows),
        "num_ok": sum(row["ok"] for row in rows),
        "records_right": sum(row["num_right"] for row in whole),
        "records": NUM_RECORDS * len(rows),
        "records_wrong": sum(row["num_wrong"] for row in whole),
        "changed_pages_stopped": sum(row["stopped"] for row in whole),
        "total_s": {"min": took[0], "median": statistics.median(took), "max": took[-1]},
        "load_average": os.getloadavg(),
        "num_cpus": os.cpu_count(),
        "python": platform.python_version(),
        "revision": _revision(),
        "rows": rows,
    }


def _revision() -> str:
    asked = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.demo", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    found = summary([run(seed) for seed in range(parser.parse_args().seeds)])
    target = ROOT / "var" / "bench" / "demo.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(found, indent=1))
    sys.stdout.write(json.dumps(found) + "\n")
    sys.exit(0 if found["num_ok"] == found["num_seeds"] else 1)
