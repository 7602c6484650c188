"""`make bench-agents DATA=folder`: agents trained from people's recordings, played on live pages.

Each task is trained from its recordings alone, by the trainer's own child process and one fixed
setting, and played on seeds it has not seen. ROW says what is measured:

- `main`: 60 successful recordings, 3 training seeds x 50 episodes, with run states and latency
- a number: so many recordings (3, 10, 30), drawn anew for each training seed
- `noise`: the first 60 recordings of tasks that people also failed at, failures unlabelled
- `drift`: the main row's modules on changed pages (`agents_drift`), beside the unchanged ones
- `end-to-end`: routines that the learner found in a stream of several tasks (`agents_stream`)

Results are cached by what they depend on, so a run that was cut off goes on. `--show TASK:SEED`
tells what an episode saw and did. Prints a table beside the published one, then one JSON object,
which is in var/bench/agents.json too, by row.
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
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from services.agent_trainer.child import run_child
from services.agent_trainer.options import TrainOptions
from services.agent_trainer.order import Order
from shared.errors import TrainingError
from shared.schemas import Routine
from tests.bench.agents_data import MAX_DEMONSTRATIONS, Recordings, read_recordings, write_routine
from tests.bench.agents_drift import change_of, drift, unpaid
from tests.bench.agents_latency import decision_us
from tests.bench.agents_play import Change, Episode, Pages, Player
from tests.bench.agents_stream import TASKS_TOGETHER, found_in

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "var" / "bench" / "agents"
REPORT = ROOT / "var" / "bench" / "agents.json"
_TRAINED_BY = ("services/agent_trainer/*.py", "shared/encoding*.py", "shared/goal.py",
               "services/user_monitor/capture/replay_demonstrations.py", "shared/guest.py",
               "shared/layout.py", "shared/loops.py", "shared/module.py",
               "tests/bench/agents_data.py")  # fmt: skip
_PLAYED_BY = (
    "shared/page.js",
    "services/agent_runner/actuators/*.py",
    "tests/bench/agents_play.py",
)
_DRIFTED_BY = (*_PLAYED_BY, "tests/bench/agents_drift.*")
_FOUND_BY = ("services/task_learner/**/*.py", "tests/bench/agents_stream.py")
_OWN_SHARE = 0.2  # of a routine's events, from which on it is said to be a task's
_OPTIONS = {
    "min_accuracy": 0.0,
    "max_wrong": 1.0,
    "max_margin": 0.0,
    "needs_result": False,
}


def source_digest(patterns: tuple[str, ...]) -> str:
    """Return the SHA-256 of the files that a cached result depends on."""
    files = sorted(file for pattern in patterns for file in ROOT.glob(pattern))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained agent with its weights and figures, or why there is none."""

    seed: int
    module: bytes | None
    weights: bytes
    figures: dict[str, Any]


