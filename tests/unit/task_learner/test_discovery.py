"""Discovery's core: compiled labels, one stream however it comes, and what is no routine."""

import json
import random

import numpy as np
import pytest

from services.task_learner.discovery.boundaries import gap_bin, gap_bins
from services.task_learner.discovery.decode import NOISE, Decoder, decoded
from services.task_learner.discovery.evidence import evidence
from services.task_learner.discovery.fit import Stretch, fit
from services.task_learner.discovery.miner import Final, Miner
from services.task_learner.discovery.model import ThreadModel
from services.task_learner.discovery.types import Types

CHORES = ((0, 1, 2, 3, 4, 5), (6, 7, 8, 9), (10, 11, 2, 3, 12))


def stream(seed: int, executions: int, noise: float = 0.0) -> list[tuple[int, int, int]]:
    """Return (token, time, number of the execution or -1) of chores one after the other."""
    rng = random.Random(seed)  # noqa: S311
    found, now_ms = [], 0
    for number in range(executions):
        now_ms += rng.randrange(20_000, 90_000)
        for token in rng.choice(CHORES):
            now_ms += rng.randrange(500, 3_000)
            if rng.random() < noise:
                found.append((rng.randrange(13), now_ms, -1))
                now_ms += rng.randrange(500, 3_000)
            found.append((token, now_ms, number))
    return found


def mined(events: list[tuple[int, int, int]]) -> dict[int, Final]:
    miner = Miner()
    finals = [f for token, time_ms, _ in events for f in miner.push(token, time_ms)]
    return {f.position: f for f in finals + miner.finish()}


def test_finds_each_execution_by_its_events_and_type() -> None:
    events = stream(1, 120)
    found = mined(events)
    assert sorted(found) == list(range(len(events)))
    late = [(found[i], number) for i, (_, _, number) in enumerate(events) if number > 30]
    assert len({(f.execution, number) for f, number in late}) == len({n for _, n in late})
    assert len({f.kind for f, _ in late}) == len(CHORES)


def test_a_label_comes_at_most_250_events_late() -> None:
    miner = Miner()
    for now, (token, time_ms, _) in enumerate(stream(2, 300, noise=0.3)):
        for final in miner.push(token, time_ms):
            assert now - final.position <= 250


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_beam_labels_alike_event_by_event_and_at_once(noise: float) -> None:
    events = stream(3, 60, noise)
    tokens, times_ms, _ = zip(*events, strict=True)
    model = fit(Stretch(tokens, times_ms, [False] * len(events)))
    gaps = np.array([1, *map(gap_bin, np.diff(times_ms).tolist())])
    whole, _ = decoded(model, np.array(tokens), gaps)
    decoder = Decoder(ThreadModel.load(json.loads(json.dumps(model.dump()))))
    parts = [decoder.push(t, ms) for t, ms in zip(tokens, times_ms, strict=True)]
    parts.append(decoder.finish())
    assert [node.first for nodes in parts for node in nodes] == whole.first.tolist()


def test_an_event_of_no_routine_is_left_out() -> None:
    events = stream(4, 200, noise=0.1)
    found = mined(events)
    late = range(len(events) // 3, len(events))
    strays = [i for i in late if events[i][2] < 0]
    left_out = sum(found[i].execution is None for i in strays)
    assert left_out > 0.8 * len(strays)
    taken = sum(found[i].execution is None for i in late if events[i][2] >= 0)
    assert taken < 0.05 * len(late)
    assert NOISE < 0


@pytest.mark.parametrize(
    ("first", "second", "number"),
    [
        ((1, 2, 3, 4, 5, 6), (7, 8, 3, 4, 9, 10), 2),  # two chores that share what is in the middle
        ((1, 2, 3, 4, 5, 6), (1, 2, 7, 4, 5, 6), 1),  # one chore with a choice
    ],
)
def test_two_chores_that_share_steps_are_two_types_and_a_choice_is_none(
    first: tuple[int, ...], second: tuple[int, ...], number: int
) -> None:
    kinds = Types().recluster([(first, None), (second, None)] * 20)
    assert len(set(kinds)) == number


@pytest.mark.parametrize("seed", range(3))
def test_no_type_of_events_in_no_order_is_ever_confirmed(seed: int) -> None:
    tokens = [token for token, _, _ in stream(seed, 400)]
    random.Random(seed).shuffle(tokens)  # noqa: S311
    found = mined([(token, 2_000 * i, -1) for i, token in enumerate(tokens)])
    assert any(f.kind is not None for f in found.values())
    assert not any(f.confirmed for f in found.values())


def test_chores_are_confirmed_and_stay_so_over_a_restart() -> None:
    events = stream(5, 200)
    found = mined(events)
    late = [f for f in found.values() if f.position > len(events) // 2 and f.kind is not None]
    assert all(f.confirmed for f in late)
    miner = Miner()
    miner.begin(*zip(*((token, time_ms, False) for token, time_ms, _ in events), strict=True))
    again = Miner()
    again.load(json.loads(json.dumps(miner.dump())))
    more = [(token, time_ms + events[-1][1], False) for token, time_ms, _ in stream(6, 40)]
    one = [f for event in more for f in miner.push(*event)] + miner.finish()
    two = [f for event in more for f in again.push(*event)] + again.finish()
    assert one == two
    assert sum(f.confirmed for f in one) > 0.8 * len(one)


def test_links_that_only_frequency_makes_are_no_evidence() -> None:
    rng = random.Random(7)  # noqa: S311
    tokens = rng.choices(range(10), weights=[20] + [1] * 9, k=2_000)
    frequent = [[i, i + 1] for i in range(0, 1_999, 2) if tokens[i] == tokens[i + 1] == 0]
    assert evidence(tokens, frequent) == 0
    for i in range(0, 2_000, 100):
        tokens[i : i + 4] = [10, 11, 12, 13]
    assert evidence(tokens, [range(i, i + 4) for i in range(0, 2_000, 100)]) > 100


def test_pauses_have_the_same_bins_at_once_as_one_by_one() -> None:
    gaps = [-5, 0, *range(1, 5_000), *(2**n + d for n in range(2, 40) for d in (-1, 0, 1))]
    times_ms = np.cumsum([0, *gaps]).tolist()
    assert gap_bins(times_ms).tolist() == [1, *map(gap_bin, gaps)]
