"""The logs of a data folder as token streams with their truth; noise, mixes and shuffles of them.

A log is read with the columns it has: what stands for application, window, element and action makes
the token, numbers masked; the row a cell stands in is its record; what was entered or copied is its
value. Truth never enters a token.
"""

import csv
import lzma
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

from services.task_learner.actions import mask
from tests.bench.learner.scores import Label

_APPLICATION = ("targetApp", "source")
_DOCUMENT = ("target.workbookName", "FileName", "target.sheetName", "Sheet", "url", "Url")
_ELEMENT = ("target.tagName", "target.type", "target.name", "target.id", "Label", "Key", "Column")
_NAME = ("target.innerText",)  # of a control only
_VALUE = ("content", "target.value", "Value", "clipboard_content")
_TIME = ("timeStamp", "time:timestamp")
_CELL = re.compile(r"^[A-Z]{1,3}(\d+)$")
_CONTROLS = frozenset({"A", "BUTTON", ""})


@dataclass(frozen=True)
class Step:
    """One event of a log."""

    token: str
    time_ms: int
    record: str = ""
    value: str = ""
    label: Label = None


@dataclass(frozen=True)
class Log:
    """A log with its truth."""

    name: str
    steps: tuple[Step, ...]
    routines: tuple[frozenset[str], ...] = ()  # action sets, where only those are known

    @property
    def truth(self) -> list[Label]:
        """Return the label of each event."""
        return [step.label for step in self.steps]


def contiguous(folder: Path) -> Iterator[Log]:
    """Yield the logs of several routine types one after the other."""
    for path in sorted((folder / "contiguous").glob("*.csv.xz")):
        rows = _rows(path)
        yield _log(path, rows, [(row["Task"], row["idx"]) for row in rows])


def single(folder: Path) -> Iterator[Log]:
    """Yield the logs of one routine type with a truth for each event."""
    for path in sorted((folder / "single").glob("*.csv.xz")):
        rows = _rows(path)
        if "Task" in rows[0]:
            yield _log(path, rows, _runs([(row["Task"], row["idx"]) for row in rows]))
        elif "caseID" in rows[0]:
            yield _log(path, rows, [(path.stem, row["caseID"]) for row in rows])


def interleaved(folder: Path) -> Iterator[Log]:
    """Yield the interleaved logs with a truth for each event (3R: types only)."""
    for path in _numbered(folder, "interleaved_event_truth/*/*.csv.xz"):
        rows = _rows(path)
        log = _log(path, rows, [(r["routine_type"], r["case:concept:name"]) for r in rows])
        sets = defaultdict(set)
        for step in log.steps:
            assert step.label is not None
            sets[step.label[1]].add(step.token)
        yield replace(log, routines=tuple(map(frozenset, sets.values())))


def action_sets(folder: Path, kind: str) -> Iterator[Log]:
    """Yield the interleaved logs (`Synthetic`, `Real`) whose truth is action sets only."""
    models = {
        path.stem: frozenset(_visible(path))
        for path in sorted((folder / "interleaved_models" / kind).glob("*.pnml"))
    }
    for path in _numbered(folder, f"interleaved_{kind.lower()}/*/*.csv.xz"):
        log = _log(path, _rows(path), None)
        alphabet = {step.token.partition("\x1f")[0] for step in log.steps}
        number = int(path.parent.name[0])
        sets = _cover(alphabet, list(models.values()), number)
        if sets is not None:
            yield replace(log, routines=sets)


def real_life(folder: Path) -> Iterator[Log]:
    """Yield the sub-logs by time, without what names their routine."""
    for path in sorted((folder / "real_life").glob("*.csv.xz")):
        rows = [r for r in _rows(path) if not r["concept:name"].startswith(("start_", "end_"))]
        rows.sort(key=lambda row: row["time:timestamp"])
        for row in rows:
            row["concept:name"] = re.sub(r"_\d+$", "", row["concept:name"])
        yield _log(path, rows, [(r["routine_type"], r["segment_id"]) for r in rows])


def interrupted(log: Log) -> set[object]:
    """Return the instances that others interrupt, and those others."""
    at: dict[object, list[int]] = defaultdict(list)
    for i, step in enumerate(log.steps):
        if step.label is not None:
            at[step.label[0]].append(i)
    return {
        other.label[0]
        for events in at.values() if events[-1] - events[0] + 1 > len(events)
        for other in log.steps[events[0] : events[-1] + 1] if other.label is not None
    }  # fmt: skip


def noisy(log: Log, share: float, seed: int) -> Log:
    """Return the log with noise: at each event with probability `share`, half of the time the event
    is deleted, else a uniformly drawn event of the log is inserted before it.
    """
    rng = random.Random(seed)  # noqa: S311
    steps: list[Step] = []
    for step in log.steps:
        if rng.random() < share:
            if rng.random() < 0.5:
                continue
            drawn = rng.choice(log.steps)
            since_ms = step.time_ms - steps[-1].time_ms if steps else 0
            time_ms = step.time_ms - int(rng.random() * max(0, since_ms))
            steps.append(replace(drawn, time_ms=time_ms, label=None))
        steps.append(step)
    return Log(f"{log.name}+{share:.0%}", tuple(steps))


