"""Rows of `bench-learner`: how well values are computed from others, learned from few examples.

Reads `transforms/transform_pairs.json` of the folder: by log, for each execution the source cells
and the final values of the fields. Of each field, three executions are drawn; what was learned from
them is asked for all others. A value that is not given is no wrong one.
"""

import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

from services.task_learner.synthesis import learn
from shared.transforms import run

__all__ = ["rows"]

NUM_EXAMPLES = 3
NUM_DRAWS = 20


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return one row for each log and field, and one for each log; [] where the folder has none."""
    path = folder / "transforms" / "transform_pairs.json"
    if not path.exists():
        return []
    found = []
    for log, cases in json.loads(path.read_text()).items():
        if not any(case["src"] for case in cases):
            continue  # sources that were not recorded cannot be learned from
        fields = sorted({field for case in cases for field in case["tgt"]})
        of_log = [_field(log, field, [c for c in cases if field in c["tgt"]]) for field in fields]
        found += of_log
        found.append(
            {
                "set": "transforms", "log": log, "field": "(mean)", "num_fields": len(fields),
                **{k: statistics.mean(r[k] for r in of_log) for k in _FIGURES},
            }
        )  # fmt: skip
    return found


_FIGURES = ("exact", "wrong", "abstained", "learn_ms")


def _field(log: str, field: str, cases: list[dict[str, Any]]) -> dict[str, Any]:
    inputs = sorted({name for case in cases for name in case["src"]})
    examples = [([c["src"].get(name, "") for name in inputs], c["tgt"][field]) for c in cases]
    counts = {"exact": 0, "wrong": 0, "abstained": 0}
    taken_ms = []
    for draw in range(NUM_DRAWS):
        order = random.Random(f"{log} {field} {draw}").sample(range(len(cases)), len(cases))  # noqa: S311
        shown, asked = order[:NUM_EXAMPLES], order[NUM_EXAMPLES:]
        started = time.perf_counter()
        constant, programme = _learned(inputs, [examples[i] for i in shown])
        taken_ms.append((time.perf_counter() - started) * 1000)
        for texts, result in (examples[i] for i in asked):
            given = constant
            if programme is not None:
                given = run(programme, dict(zip(inputs, texts, strict=True)))
            if given is None:
                counts["abstained"] += 1
            else:
                counts["exact" if given == result.strip() else "wrong"] += 1
    total = sum(counts.values())
    return {
        "set": "transforms", "log": log, "field": field, "num_cases": len(cases),
        **{name: number / total for name, number in counts.items()},
        "learn_ms": statistics.median(taken_ms),
    }  # fmt: skip


def _learned(inputs: list[str], examples: list[tuple[list[str], str]]) -> tuple[str | None, Any]:
    programme = learn(inputs, examples)
    results = {result.strip() for _, result in examples}
    return (results.pop() if programme is None and len(results) == 1 else None), programme
