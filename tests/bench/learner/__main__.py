"""`make bench-learner DATA=folder [QUICK=1]`: discovery on every set of a folder of UI logs.

The folder is laid out like this: contiguous/, single/, interleaved_event_truth/,
interleaved_synthetic/, interleaved_real/ with interleaved_models/, real_life/, each with CSV files
packed by xz. People's demonstrations are taken from a folder beside it, where there is one.
Labels are prequential: they come at most 250 events late and are then final. Prints a
table, one row a log, then one JSON object, which also goes to var/bench/learner.json. Strict scores
(`scores.py`) leave out the first five instances of each type; `all` counts them too; `forgiving` is
the literature's event score, which does not punish too many types.

QUICK=1 takes one seed of each noise, mix and order of demonstrations, every third interleaved log
and 100,000 events of throughput.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from services.task_learner.discovery.miner import Miner
from tests.bench.learner import demonstrations, sets
from tests.bench.learner.run import label, peak_rss_mb, routines, scored, set_scored
from tests.bench.learner.sets import Log

ROOT = Path(__file__).parents[3]
NOISES = (0.1, 0.2)
Row = dict[str, Any]
_INTERLEAVED = "real life, interleaved"


def logs(folder: Path, quick: bool) -> Iterator[tuple[str, Log]]:
    """Yield each log with the name of its set."""
    seeds = range(1, 2) if quick else range(1, 6)
    every = 3 if quick else 1
    for log in sets.contiguous(folder):
        yield "contiguous", log
        for noise in NOISES:
            yield from ((f"contiguous+{noise:.0%}", sets.noisy(log, noise, s)) for s in seeds)
    for seed in seeds:
        log = sets.mix(folder, seed)
        yield "mix", log
        yield from ((f"mix+{noise:.0%}", sets.noisy(log, noise, seed)) for noise in NOISES)
    yield from (("single", log) for log in sets.single(folder) if not _is_free(log))
    if not quick:
        yield from (("single, free boundary", g) for g in sets.single(folder) if _is_free(g))
    for log in list(sets.interleaved(folder))[::every]:
        yield f"interleaved {_number(log)}", log
    for kind in ("Synthetic", "Real"):
        for log in list(sets.action_sets(folder, kind))[::every]:
            yield f"interleaved {kind.lower()} {_number(log)}", log
    for log in sets.real_life(folder):
        yield "real life", log
        yield _INTERLEAVED, log


def measured(kind: str, log: Log) -> Row:
    """Return one log's row."""
    run = label(log)
    row: Row = {
        "set": kind, "log": log.name, "events": len(log.steps),
        "types_found": len(routines(log, run)), "max_delay": max(run.delays),
        "median_delay": statistics.median(run.delays),
        "events_per_s": round(len(log.steps) / run.seconds),
    }  # fmt: skip
    only = sets.interrupted(log) if kind == _INTERLEAVED else None
    if any(log.truth) and not kind.endswith("3R"):
        for name, scores in scored(log, run, only).items():
            row |= {
                f"{k}{'' if name == 'later' else '_all'}": v for k, v in scores._asdict().items()
            }
        row["instances"] = len({t[0] for t in log.truth if t and (not only or t[0] in only)})
    if log.routines:
        row["sjc"] = set_scored(log, run)
    return row


def shown(folder: Path, quick: bool) -> Iterator[tuple[str, demonstrations.ShownLog]]:
    """Yield people's demonstrations as streams, in order and interleaved, with and without what
    they were told.
    """
    for seed in range(1, 2 if quick else 4):
        for name, tasks in demonstrations.sets_of_tasks(folder, seed):
            for interleaved in (False, True):
                for hidden in (False, True):
                    kind = "interleaved" if interleaved else "in order"
                    yield (
                        f"demonstrations {kind}{', untold' if hidden else ''}",
                        (
                            demonstrations.stream(
                                name, tasks, seed, interleaved=interleaved, hidden=hidden
                            )
                        ),
                    )


def measured_shown(kind: str, log: demonstrations.ShownLog) -> Row:
    """Return the row of a stream of demonstrations."""
    run = demonstrations.label(log)
    scores = demonstrations.scored(log, run)
    return {
        "set": kind, "log": log.name, "events": len(log.actions), "max_delay": max(run.delays),
        "median_delay": statistics.median(run.delays),
        "events_per_s": round(len(log.actions) / run.seconds), "instances": len(log.good),
        **scores["later"]._asdict(), **{f"{k}_all": v for k, v in scores["all"]._asdict().items()},
    }  # fmt: skip


