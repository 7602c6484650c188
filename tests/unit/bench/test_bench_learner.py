"""The benchmark of discovery on a log made up here: what it scores is what was done."""

from tests.bench.learner.run import label, scored
from tests.bench.learner.sets import Log, Step


def two_chores(num: int) -> Log:
    """Return two chores done in turn, without noise, a minute apart."""
    steps, now_ms = [], 0
    for execution in range(num):
        kind = "abcde" if execution % 3 else "vwxyz"
        for token in kind:
            now_ms += 1_000
            steps.append(Step(token, now_ms, label=(execution, kind)))
        now_ms += 60_000
    return Log("two chores", tuple(steps))


def test_chores_without_noise_are_all_found_in_time():
    log = two_chores(60)
    run = label(log)
    assert len(run.labels) == len(log.steps)
    assert max(run.delays) <= 250
    assert scored(log, run)["later"].if1 > 0.9