MIXED = (
    ("CopyPasteStuff", "contiguous/L2.csv.xz"), ("Reimbursement", "contiguous/L2.csv.xz"),
    ("StudentRecord", "contiguous/L2.csv.xz"), ("TravelRequest", "contiguous/L2.csv.xz"),
    ("TF_02.csv", "single/TF_02.csv.xz"), ("TF_03.csv", "single/TF_03.csv.xz"),
    ("cpn2", "single/cpn2.csv.xz"), ("cpn6", "single/cpn6.csv.xz"),
)  # fmt: skip


def mix(folder: Path, seed: int, most: int = 100) -> Log:
    """Return a mix of eight types, each with 8, 15, 30 or all (at most `most`) of its instances.

    The pause before an instance is drawn from the pauses inside instances: it tells nothing.
    """
    rng = random.Random(seed)  # noqa: S311
    logs = {log.name: log for log in (*contiguous(folder), *single(folder))}
    chosen: list[list[Step]] = []
    for kind, path in MIXED:
        name = Path(path).name.removesuffix(".csv.xz")
        groups: dict[object, list[Step]] = defaultdict(list)
        for step in logs[name].steps:
            if step.label is not None and step.label[1] in (kind, f"{kind}.csv"):
                groups[step.label[0]].append(replace(step, label=((kind, step.label[0]), kind)))
        instances = list(groups.values())
        number = rng.choice((8, 15, 30, most))
        chosen += rng.sample(instances, min(number, len(instances)))
    rng.shuffle(chosen)
    pauses = [max(0, b.time_ms - a.time_ms) for i in chosen for a, b in pairwise(i)]
    steps: list[Step] = []
    now_ms = 0
    for instance in chosen:
        now_ms += rng.choice(pauses)
        before = instance[0].time_ms
        for step in instance:
            now_ms += max(0, step.time_ms - before)
            before = step.time_ms
            steps.append(replace(step, time_ms=now_ms))
    return Log(f"mix-{seed}", tuple(steps))


def shuffled(log: Log, seed: int, number: int) -> Log:
    """Return `number` events drawn from the log in no order, at the log's own pace."""
    rng = random.Random(seed)  # noqa: S311
    pauses = [max(0, b.time_ms - a.time_ms) for a, b in pairwise(log.steps)]
    steps: list[Step] = []
    now_ms = 0
    for step in rng.choices(log.steps, k=number):
        now_ms += rng.choice(pauses)
        steps.append(replace(step, time_ms=now_ms, label=None))
    return Log(f"shuffled-{log.name}-{seed}", tuple(steps))


def _rows(path: Path) -> list[dict[str, str]]:
    with lzma.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _numbered(folder: Path, pattern: str) -> list[Path]:
    return sorted(
        folder.glob(pattern), key=lambda p: (p.parent, int(re.sub(r"\D", "", p.name) or 0))
    )


def _log(
    path: Path, rows: Sequence[dict[str, str]], truth: Sequence[tuple[str, str]] | None
) -> Log:
    name = path.name.removesuffix(".csv.xz")
    if path.parent.name.endswith("R"):
        name = f"{path.parent.parent.name}/{path.parent.name}/{name}"
    columns = rows[0].keys()
    steps = []
    for number, row in enumerate(rows):
        label = (truth[number], truth[number][0]) if truth and truth[number][0] else None
        steps.append(_step(row, columns, label))
    return Log(name, tuple(steps))


def _step(row: dict[str, str], columns: object, label: Label) -> Step:
    time_ms = _time_ms(next(row[c] for c in _TIME if row.get(c)))
    if "concept:name" in row and "eventType" not in row:
        return Step(row["concept:name"], time_ms, label=label)
    documents = [row[c].partition("?")[0] for c in _DOCUMENT if row.get(c)]
    element = [row[c] for c in _ELEMENT if row.get(c)]
    if row.get("target.tagName", "") in _CONTROLS:
        element += [row[c] for c in _NAME if row.get(c)]
    parts = [row["eventType"], *(row[c] for c in _APPLICATION if row.get(c)), *documents, *element]
    cell = _CELL.match(row.get("target.id") or "")
    record = cell.group(1) if cell else row.get("Row") or ""
    value = next((row[c] for c in _VALUE if row.get(c)), "")
    return Step("\x1f".join(map(mask, parts)), time_ms, record, value.strip(), label)


def _time_ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def _runs(keys: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Number the runs of equal keys: a log may use one number for several instances."""
    run, runs = 0, []
    for i, key in enumerate(keys):
        run += bool(i) and key != keys[i - 1]
        runs.append((key[0], f"{key[1]}-{run}"))
    return runs


def _visible(path: Path) -> Iterator[str]:
    for node in ElementTree.parse(path).iter():  # noqa: S314  a file of the benchmark's own data
        if node.tag.endswith("transition") and not any(
            n.tag.endswith("toolspecific") and n.get("activity") == "$invisible$" for n in node
        ):
            yield next(t.text or "" for t in node.iter() if t.tag.endswith("text"))


def _cover(
    alphabet: set[str], models: Sequence[frozenset[str]], number: int
) -> tuple[frozenset[str], ...] | None:
    """Return the only `number` models that together have just these actions; None if not one."""
    inside = sorted({m for m in models if m <= alphabet}, key=sorted)
    found = [c for c in _choices(inside, number) if frozenset().union(*c) == alphabet]
    return found[0] if len(found) == 1 else None


def _choices(sets: Sequence[frozenset[str]], number: int) -> Iterator[tuple[frozenset[str], ...]]:
    if not number:
        yield ()
        return
    for i, chosen in enumerate(sets):
        for rest in _choices(sets[i + 1 :], number - 1):
            yield (chosen, *rest)
