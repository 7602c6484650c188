"""`make bench-bus`: how fast the bus is, beside plain SQLite and plain aiokafka on the same work.

Prints one JSON object last and writes it to var/bench/bus.json. Figures are medians of RUNS runs,
with the lowest and highest; `load_average` says how busy the machine was with other things, and
`per_cpu_s` counts the clients' own processor time, which such load disturbs least.
Run it on a real file system: a tmpfs is refused, for its fsync does nothing.
"""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.rooms import ui_event
from tests.kafka.broker import Broker

ROOT = Path(__file__).parents[2]
RUNS = 3
NUM_FSYNCS = 200
MIN_BYTES = 400

NUM_APPENDED = 50_000
NUM_HOPPED = 30_000
NUM_KAFKA = 30_000
LATENCY_S = 5
RATE_LOG, RATE_KAFKA = 200, 1000

BARS = {
    "embedded_append_per_s": ("at least", 50_000),
    "embedded_two_hops_per_s": ("at least", 20_000),
    "embedded_two_hops_p99_ms": ("at most", 15),
    "kafka_relay_per_cpu_s": ("at least", 15_000),
    "kafka_two_hops_p99_ms": ("at most", 50),
}


class Child:
    """A process of the benchmark; it says "ready", then its result as JSON."""

    def __init__(self, role: str, **options: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.rooms", role, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def ready(self) -> "Child":
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line != "ready\n":
            raise RuntimeError(f"a child ended: {line}")
        return self

    def go(self) -> "Child":
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self

    def result(self) -> dict[str, Any]:
        out, _ = self._process.communicate(timeout=120)
        if self._process.returncode:
            raise RuntimeError(f"a child failed with {self._process.returncode}")
        return json.loads(out.splitlines()[-1])


def embedded_append(folder: Path, role: str = "append") -> dict[str, float]:
    done = Child(role, url=f"log:{folder}/log", dir=str(folder), num=NUM_APPENDED).ready().go()
    result = done.result()
    return {
        "per_s": NUM_APPENDED / (result["ended_s"] - result["began_s"]),
        "per_cpu_s": NUM_APPENDED / result["cpu_s"],
    }


def hops(url: str, folder: Path, num: int, rate: int | None = None) -> dict[str, float]:
    options = {"url": url, "dir": str(folder), "num": num}
    source = Child("append", rate=rate, **options).ready()
    relay, sink = Child("relay", **options).ready(), Child("sink", **options).ready()
    began = source.go().result()
    relayed, sunk = relay.result(), sink.result()
    took_ms = sunk["took_ms"]
    return {
        "per_s": num / (sunk["ended_s"] - began["began_s"]),
        "per_cpu_s": num / (began["cpu_s"] + relayed["cpu_s"] + sunk["cpu_s"]),
        "relay_per_cpu_s": num / relayed["cpu_s"],
        "sink_per_cpu_s": num / sunk["cpu_s"],
        "p50_ms": took_ms[len(took_ms) // 2],
        "p99_ms": took_ms[int(len(took_ms) * 0.99)],
        "relay_rss_mb": relayed["rss_mb"],
    }


def plain_hops(folder: Path) -> dict[str, float]:
    options = {"dir": str(folder), "num": NUM_HOPPED}
    source = Child("plain-append", **options).ready()
    relay = Child("plain-relay", **{**options, "in": "plain-1", "out": "plain-2"}).ready()
    sink = Child("plain-relay", **{**options, "in": "plain-2", "out": "plain-3"}).ready()
    began = source.go().result()
    relayed, sunk = relay.result(), sink.result()
    return {
        "per_s": NUM_HOPPED / (sunk["ended_s"] - began["began_s"]),
        "per_cpu_s": NUM_HOPPED / (began["cpu_s"] + relayed["cpu_s"] + sunk["cpu_s"]),
        "relay_per_cpu_s": NUM_HOPPED / relayed["cpu_s"],
    }


def kafka_relay(url: str, folder: Path, role: str = "relay") -> dict[str, float]:
    options = {"url": url, "dir": str(folder), "num": NUM_KAFKA}
    Child("append", **options).ready().go().result()
    if role != "relay":  # the room makes the topic it writes
        subprocess.run([sys.executable, "-c", _MAKE_RUNS, url, str(folder)], check=True, cwd=ROOT)
    result = Child(role, **options).ready().result()
    return {
        "per_s": NUM_KAFKA / (result["ended_s"] - result["began_s"]),
        "per_cpu_s": NUM_KAFKA / result["cpu_s"],
    }


_MAKE_RUNS = """
import asyncio, sys
from pathlib import Path
from shared.bus import open_bus
from shared.clock import SystemClock
async def main():
    bus = open_bus(sys.argv[1], Path(sys.argv[2]), SystemClock())
    await (await bus.subscribe("bench", ["runs"])).close()
    await bus.close()
asyncio.run(main())
"""


def repeated(part: Callable[[Path], dict[str, float]], under: Path) -> dict[str, Any]:
    """Run `part` RUNS times, each in a fresh folder; return median, lowest and highest."""
    results = []
    for _ in range(RUNS):
        folder = Path(tempfile.mkdtemp(dir=under))
        results.append(part(folder))
        shutil.rmtree(folder)
    return {
        name: {
            "median": _short(statistics.median(r[name] for r in results)),
            "lowest": _short(min(r[name] for r in results)),
            "highest": _short(max(r[name] for r in results)),
        }
        for name in results[0]
    }


def measure_kafka(under: Path) -> dict[str, Any]:
    broker = Broker(under)
    broker.start()
    url = f"kafka://{broker.address}"

    def fresh(part: Callable[[Path], dict[str, float]]) -> Callable[[Path], dict[str, float]]:
        def run(folder: Path) -> dict[str, float]:
            try:
                return part(folder)
            finally:
                import asyncio

                asyncio.run(broker.empty())

        return run

    try:
        return {
            "kafka_relay": repeated(fresh(lambda f: kafka_relay(url, f)), under),
            "plain_aiokafka_relay": repeated(
                fresh(lambda f: kafka_relay(url, f, "plain-kafka")), under
            ),
            f"kafka_two_hops_at_{RATE_KAFKA}_per_s": repeated(
                fresh(lambda f: hops(url, f, RATE_KAFKA * LATENCY_S, RATE_KAFKA)), under
            ),
        }
    finally:
        broker.stop()


def fsync_ms(under: Path) -> float:
    """Return the median of NUM_FSYNCS fsyncs of 4 KiB each."""
    took = []
    with tempfile.TemporaryFile(dir=under) as file:
        for _ in range(NUM_FSYNCS):
            file.write(b"x" * 4096)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            took.append((time.perf_counter() - began) * 1000)
    return _short(statistics.median(took))


def file_system(path: Path) -> str:
    """Return the kind of file system that `path` lies on."""
    found = subprocess.run(
        ["stat", "--file-system", "--format=%T", path], capture_output=True, text=True, check=True
    )
    return found.stdout.strip()


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=ROOT
    )
    return {
        "cpu": models[0] if models else platform.machine(),
        "num_cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "git_revision": git.stdout.strip(),
    }


def _short(value: float) -> float:
    return round(value, 2) if value < 100 else round(value)


def main() -> int:
    """Measure everything; return 1 on a file system that is none."""
    target = ROOT / "var" / "bench"
    target.mkdir(parents=True, exist_ok=True)
    kind = file_system(target)
    if kind in ("tmpfs", "ramfs"):
        print(f"{target} lies on {kind}, whose fsync does nothing: refused", file=sys.stderr)
        return 1
    began_s, load = time.monotonic(), os.getloadavg()
    num_bytes = len(ui_event(0, 10**12).model_dump_json(exclude_none=True))
    assert num_bytes >= MIN_BYTES, num_bytes
    with tempfile.TemporaryDirectory(dir=target) as name:
        under = Path(name)
        before = fsync_ms(under)
        parts = {
            "embedded_append": repeated(embedded_append, under),
            "plain_sqlite_append": repeated(lambda f: embedded_append(f, "plain-append"), under),
            "embedded_two_hops": repeated(lambda f: hops(f"log:{f}/log", f, NUM_HOPPED), under),
            "plain_sqlite_two_hops": repeated(plain_hops, under),
            f"embedded_two_hops_at_{RATE_LOG}_per_s": repeated(
                lambda f: hops(f"log:{f}/log", f, RATE_LOG * LATENCY_S, RATE_LOG), under
            ),
            **measure_kafka(under),
        }
        after = fsync_ms(under)
    reached = {
        "embedded_append_per_s": parts["embedded_append"]["per_s"]["median"],
        "embedded_two_hops_per_s": parts["embedded_two_hops"]["per_s"]["median"],
        "embedded_two_hops_p99_ms": parts[f"embedded_two_hops_at_{RATE_LOG}_per_s"]["p99_ms"][
            "median"
        ],
        "kafka_relay_per_cpu_s": parts["kafka_relay"]["per_cpu_s"]["median"],
        "kafka_two_hops_p99_ms": parts[f"kafka_two_hops_at_{RATE_KAFKA}_per_s"]["p99_ms"]["median"],
    }
    report = {
        "machine": machine(),
        "file_system": kind,
        "fsync_median_ms": {"before": before, "after": after},
        "load_average": {"before": load, "after": os.getloadavg()},
        "took_s": round(time.monotonic() - began_s),
        "event_bytes": num_bytes,
        "runs": RUNS,
        "batch": 100,
        "synchronous": "FULL",
        "parts": parts,
        "bars": {
            name: {
                "bar": f"{word} {bar}",
                "reached": reached[name],
                "met": reached[name] >= bar if word == "at least" else reached[name] <= bar,
            }
            for name, (word, bar) in BARS.items()
        },
    }
    (target / "bus.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
