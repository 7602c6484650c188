"""Running the learner's core over a log, prequentially, and measuring it."""

import resource
import time
from collections.abc import Collection, Hashable
from dataclasses import dataclass

from services.task_learner.discovery.miner import Miner
from tests.bench.learner.scores import Label, Scores, score, set_score
from tests.bench.learner.sets import Log

FIRST = 5
"""Instances of each type that the second figures leave out."""


@dataclass(frozen=True)
class Run:
    """One log's labels, and what they cost."""

    labels: list[Label]
    delays: list[int]  # events between an event and its label
    seconds: float
    confirmed: frozenset[Hashable]  # types, in the end
    once: frozenset[Hashable]  # … and those of labels that were given as confirmed


def label(log: Log) -> Run:
    """Return the final label of each event, its type confirmed or not."""
    numbers: dict[str, int] = {}
    labels: list[Label] = [None] * len(log.steps)
    delays = [0] * len(log.steps)
    miner = Miner()
    once: set[Hashable] = set()
    record = ""
    started = time.perf_counter()
    for now, step in enumerate(log.steps):
        token = numbers.setdefault(step.token, len(numbers))
        changed = bool(step.record) and step.record != record
        record = step.record or record
        for final in miner.push(token, step.time_ms, changed):
            if final.execution is not None:
                labels[final.position] = (final.execution, final.kind)
                if final.confirmed:
                    once.add(final.kind)
            delays[final.position] = now - final.position
    for final in miner.finish():
        if final.execution is not None:
            labels[final.position] = (final.execution, final.kind)
        delays[final.position] = len(log.steps) - 1 - final.position
    return Run(labels, delays, time.perf_counter() - started, miner.confirmed, frozenset(once))


def scored(log: Log, run: Run, only: Collection[Hashable] | None = None) -> dict[str, Scores]:
    """Return the scores with and without the first instances of each type."""
    return {
        "all": score(log.truth, run.labels, 0, only),
        "later": score(log.truth, run.labels, FIRST, only),
    }


def routines(log: Log, run: Run, least: int = 5) -> list[frozenset[str]]:
    """Return the action sets of the types confirmed in the end with `least` executions or more."""
    seen: dict[object, dict[object, set[str]]] = {}
    for step, found in zip(log.steps, run.labels, strict=True):
        if found is not None:
            seen.setdefault(found[1], {}).setdefault(found[0], set()).add(step.token)
    sets = []
    for kind, executions in seen.items():
        if kind in run.confirmed and len(executions) >= least:
            tokens = {t for bag in executions.values() for t in bag}
            usual = [
                t for t in tokens
                if sum(t in bag for bag in executions.values()) >= 0.1 * len(executions)
            ]  # fmt: skip
            sets.append(frozenset(usual))
    return sets


def set_scored(log: Log, run: Run) -> float:
    """Return sJC of a log of which the routines' action sets are known."""
    return set_score(log.routines, routines(log, run))


def peak_rss_mb() -> float:
    """Return the largest resident set of this process so far; MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
