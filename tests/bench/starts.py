"""How long `wat up` takes to be ready, and what it uses when nothing happens.

`make bench-start`, or `python -m tests.bench.starts [--starts 10] [--idle 60]`. Prints one JSON
object, also kept in var/bench/starts.json. Ready is when /readyz says so of all four rooms; time
counts from the creation of the process.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.torture.fleet import Fleet

ROOT = Path(__file__).parents[2]
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


async def measure(folder: Path, num_starts: int, idle_s: float) -> dict[str, Any]:
    """Start and end `wat up` again and again on one folder; look at the last one while idle."""
    fleet = Fleet(folder, {})
    clock_s, processor_s = [], []
    try:
        for _ in range(num_starts):
            await fleet.stop()
            began = time.monotonic()
            await fleet.start(one_process=True)
            clock_s.append(time.monotonic() - began)
            processor_s.append(_processor_s(fleet.units[0].pid))
        pid = fleet.units[0].pid
        await asyncio.sleep(5)  # what a start leaves to be done
        before_s, began = _processor_s(pid), time.monotonic()
        await asyncio.sleep(idle_s)
        used = (_processor_s(pid) - before_s) / (time.monotonic() - began)
        status = Path(f"/proc/{pid}/status").read_text()
    finally:
        await fleet.close()
    return {
        "starts": num_starts,
        "ready_s": _spread(clock_s),
        "ready_processor_s": _spread(processor_s),
        "idle_processor_percent": round(100 * used, 2),
        "idle_rss_mib": int(status.partition("VmRSS:")[2].split()[0]) // 1024,
        "load_average": os.getloadavg()[0],
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 2),
        "least": round(min(values), 2),
        "most": round(max(values), 2),
    }


def _processor_s(pid: int | None) -> float:
    """Return what a process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.starts", description=__doc__)
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--idle", type=float, default=60.0, help="seconds")
    options = parser.parse_args()
    os.umask(0o077)  # a data folder that others can open is refused
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(measure(Path(folder), options.starts, options.idle))
    kept = ROOT / "var" / "bench" / "starts.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(figures, indent=1))
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
