from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from services.agent_trainer.dataset import STEPS, Dataset  # noqa: E402
from services.agent_trainer.evaluate import (  # noqa: E402
    Judged,
    agreement,
    calibrate,
    decide_all,
    judge,
)
from services.agent_trainer.options import TrainOptions  # noqa: E402
from services.agent_trainer.policy import Policy  # noqa: E402
from services.agent_trainer.train import Forgettable, check_good_enough, fit, for_few  # noqa: E402
from shared.errors import Diverged, TrainingError  # noqa: E402
from shared.manifest import Network  # noqa: E402
from shared.module import reference_logits, reference_step  # noqa: E402

torch.set_num_threads(1)
FORGETS = Forgettable(range(0), range(0), range(0), range(0))
NETWORK = Network(
    num_features=5, num_context=3, num_actions=2, element=(8,), context=(8,), score=()
)


def toy(num=40, seed=0):
    """Return decisions whose target is the row with the one feature that g names."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(2, 6, num)
    x = rng.integers(0, 2, (counts.sum(), 5)).astype(np.uint8) * STEPS
    starts = np.cumsum(counts) - counts
    rows = rng.integers(0, counts)
    x[:, 0] = 0
    x[starts + rows, 0] = STEPS
    g = np.zeros((num, 3), np.float32)
    action = rng.integers(0, 2, num)
    g[np.arange(num), action] = 1
    return Dataset(x, g, starts, counts, rows, action)


def test_torch_and_the_module_agree_on_ragged_batches():
    torch.manual_seed(1)
    policy = Policy(NETWORK)
    policy.round()
    weights = {name: t.detach().numpy() for name, t in policy.state_dict().items()}
    assert {n: w.shape for n, w in weights.items()} == NETWORK.parameter_shapes()
    data = toy()
    made = decide_all(policy, data)
    for e in (0, 7, 39):
        logits, finish = reference_logits(NETWORK, weights, *data.observation(e))
        assert made[e].logit == pytest.approx(max(logits.max(), finish), abs=1e-5)
    share, gap = agreement(partial(reference_step, NETWORK, weights), data, range(40), made)
    assert share == 1
    assert gap < 1e-5


def test_rounding_the_weights_at_the_end_changes_no_decision():
    torch.manual_seed(3)
    policy, data = Policy(NETWORK), toy(200)
    before = decide_all(policy, data)
    policy.round()
    after = decide_all(policy, data)
    weights = {name: t.detach().numpy() for name, t in policy.state_dict().items()}
    in_int8 = partial(reference_step, NETWORK, weights, precision="int8")
    share, gap = agreement(in_int8, data, range(200), after)
    assert [(d.element, d.action) for d in before] == [(d.element, d.action) for d in after]
    assert share == 1
    assert gap < 1e-3


def test_a_rule_is_learnt_and_the_best_epoch_kept():
    options = TrainOptions(
        num_epochs=16, learning_rate=3e-2, batch_size=16, patience=60, min_steps=1
    )
    fitted = fit(NETWORK, toy(200), toy(50, seed=1), options, forgets=FORGETS)
    assert judge(decide_all(fitted.policy, toy(50, seed=2)), toy(50, seed=2)).accuracy >= 0.95
    ranks = list(zip(fitted.held_out_accuracies, np.negative(fitted.held_out_losses), strict=True))
    assert fitted.num_epochs == max(1 + ranks.index(max(ranks)), options.min_epochs)
    assert fitted.losses[-1] < fitted.losses[0]


def test_the_same_seed_gives_the_same_weights():
    one, two = (
        fit(NETWORK, toy(), None, TrainOptions(num_epochs=2), forgets=FORGETS) for _ in range(2)
    )
    for a, b in zip(one.policy.parameters(), two.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_loss_that_is_no_number_ends_the_training():
    data = toy()
    data.g_EG[0, 0] = np.nan
    with pytest.raises(Diverged):
        fit(NETWORK, data, None, TrainOptions(num_epochs=1), forgets=FORGETS)


def test_the_threshold_lies_above_every_wrong_decision_and_the_floor():
    margins = np.array([6.0, 5.0, 4.0, 1.0], np.float32)
    right = np.array([True, True, True, False])
    assert calibrate(Judged(right, margins), 0.5) > 1.0
    assert calibrate(Judged(np.ones(4, bool), margins), 0.5) >= 0.5
    assert calibrate(Judged(np.ones(2, bool), np.full(2, 0.1, np.float32)), 0.5) == 0.5
    wrong, abstained = Judged(right, margins).shares(4.5)
    assert (wrong, abstained) == (0.0, 0.5)


def test_where_wrong_decisions_are_as_sure_as_right_ones_the_right_ones_go_on():
    margins = np.array([3.5] * 98 + [3.4] * 2, np.float32)
    right = np.arange(100) >= 2
    threshold = calibrate(Judged(right, margins), 0.5)
    assert threshold < 3
    assert Judged(right, margins).shares(threshold) == (0.02, 0.0)


def test_too_many_wrong_and_sure_decisions_are_not_published():
    judged = Judged(np.arange(100) >= 8, np.full(100, 3.0, np.float32))
    with pytest.raises(TrainingError, match=r"8\.0% of 100 decisions were wrong"):
        check_good_enough(judged, 1.0, TrainOptions())
    check_good_enough(judged, 1.0, TrainOptions(max_wrong=0.1))


def test_what_no_demonstration_has_says_nothing():
    data = toy()
    data.x_MF[:, 0] = 0
    data.g_EG[:, 1] = 0
    policy = fit(NETWORK, data, None, TrainOptions(num_epochs=2), forgets=FORGETS).policy
    weight = policy.element[0].weight
    assert not weight[:, 0].any()
    assert not weight[:, NETWORK.num_features + 1].any()
    assert weight[:, 1].any()


def test_the_fewer_demonstrations_the_more_is_forgotten_and_made_up():
    usual = TrainOptions()
    assert for_few(usual, 30) == for_few(usual, 60) == usual
    few, fewer = for_few(usual, 10), for_few(usual, 3)
    assert usual.place_dropout < few.place_dropout < fewer.place_dropout < 1
    assert usual.num_variants < few.num_variants < fewer.num_variants <= 60
    many = usual.model_copy(update={"num_variants": 100, "place_dropout": 0.9})
    assert for_few(many, 3).num_variants == 100
    assert for_few(many, 3).place_dropout == 0.9
