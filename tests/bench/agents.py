"""`make bench-agents DATA=folder`: agents trained from people's recordings, played on live pages.

Each task is trained from its successful recordings alone, by the trainer's own child process and
one fixed setting, and played on seeds it has not seen. Results are cached by what they depend on,
so a run that was cut off goes on. `--show TASK:SEED` tells what an episode saw and did. Prints a
table beside the published one, then one JSON object, which is in var/bench/agents.json too.
"""

import argparse
import asyncio
import csv
import dataclasses
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from services.agent_trainer.child import run_child
from services.agent_trainer.options import TrainOptions
from services.agent_trainer.order import Order
from shared.errors import TrainingError
from tests.bench.agents_data import Recordings, read_recordings, write_routine
from tests.bench.agents_play import Episode, Pages, Player, decision_us

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "var" / "bench" / "agents"
_TRAINED_BY = ("services/agent_trainer/*.py", "shared/encoding*.py", "shared/goal.py",
               "services/user_monitor/capture/replay_demonstrations.py", "shared/guest.py",
               "shared/module.py", "tests/bench/agents_data.py")  # fmt: skip
_PLAYED_BY = (
    "shared/page.js",
    "services/agent_runner/actuators/*.py",
    "tests/bench/agents_play.py",
)
_OPTIONS = {"min_accuracy": 0.0, "min_margin": 0.0, "max_margin": 0.0, "needs_result": False}


def source_digest(patterns: tuple[str, ...]) -> str:
    """Return the SHA-256 of the files that a cached result depends on."""
    files = sorted(file for pattern in patterns for file in ROOT.glob(pattern))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


async def train(recordings: Recordings, seed: int) -> tuple[bytes, dict[str, Any]]:
    """Train in the product's child process; return module and figures. Raises TrainingError."""
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="wat-agents-") as name:
        folder = Path(name)
        routine = write_routine(recordings, folder / "artifacts")
        order = Order(
            routine=routine,
            options=TrainOptions(seed=seed, **_OPTIONS),
            data_digest=recordings.digest,
            artifacts=folder / "artifacts",
            folder=folder,
            cpu_limit_s=600,
            memory_limit_bytes=4 << 30,
        )
        before = os.times()
        last = await run_child(
            order.model_dump_json(),
            on_line=lines.append,
            wall_limit_s=1800,
            stop=asyncio.Event(),
        )
        after = os.times()
        module = (folder / "module.wasm").read_bytes()
    cpu_s = after.children_user + after.children_system
    cpu_s -= before.children_user + before.children_system
    figures = {**last["metrics"], "cpu_s": round(cpu_s, 2), "num_bytes": len(module)}
    encoded = next((line for line in lines if line.get("event") == "encoded"), {})
    return module, {
        **figures,
        "left_out": encoded.get("left_out", []),
        "wall_s": last["metrics"]["elapsed_s"],
    }


async def trained(
    name: str, recordings: Recordings, seed: int
) -> tuple[bytes | None, dict[str, Any]]:
    """Return a cached or new module, or None and why there is none."""
    key = hashlib.sha256(
        f"{source_digest(_TRAINED_BY)} {recordings.digest} {seed} {_OPTIONS}".encode()
    ).hexdigest()[:24]
    file = CACHE / name / f"{key}.wasm"
    note = file.with_suffix(".json")
    if note.exists():
        return (file.read_bytes() if file.exists() else None), json.loads(note.read_text())
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        module, figures = await train(recordings, seed)
        file.write_bytes(module)
    except TrainingError as error:
        module, figures = None, {"error": str(error)[:300]}
    note.write_text(json.dumps(figures))
    return module, figures


async def played(name: str, module: bytes, seeds: range, player: Player) -> list[Episode]:
    """Return cached episodes and play those that are missing."""
    key = hashlib.sha256(module + source_digest(_PLAYED_BY).encode()).hexdigest()[:24]
    file = CACHE / name / f"{key}.episodes.jsonl"
    known: dict[int, Episode] = {}
    if file.exists():
        for line in file.read_text().splitlines():
            episode = Episode(**json.loads(line))
            known[episode.seed] = episode
    missing = [seed for seed in seeds if seed not in known]
    if missing:
        found = await player.play(name, module, missing)
        with file.open("a") as out:
            for episode in found:
                out.write(json.dumps(dataclasses.asdict(episode)) + "\n")
        known.update({episode.seed: episode for episode in found})
    return [known[seed] for seed in seeds]


def published(data: Path) -> dict[str, dict[str, str]]:
    """Return the published rows beside the recordings, by task; none where there is no table."""
    table = data.parent / "published" / "miniwob_published.csv"
    if not table.exists():
        return {}
    with table.open(newline="") as stream:
        return {row["task"]: row for row in csv.DictReader(stream)}


def show(name: str, episodes: list[Episode], seed: int) -> None:
    """Print what one episode saw, chose and by what margin."""
    episode = next(e for e in episodes if e.seed == seed)
    for at, step in enumerate(episode.steps):
        did = f"{step.get('op')} {step.get('slot') or ''} {step.get('text') or ''}"
        print(f"step {at + 1}: {did} on [{step.get('element')}], margin {step.get('margin')}")
        print(f"    {step.get('note', '')}")
        for line in step.get("saw", ()):
            print(f"    {'>' if line == step.get('element') else ' '} {line}")
    print(f"{name} seed {seed}: reward {episode.reward}, {episode.ended}, {episode.wall_s} s")


