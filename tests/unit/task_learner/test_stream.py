"""A stream goes on from its state as if nothing had been, and forgets what it no longer sees."""

import random

from services.task_learner.discovery.miner import Miner
from services.task_learner.segment import Vocabulary
from services.task_learner.stream import Stream
from tests.unit.task_learner import ui_logs
from tests.unit.task_learner.logs import actions_of

WINDOW = 300


def log(seed, num):
    """Two chores among other events, now and then mixed up."""
    rng = random.Random(seed)  # noqa: S311
    events, now_ms = [], 0
    while len(events) < num:
        chore = rng.choice([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11], [rng.randrange(12, 40)]])
        for token in chore:
            if rng.random() < 0.1:
                events.append((rng.randrange(12, 40), now_ms, False))
            now_ms += rng.randrange(500, 3_000)
            events.append((token, now_ms, token == 1))
        now_ms += rng.randrange(5_000, 60_000)
    return events[:num]


def test_a_miner_restored_at_any_anchor_labels_as_if_it_had_never_stopped():
    events = log(3, 1_000)
    calm = Miner(WINDOW)
    wanted = [calm.push(*event) for event in events]
    disturbed, found, at, num_restored = Miner(WINDOW), [], 0, 0
    while at < len(events):
        found.append(disturbed.push(*events[at]))
        at += 1
        if disturbed.is_anchored:
            state = disturbed.dump()
            for event in events[at : at + 30]:  # what a process does before it is killed
                disturbed.push(*event)
            disturbed = Miner(WINDOW)
            disturbed.load(state)
            num_restored += 1
    assert num_restored > 5
    assert found == wanted
    assert disturbed.finish() == calm.finish()


def pushed(actions, stream=None, begin=1):
    stream = stream or Stream(WINDOW, Vocabulary())
    for stop in range(begin, len(actions) + 1):
        if stream.take(actions[:stop]):
            yield stop, stream


def test_a_stream_has_the_same_anchors_threads_and_vocabulary_after_a_restart():
    actions = actions_of(ui_logs.person(4, claims=30, mails=20).events)
    wanted = [(n, s.threads(actions[:n]), s.dump()) for n, s in pushed(actions)]
    for number, vocabulary, state in [
        (n, s.vocabulary, s.dump()) for n, s in pushed(actions)
    ][::3]:  # fmt: skip
        again = Stream(WINDOW, vocabulary)
        assert again.load(state)
        later = [(n, s.threads(actions[:n]), s.dump()) for n, s in pushed(actions, again, number)]
        assert later == [w for w in wanted if w[0] > number]


def test_a_state_of_another_window_is_refused():
    actions = actions_of(ui_logs.person(4, claims=12).events)
    _, stream = next(pushed(actions))
    state = stream.dump()
    assert not Stream(WINDOW + 1, Vocabulary()).load(state)


def test_memory_is_bounded_by_the_window():
    events = log(5, 3_000)
    miner, sizes = Miner(WINDOW), []
    for event in events:
        miner.push(*event)
        if miner.is_anchored:
            sizes.append(miner.num_kept)
    assert max(sizes) <= WINDOW + 120
    assert len(sizes) > 15


def test_a_new_chore_late_in_a_long_log_is_learned_soon():
    events = log(6, 4_000)
    miner = Miner(WINDOW)
    for event in events:
        miner.push(*event)
    now_ms, kinds = events[-1][1], []
    for _ in range(40):
        now_ms += 60_000
        for token in (50, 51, 52, 53, 54, 55):
            now_ms += 1_000
            found = miner.push(token, now_ms, token == 50)
            kinds += [f.kind for f in found if f.position >= len(events)]
    assert kinds[60:].count(None) < 0.1 * len(kinds[60:])
