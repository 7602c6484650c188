import numpy as np
import pytest

from services.agent_trainer.dataset import build, decisions, split, variants
from services.agent_trainer.demonstrations import read_chore
from shared.encoding import NUM_ELEMENT_FEATURES, encode
from tests.unit.agent_trainer.club import demonstrations, routine


def chore(num=6, num_sessions=1):
    traces, snapshots = demonstrations(num, num_sessions=num_sessions)
    return read_chore(routine(traces), traces, snapshots.__getitem__)


def test_numbers_survive_being_packed():
    found = chore(2)
    data = build(found.demonstrations, found, max_rows=10_000)
    state = found.demonstrations[0].states[0]
    slots = [(s, found.demonstrations[0].values[s]) for s in found.slots]
    encoded = encode(state.snapshot, slots, state.history)
    x, g = data.observation(0)
    assert x.ravel().tolist() == list(encoded.x)
    assert g.tolist() == list(encoded.g)


def test_targets_point_at_what_was_done_and_the_end_at_nothing():
    found = chore(2)
    made = decisions(found.demonstrations[0], found)
    assert made[-1].row == made[-1].action == -1
    state = found.demonstrations[0].states[0]
    slots = [(s, found.demonstrations[0].values[s]) for s in found.slots]
    assert encode(state.snapshot, slots, ()).elements[made[0].row] == state.target
    assert found.actions[made[0].action] == state.action


def test_rows_are_bounded_and_joining_keeps_places():
    found = chore(4)
    small = build(variants(found.demonstrations, found, 50, 0), found, max_rows=1_000)
    assert small.x_MF.shape[0] <= 1_000 + 400
    assert small.x_MF.shape[1] == NUM_ELEMENT_FEATURES
    both = small.joined(small)
    last = small.num_decisions
    assert np.array_equal(both.observation(last)[0], small.observation(0)[0])


def test_one_is_held_out_of_few_sessions_and_whole_sessions_of_many():
    learn, held = split(chore(5).demonstrations, seed=0)
    assert (len(learn), len(held)) == (4, 1)
    learn, held = split(chore(12, num_sessions=4).demonstrations, seed=0)
    assert held
    assert not {d.session for d in learn} & {d.session for d in held}
    assert split(chore(2).demonstrations, seed=3)[0]


@pytest.mark.parametrize("seed", range(4))
def test_there_is_always_something_to_learn_from(seed):
    learn, held = split(chore(6, num_sessions=3).demonstrations, seed)
    assert learn
    assert held