async def main() -> int:
    """Train, play and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of *.jsonl.xz recordings")
    parser.add_argument("--tasks", default="", help="comma-separated; default: all with a page")
    parser.add_argument("--seeds", default="0:49", help="first:last")
    parser.add_argument("--training-seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one training seed, 10 episodes")
    parser.add_argument("--demonstrations", type=int, default=60)
    parser.add_argument("--show", default="", help="TASK:SEED: what that episode saw and did")
    asked = parser.parse_args()
    first, _, last = asked.seeds.partition(":")
    seeds = range(int(first), int(last) + 1)
    if asked.quick:
        seeds = seeds[:10]
    training_seeds = range(1 if asked.quick else asked.training_seeds)
    pages, known = Pages(), published(asked.data)
    player = Player(pages)
    files = {file.name.removesuffix(".jsonl.xz"): file for file in asked.data.glob("*.jsonl.xz")}
    wanted = asked.tasks.split(",") if asked.tasks else sorted(set(files) & pages.names)
    if missing := set(wanted) - set(files):
        print(f"no recordings of {', '.join(sorted(missing))} in {asked.data}", file=sys.stderr)
        return 2
    if asked.show:
        name, _, seed = asked.show.partition(":")
        module, _ = await trained(name, read_recordings(files[name], asked.demonstrations), 0)
        if module is not None:
            one = range(int(seed), int(seed) + 1)
            show(name, await played(name, module, one, player), int(seed))
        await player.close()
        return 0
    rows: list[dict[str, Any]] = []
    print(f"{'task':28} {'ours':>5} {'6B':>5} {'T5':>5}  demos   KB  train  ends")
    for name in wanted:
        recordings = read_recordings(files[name], asked.demonstrations)
        scores, ends, sizes, times, margins, decisions = [], [], [], [], [], []
        error = ""
        for seed in training_seeds:
            module, figures = await trained(name, recordings, seed)
            if module is None:
                scores.append(0.0)
                error = figures["error"]
                continue
            episodes = await played(name, module, seeds, player)
            scores.append(statistics.mean(e.success for e in episodes))
            ends += [e.ended for e in episodes if not e.success]
            margins += [(e.min_margin, e.success) for e in episodes]
            sizes.append(len(module))
            times.append(figures["cpu_s"])
            decisions.append(decision_us(module))
        row = {
            "task": name,
            "success": round(statistics.mean(scores), 4),
            "scores": scores,
            "num_demonstrations": len(recordings.lines),
            "num_bytes": max(sizes, default=0),
            "training_cpu_s": round(statistics.median(times), 1) if times else None,
            "decision_us_p50": round(statistics.median(decisions)) if decisions else None,
            "episodes": len(seeds) * len(scores),
            "error": error,
            "margins": margins,
            "published": known.get(name),
        }
        rows.append(row)
        beside = known.get(name, {})
        common = max(set(ends), key=ends.count)[:50] if ends else error[:60]
        print(
            f"{name:28} {row['success']:5.2f} {beside.get('autowebglm_6b', '-'):>5} "
            f"{beside.get('html_t5_xl_3b', '-'):>5}  {row['num_demonstrations']:5} "
            f"{row['num_bytes'] / 1024:4.0f} {row['training_cpu_s'] or 0:6.1f}  {common}",
            flush=True,
        )
    await player.close()
    pages.close()
    report = summary(rows, seeds, training_seeds)
    out = ROOT / "var" / "bench" / "agents.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({k: v for k, v in report.items() if k != "rows"}))
    return 0


def summary(rows: list[dict[str, Any]], seeds: range, training_seeds: range) -> dict[str, Any]:
    """Return the main row: the mean over tasks with a published row, and what bounds it."""
    beside = [row for row in rows if row["published"]]
    return {
        "mean_success": round(statistics.mean(row["success"] for row in beside), 4)
        if beside
        else None,
        "num_tasks": len(beside),
        "tasks_at_95": sum(row["success"] >= 0.95 for row in beside),
        "mean_success_all": round(statistics.mean(row["success"] for row in rows), 4)
        if rows
        else None,
        "largest_module_bytes": max((row["num_bytes"] for row in rows), default=0),
        "slowest_training_cpu_s": max((row["training_cpu_s"] or 0 for row in rows), default=0),
        "slowest_decision_us_p50": max((row["decision_us_p50"] or 0 for row in rows), default=0),
        "seeds": [seeds.start, seeds.stop - 1],
        "num_training_seeds": len(training_seeds),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load_average": os.getloadavg(),
        "num_cpus": os.cpu_count(),
        "risk_coverage": risk_coverage([m for row in rows for m in row["margins"]]),
        "rows": rows,
    }


def risk_coverage(margins: list[tuple[float, bool]]) -> list[dict[str, float]]:
    """Return, by the least margin that an episode must keep, what is wrong and what is kept.

    `margins` are (smallest margin of the episode, success). Wrong and kept are shares of all
    episodes and of the successful ones, had the agent abstained below.
    """
    successes = sum(success for _, success in margins)
    curve = []
    for least in (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0):
        acted = [success for margin, success in margins if margin >= least]
        curve.append(
            {
                "margin": least,
                "wrong": round(sum(not s for s in acted) / max(1, len(margins)), 4),
                "kept": round(sum(acted) / max(1, successes), 4),
            }
        )
    return curve


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