async def train(routine: Routine, artifacts: Path, digest: str, seed: int) -> Model:
    """Train on a routine in the product's child process. Raises TrainingError."""
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="wat-agents-") as name:
        folder = Path(name)
        order = Order(
            routine=routine,
            options=TrainOptions(seed=seed, **_OPTIONS),
            data_digest=digest,
            artifacts=artifacts,
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
        weights = (folder / "weights.safetensors").read_bytes()
    cpu_s = after.children_user + after.children_system
    cpu_s -= before.children_user + before.children_system
    encoded = next((line for line in lines if line.get("event") == "encoded"), {})
    return Model(seed, module, weights, {
        **last["metrics"],
        "cpu_s": round(cpu_s, 2),
        "num_bytes": len(module),
        "left_out": encoded.get("left_out", []),
    })  # fmt: skip


async def trained(name: str, recordings: Recordings, seed: int) -> Model:
    """Return a cached or new model."""
    key = hashlib.sha256(
        f"{source_digest(_TRAINED_BY)} {recordings.digest} {seed} {_OPTIONS}".encode()
    ).hexdigest()[:24]
    note = CACHE / name / f"{key}.json"
    if note.exists():
        return load(note, seed)
    with tempfile.TemporaryDirectory(prefix="wat-agents-") as folder:
        artifacts = Path(folder) / "artifacts"
        routine = write_routine(recordings, artifacts)
        try:
            model = await train(routine, artifacts, recordings.digest, seed)
        except TrainingError as error:
            model = Model(seed, None, b"", {"error": str(error)[:300]})
    save(note, model)
    return model


def load(note: Path, seed: int) -> Model:
    """Read a model back."""
    figures = json.loads(note.read_text())
    if "error" in figures:
        return Model(seed, None, b"", figures)
    module, weights = note.with_suffix(".wasm"), note.with_suffix(".safetensors")
    return Model(seed, module.read_bytes(), weights.read_bytes(), figures)


def save(note: Path, model: Model) -> None:
    """Keep a model; its note comes last."""
    note.parent.mkdir(parents=True, exist_ok=True)
    if model.module is not None:
        note.with_suffix(".wasm").write_bytes(model.module)
        note.with_suffix(".safetensors").write_bytes(model.weights)
    note.write_text(json.dumps(model.figures))


async def trained_of_stream(names: Sequence[str], asked: "Asked", seed: int) -> dict[str, Model]:
    """Return the cached or new model of each task that shares a stream with others.

    A task's routine is the one that has most of its events in its traces, as the learner found it
    by itself. Two tasks with one page and sentences alike may be one routine: its agent does both.
    """
    recordings = {name: asked.sets(name, "main")[0][1] for name in names}
    digest = hashlib.sha256(
        f"{source_digest((*_TRAINED_BY, *_FOUND_BY))} {[r.digest for r in recordings.values()]} "
        f"{seed} {_OPTIONS}".encode()
    ).hexdigest()
    notes = {name: CACHE / name / f"{digest[:24]}.json" for name in names}
    if not all(note.exists() for note in notes.values()):
        with tempfile.TemporaryDirectory(prefix="wat-agents-") as folder:
            found = await found_in(recordings, Path(folder), seed)
            artifacts = Path(folder) / "data" / "artifacts"
            known: dict[str, Model] = {}  # by routine
            for name, note in notes.items():
                own = [one for one in found if one.share(name) >= _OWN_SHARE]
                best = max(own, key=lambda one: one.events[name], default=None)
                if best is None:
                    error = "the learner found no routine of it"
                    save(note, Model(seed, None, b"", {"error": error}))
                    continue
                routine_id = best.routine.routine_id
                if routine_id not in known:
                    known[routine_id] = await _trained_on(best.routine, artifacts, digest, seed)
                model = known[routine_id]
                about = {"status": best.routine.status, "support": best.routine.support,
                         "share": round(best.share(name), 3)}  # fmt: skip
                save(note, dataclasses.replace(model, figures={**model.figures, **about}))
    return {name: load(note, seed) for name, note in notes.items()}


async def _trained_on(routine: Routine, artifacts: Path, digest: str, seed: int) -> Model:
    try:
        return await train(routine, artifacts, digest, seed)
    except TrainingError as error:
        return Model(seed, None, b"", {"error": str(error)[:300]})


async def all_trained(names: Sequence[str], asked: "Asked", row: str) -> AsyncIterator[Model]:
    """Yield the models of each task in turn; the next trains while one is played."""
    ahead: asyncio.Task[Model] | None = None
    for name in names:
        for seed, recordings in asked.sets(name, row):
            model = await ahead if ahead is not None else None
            ahead = asyncio.create_task(trained(name, recordings, seed))
            if model is not None:
                yield model
    if ahead is not None:
        yield await ahead


async def played(
    name: str,
    module: bytes,
    seeds: Sequence[int],
    players: Sequence[Player],
    change: Change | None = None,
) -> list[Episode]:
    """Return cached episodes and play those that are missing, keeping each as it ends.

    The players share them: an episode mostly waits for its page.
    """
    by = source_digest(_PLAYED_BY if change is None else _DRIFTED_BY)
    key = hashlib.sha256(module + by.encode()).hexdigest()[:24]
    file = CACHE / name / f"{key}.episodes.jsonl"
    known: dict[int, Episode] = {}
    if file.exists():
        for line in file.read_text().splitlines():
            episode = Episode(**json.loads(line))
            known[episode.seed] = episode
    missing = [seed for seed in seeds if seed not in known]
    if missing:
        with file.open("a") as out:

            async def play(player: Player, own: Sequence[int]) -> None:
                async for episode in player.play(name, module, own, change):
                    out.write(json.dumps(dataclasses.asdict(episode)) + "\n")
                    out.flush()
                    known[episode.seed] = episode

            num = len(players)
            async with asyncio.TaskGroup() as group:
                for i, player in enumerate(players):
                    group.create_task(play(player, missing[i::num]))
    return [known[seed] for seed in seeds]


def published(data: Path) -> dict[str, dict[str, str]]:
    """Return the published rows beside the recordings, by task; none where there is no table."""
    table = data.parent / "published" / "miniwob_published.csv"
    if not table.exists():
        return {}
    with table.open(newline="") as stream:
        return {row["task"]: row for row in csv.DictReader(stream)}


def show(name: str, episode: Episode) -> None:
    """Print what one episode saw, chose and by what margin."""
    for at, step in enumerate(episode.steps):
        did = f"{step.get('op')} {step.get('slot') or ''} {step.get('text') or ''}"
        print(f"step {at + 1}: {did} on [{step.get('element')}], margin {step.get('margin')}")
        print(f"    {step.get('note', '')}")
        for line in step.get("saw", ()):
            print(f"    {'>' if line == step.get('element') else ' '} {line}")
    print(
        f"{name} seed {episode.seed}: reward {episode.reward}, {episode.ended}, {episode.wall_s} s"
    )


@dataclasses.dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    files: dict[str, Path]
    row: str
    seeds: range
    num_trainings: int
    published: dict[str, dict[str, str]]

    def sets(self, name: str, row: str) -> list[tuple[int, Recordings]]:
        """Return each training seed with the recordings of a row that it learns from."""
        number = int(row) if row.isdigit() else MAX_DEMONSTRATIONS
        return [
            (seed, read_recordings(
                self.files[name], number, failed_too=row == "noise",
                draw=seed if row.isdigit() else 0,
            ))
            for seed in range(self.num_trainings)
        ]  # fmt: skip

    def has_failures(self, name: str) -> bool:
        """Tell whether people failed at a task among the recordings of the noisy row."""
        [_, clean], [_, noisy] = self.sets(name, "main")[0], self.sets(name, "noise")[0]
        return clean.digest != noisy.digest


async def measure(
    name: str, asked: Asked, players: Sequence[Player], row: str, models: AsyncIterator[Model]
) -> dict[str, Any]:
    """Play the next models, those of one task; return its row."""
    episodes: list[tuple[Model, list[Episode]]] = []
    scores: list[float] = []
    latencies: list[dict[str, float]] = []
    error, num_demonstrations = "", 0.0
    for _ in range(asked.num_trainings):
        model = await anext(models)
        num_demonstrations = model.figures.get("num_demonstrations", 0.0)
        if model.module is None:
            scores.append(0.0)
            error = model.figures["error"]
            continue
        found = await played(name, model.module, asked.seeds, players)
        scores.append(statistics.mean(e.success for e in found))
        episodes.append((model, found))
        if row == "main":
            latencies.append(decision_us(model.module, model.weights))
    every = [e for _, found in episodes for e in found]
    ends = [e.ended for e in every if not e.success]
    return {
        "task": name,
        "success": round(statistics.mean(scores), 4),
        "scores": scores,
        "num_demonstrations": int(num_demonstrations),
        "num_bytes": max((len(m.module or b"") for m, _ in episodes), default=0),
        "precisions": sorted({"f32" if m.figures.get("agreement_int8", 1) < 0.995 else "int8"
                              for m, _ in episodes}),
        "training_cpu_s": _median([m.figures["cpu_s"] for m, _ in episodes]),
        "latency_us": {
            engine: _median([one[engine] for one in latencies])
            for engine in (latencies[0] if latencies else ())
        },
        "encoding_ms": _median([e.encoding_ms for e in every if e.encoding_ms is not None]),
        "acting_ms": _median([e.acting_ms for e in every if e.acting_ms is not None]),
        "episodes": len(every),
        "error": error,
        "failures_end": max(set(ends), key=ends.count)[:60] if ends else "",
        "calibrated_margins": [m.figures.get("calibrated_margin") for m, _ in episodes],
        "states": [
            (e.min_margin, e.success, e.is_reported_done(0),
             e.is_reported_done(m.figures.get("calibrated_margin", 0)))
            for m, found in episodes for e in found
        ],
        "published": asked.published.get(name),
    }  # fmt: skip


async def measure_streams(
    names: list[str], asked: Asked, players: Sequence[Player]
) -> AsyncIterator[dict[str, Any]]:
    """Yield the rows of tasks that the learner had to find in streams, each with two others."""
    shuffled = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    for first in range(0, len(shuffled), TASKS_TOGETHER):
        together = shuffled[first : first + TASKS_TOGETHER]
        found = [
            await trained_of_stream(together, asked, seed) for seed in range(asked.num_trainings)
        ]
        for name in together:
            row = await measure(name, asked, players, "end-to-end", _each([f[name] for f in found]))
            kept = ("status", "support", "share")
            yield {**row, "found": [{k: f[name].figures.get(k) for k in kept} for f in found]}


async def _each(models: list[Model]) -> AsyncIterator[Model]:
    for model in models:
        yield model


async def measure_drift(
    name: str, asked: Asked, players: Sequence[Player], models: AsyncIterator[Model]
) -> dict[str, Any]:
    """Play the main row's modules on changed pages; return the row beside the unchanged pages."""
    pairs: list[tuple[str, bool, bool]] = []
    left_out: dict[str, str] | None = None
    for _ in range(asked.num_trainings):
        model = await anext(models)
        if model.module is None:
            continue
        plain = await played(name, model.module, asked.seeds, players)
        if left_out is None:
            solved = [e.seed for e in plain if e.success]
            left_out = await checked(name, model.module, solved, players[0])
        seeds = [seed for seed in asked.seeds if change_of(seed) not in left_out]
        changed = await played(name, model.module, seeds, players, drift)
        by_seed = {e.seed: e for e in plain}
        pairs += [(change_of(e.seed), by_seed[e.seed].success, e.success) for e in changed]
    return {
        "task": name,
        "left_out": left_out or {},
        "pairs": pairs,
        "unchanged": _mean([before for _, before, _ in pairs]),
        "success": _mean([after for _, _, after in pairs]),
    }


async def checked(name: str, module: bytes, solved: list[int], player: Player) -> dict[str, str]:
    """Return the cached or new answer of `unpaid`: which changes a task cannot be met with."""
    key = hashlib.sha256(module + source_digest(_DRIFTED_BY).encode()).hexdigest()[:24]
    file = CACHE / name / f"{key}.unpaid.json"
    if not file.exists():
        file.write_text(json.dumps(await unpaid(player, name, module, solved)))
    return dict(json.loads(file.read_text()))


def _median(values: Sequence[float]) -> float | None:
    return round(statistics.median(values), 2) if values else None


def _mean(values: Sequence[float]) -> float | None:
    return round(statistics.mean(values), 4) if values else None


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what bounds a row: means, counts, sizes, times, run states."""
    beside = [row for row in rows if row["published"]]
    states = [state for row in rows for state in row["states"]]
    engines = ("module_call", "sandbox_step", "onnxruntime", "torch")
    latency = {
        engine: _median([row["latency_us"][engine] for row in rows if row["latency_us"]])
        for engine in engines
    }
    slower = [r["latency_us"]["module_call"] / r["latency_us"]["onnxruntime"]
              for r in rows if r["latency_us"]]  # fmt: skip
    return {
        "mean_success": _mean([row["success"] for row in beside]),
        "published_means": {
            system: _mean([float(row["published"][system]) for row in beside])
            for system in ("autowebglm_6b", "html_t5_xl_3b")
        },
        "num_tasks": len(beside),
        "tasks_at_90": sum(row["success"] >= 0.9 for row in beside),
        "tasks_at_95": sum(row["success"] >= 0.95 for row in beside),
        "mean_success_all": _mean([row["success"] for row in rows]),
        "largest_module_bytes": max((row["num_bytes"] for row in rows), default=0),
        "modules_to_128_kib": sum(row["num_bytes"] <= 128 * 1024 for row in rows),
        "slowest_training_cpu_s": max((row["training_cpu_s"] or 0 for row in rows), default=0),
        "latency_us_median_of_tasks": latency,
        "slowest_module_call_us": max(
            (row["latency_us"]["module_call"] for row in rows if row["latency_us"]), default=None
        ),
        "module_call_by_onnxruntime": _median(slower),
        "encoding_ms": _median([row["encoding_ms"] for row in rows if row["encoding_ms"]]),
        "acting_ms": _median([row["acting_ms"] for row in rows if row["acting_ms"]]),
        "reported_done_but_wrong": _mean([done and not good for _, good, _, done in states]),
        "successes_reported_done": _mean([done for _, good, _, done in states if good]),
        "risk_coverage": risk_coverage([(m, good, done) for m, good, done, _ in states]),
    }


def risk_coverage(states: list[tuple[float, bool, bool]]) -> list[dict[str, float]]:
    """Return, by the least margin that an episode must keep, what is wrong and what is kept.

    `states` are (smallest margin of the episode, success, reported done when always acting). Wrong
    and kept are shares of all episodes and of the successful ones, had the agent abstained below.
    """
    successes = sum(good for _, good, _ in states)
    curve = []
    for least in (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0):
        acted = [good for margin, good, done in states if done and margin >= least]
        curve.append(
            {
                "margin": least,
                "wrong": round(sum(not good for good in acted) / max(1, len(states)), 4),
                "kept": round(sum(acted) / max(1, successes), 4),
            }
        )
    return curve


def drift_summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the changes cost, in all and each, and what was left out of the measure."""
    pairs = [pair for row in rows for pair in row["pairs"]]
    kinds = sorted({change for change, _, _ in pairs})

    def loss(chosen: list[tuple[str, bool, bool]]) -> float | None:
        return _mean([before - after for _, before, after in chosen])

    return {
        "num_episodes": len(pairs),
        "unchanged": _mean([before for _, before, _ in pairs]),
        "drifted": _mean([after for _, _, after in pairs]),
        "loss": loss(pairs),
        "loss_by_change": {kind: loss([p for p in pairs if p[0] == kind]) for kind in kinds},
        "left_out": {row["task"]: row["left_out"] for row in rows if row["left_out"]},
    }


def tell(row: dict[str, Any]) -> None:
    """Print one task's line."""
    beside = row.get("published") or {}
    six, five = beside.get("autowebglm_6b", "-"), beside.get("html_t5_xl_3b", "-")
    if "pairs" in row:
        print(f"{row['task']:28} {row['unchanged']} -> {row['success']}  {row['left_out'] or ''}",
              flush=True)  # fmt: skip
        return
    print(
        f"{row['task']:28} {row['success']:5.2f} {six:>5} {five:>5}  {row['num_demonstrations']:5} "
        f"{row['num_bytes'] / 1024:4.0f} {row['training_cpu_s'] or 0:6.1f}  "
        f"{row['failures_end'] or row['error'][:60]}",
        flush=True,
    )


async def measured(
    names: list[str], asked: Asked, players: Sequence[Player], row: str
) -> AsyncIterator[dict[str, Any]]:
    """Yield each task's row."""
    if row == "end-to-end":
        async for found in measure_streams(names, asked, players):
            yield found
        return
    models = all_trained(names, asked, "main" if row == "drift" else row)
    for name in names:
        if row == "drift":
            yield await measure_drift(name, asked, players, models)
        else:
            yield await measure(name, asked, players, row, models)


async def run(asked: Asked, names: list[str], players: Sequence[Player]) -> dict[str, Any]:
    """Measure one row of the benchmark."""
    began = time.monotonic()
    rows: list[dict[str, Any]] = []
    if asked.row != "drift":
        print(f"{'task':28} {'ours':>5} {'6B':>5} {'T5':>5}  demos   KB  train  failures end")
    async for row in measured(names, asked, players, asked.row):
        rows.append(row)
        tell(row)
    report = drift_summary(rows) if asked.row == "drift" else summary(rows)
    if asked.row == "noise":
        clean = [row async for row in measured(names, asked, players, "main")]
        report["clean_success"] = _mean([row["success"] for row in clean])
        report["loss"] = round(report["clean_success"] - report["mean_success_all"], 4)
    return {
        "row": asked.row,
        **report,
        "seeds": [asked.seeds.start, asked.seeds.stop - 1],
        "num_training_seeds": asked.num_trainings,
        "wall_s": round(time.monotonic() - began),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load_average": os.getloadavg(),
        "num_cpus": os.cpu_count(),
        "rows": rows,
    }


async def main() -> int:
    """Train, play and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of *.jsonl.xz recordings")
    parser.add_argument("--row", default="main", help="main, 3, 10, 30, noise, drift, end-to-end")
    parser.add_argument("--tasks", default="", help="comma-separated; default: all with a page")
    parser.add_argument("--seeds", default="0:49", help="first:last")
    parser.add_argument("--training-seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one training seed, 10 episodes")
    parser.add_argument("--players", type=int, default=2, help="browsers that play at once")
    parser.add_argument("--show", default="", help="TASK:SEED: what that episode saw and did")
    given = parser.parse_args()
    if not (given.row.isdigit() or given.row in ("main", "noise", "drift", "end-to-end")):
        parser.error(f"there is no row {given.row}: see --help")
    first, _, last = given.seeds.partition(":")
    seeds = range(int(first), int(last) + 1)
    pages = Pages()
    files = {file.name.removesuffix(".jsonl.xz"): file for file in given.data.glob("*.jsonl.xz")}
    wanted = given.tasks.split(",") if given.tasks else sorted(set(files) & pages.names)
    if missing := set(wanted) - set(files):
        print(f"no recordings of {', '.join(sorted(missing))} in {given.data}", file=sys.stderr)
        return 2
    asked = Asked(
        files=files,
        row=given.row,
        seeds=seeds[:10] if given.quick else seeds,
        num_trainings=1 if given.quick else given.training_seeds,
        published=published(given.data),
    )
    players = [Player(pages) for _ in range(given.players)]
    try:
        if given.show:
            name, _, seed = given.show.partition(":")
            model = await trained(name, read_recordings(files[name]), 0)
            if model.module is not None:
                [episode] = await played(name, model.module, [int(seed)], players)
                show(name, episode)
            return 0
        if asked.row == "noise":
            wanted = [name for name in wanted if asked.has_failures(name)]
        report = await run(asked, wanted, players)
    finally:
        for player in players:
            await player.end()
        pages.close()
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    every = json.loads(REPORT.read_text()) if REPORT.exists() else {}
    REPORT.write_text(json.dumps({**every, asked.row: report}, indent=1) + "\n")
    print(json.dumps({k: v for k, v in report.items() if k != "rows"}))
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