def null_test(folder: Path, quick: bool) -> Row:
    """Return how many types were confirmed at some time in shuffled logs: they hold no routine."""
    found = []
    bases = list(sets.contiguous(folder))
    for seed in range(2 if quick else 10):
        log = sets.shuffled(bases[seed % len(bases)], seed, 10_000)
        run = label(log)
        found.append(len(run.once))
    return {"set": "shuffled", "logs": len(found), "routines": sum(found)}


def throughput(folder: Path, number: int) -> Row:
    """Return the rate by the clock and by the processor, the 99th percentile of one event, and how
    much memory grows.
    """
    steps = next(iter(sets.contiguous(folder))).steps
    numbers: dict[str, int] = {}
    coded = [(numbers.setdefault(s.token, len(numbers)), s.time_ms) for s in steps]
    miner = Miner()
    took = array("d", bytes(8 * number))  # made at once: the growth told is the miner's
    now, before, rss_mb = 0, coded[0][1], 0.0
    started, began = time.perf_counter(), time.process_time()
    for i in range(number):
        token, time_ms = coded[i % len(coded)]
        now += max(0, min(time_ms - before, 60_000))
        before = time_ms
        one = time.perf_counter()
        miner.push(token, now)
        took[i] = time.perf_counter() - one
        if i == number // 10:
            rss_mb = peak_rss_mb()
    grown_mb = peak_rss_mb() - rss_mb
    seconds, spent = time.perf_counter() - started, time.process_time() - began
    return {
        "set": "throughput", "events": number, "events_per_s": round(number / seconds),
        "events_per_cpu_s": round(number / spent), "rss_growth_mb": grown_mb,
        "p99_ms": sorted(took)[int(0.99 * number)] * 1000,
    }  # fmt: skip


def _is_free(log: Log) -> bool:
    """Tell whether cutting before the first token of the log is right by the way it was made."""
    return log.name.startswith("cpn") or log.name == "log3"


def _number(log: Log) -> str:
    return log.name.split("/")[1]


def _summary(rows: list[Row]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for kind in dict.fromkeys(row["set"] for row in rows):
        of_kind = [row for row in rows if row["set"] == kind]
        known = ("if1", "if1t", "exact", "bf1", "pairs", "ef1", "sjc")
        keys = [k for k in known if k in of_kind[0]]
        found[kind] = {"logs": len(of_kind)}
        for key in keys:
            values = [row[key] for row in of_kind]
            found[kind] |= {key: statistics.fmean(values), f"{key}_min": min(values)}
        if "instances" in of_kind[0]:
            weight = sum(row["instances"] for row in of_kind)
            found[kind]["if1_weighted"] = (
                sum(row["if1"] * row["instances"] for row in of_kind) / weight
            )
    return found


def _print(row: Row, write: Callable[[str], object] = sys.stdout.write) -> None:
    keys = ("if1_all", "if1", "if1t", "exact", "bf1", "pairs", "ef1", "forgiving", "sjc")
    scores = "  ".join(f"{k} {row[k]:.3f}" for k in keys if k in row)
    write(f"{row['set']:24.24} {row.get('log', ''):36.36} {scores}\n")
    sys.stdout.flush()


def _revision() -> str:
    asked = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.learner", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="the sets whose names begin so")
    options = parser.parse_args()
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is no folder: give one with the UI logs, DATA=folder")
    rows = []
    for kind, log in logs(options.folder, options.quick):
        if kind.startswith(options.only):
            rows.append(measured(kind, log))
            _print(rows[-1])
    beside = options.folder.parent / "demonstrations"
    for kind, own in shown(beside, options.quick) if beside.is_dir() else ():
        if kind.startswith(options.only):
            rows.append(measured_shown(kind, own))
            _print(rows[-1])
    whole: Row = {
        "quick": options.quick, "summary": _summary(rows), "rows": rows,
        "load_average": os.getloadavg(), "num_cpus": os.cpu_count(),
        "python": platform.python_version(), "revision": _revision(),
    }  # fmt: skip
    if not options.only:
        whole["null"] = null_test(options.folder, options.quick)
        whole["throughput"] = throughput(options.folder, 100_000 if options.quick else 1_000_000)
    target = ROOT / "var" / "bench" / "learner.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(whole, indent=1))
    sys.stdout.write(json.dumps({k: v for k, v in whole.items() if k != "rows"}) + "\n")


if __name__ == "__main__":
    main()
