"""How good a policy is along traces it was not trained on, and from what margin it may be trusted.

Decisions are made by `shared.module.decide`, as the module makes them. Every decision is judged on
the screen and the history of the trace itself; not covered: what a page would have answered to
another action (the runner's read-back covers that).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from services.agent_trainer.dataset import STEPS, Dataset
from services.agent_trainer.policy import Policy
from shared.module import Decision, Floats, decide

__all__ = ["Judged", "agreement", "calibrate", "decide_all", "judge"]

_CHUNK = 64  # decisions scored together
_TRUSTED_SHARE = 0.5  # of the margin that 99 % of the right decisions have
_WRONG_FACTOR = 1.2  # over the largest margin of a wrong decision
_KEPT_SHARE = 0.95  # of the right decisions that must be left above all wrong ones
_REACHED_SHARE = 0.8  # of what they reach: the policy trained on all is a little less sure
_MAX_FLOOR = 2.5  # logits; odds of 12 to 1


@dataclass(frozen=True)
class Judged:
    """What came of some decisions."""

    right_E: NDArray[np.bool_]
    margin_E: NDArray[np.float32]

    @property
    def accuracy(self) -> float:
        """Return the share of right decisions, whatever their margin."""
        return float(self.right_E.mean()) if len(self.right_E) else 0.0

    def shares(self, threshold: float) -> tuple[float, float]:
        """Return the shares of decisions that are acted on and wrong, and that are abstained."""
        if not len(self.right_E):
            return 0.0, 0.0
        acted = self.margin_E >= threshold
        return float((acted & ~self.right_E).mean()), float((~acted).mean())


def decide_all(policy: Policy, data: Dataset, threshold: float = 0.0) -> list[Decision]:
    """Decide on every observation with the torch policy."""
    found: list[Decision] = []
    policy.eval()
    with torch.no_grad():
        for first in range(0, data.num_decisions, _CHUNK):
            chosen = np.arange(first, min(first + _CHUNK, data.num_decisions))
            x_MF, owner_M = rows_of(data, chosen)
            logits, finish = policy(x_MF, torch.from_numpy(data.g_EG[chosen]), owner_M)
            sizes = data.counts_E[chosen].tolist()
            for own, end in zip(logits.split(sizes), finish.tolist(), strict=True):
                found.append(decide(own.numpy(), end, threshold))
    return found


def rows_of(data: Dataset, chosen: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x (M, F) and each row's decision (M) of the chosen decisions."""
    places = np.concatenate(
        [np.arange(data.starts_E[e], data.starts_E[e] + data.counts_E[e]) for e in chosen]
    )
    owner = np.repeat(np.arange(len(chosen)), data.counts_E[chosen])
    x_MF = torch.from_numpy(data.x_MF[places]).to(torch.float32).div_(STEPS)
    return x_MF, torch.from_numpy(owner)


def judge(made: Sequence[Decision], data: Dataset) -> Judged:
    """Compare decisions with what the person did."""
    right = [
        (d.element, d.action) == (int(data.row_E[e]), int(data.action_E[e]))
        for e, d in enumerate(made)
    ]
    return Judged(np.array(right, dtype=bool), np.array([d.margin for d in made], dtype=np.float32))


def calibrate(judged: Judged, floor: float) -> float:
    """Return the margin below which to abstain: above every wrong decision, where that can be.

    Without wrong ones it is half of what nearly all right decisions reach, so that a screen
    unlike all those seen does not pass for one of them. Where people did it in more than one way,
    "wrong" is a choice that another of them would have made, as sure as the right ones, and no
    margin parts the two: then it is what nearly all right decisions reach, and the share of wrong
    ones above it is for the caller to judge.
    """
    right, wrong = judged.margin_E[judged.right_E], judged.margin_E[~judged.right_E]
    usual = float(np.quantile(right, 0.01)) * _TRUSTED_SHARE if len(right) else 0.0
    needed = float(wrong.max()) * _WRONG_FACTOR if len(wrong) else 0.0
    if len(right) and float((right >= needed).mean()) < _KEPT_SHARE:
        needed = float(np.quantile(right, 0.02)) * _REACHED_SHARE
    return max(floor, min(usual, _MAX_FLOOR), needed)


def agreement(
    answer: Callable[[Floats, Floats], Decision],
    data: Dataset,
    chosen: Sequence[int],
    made: Sequence[Decision],
) -> tuple[float, float]:
    """Return the share of chosen decisions that `answer` makes alike, and the largest gap.

    `answer` decides on x (N, F) and g (G); `made` are torch's decisions on all of `data`; the gap
    is between best logits.
    """
    alike, gap = 0, 0.0
    for e in chosen:
        other = answer(*data.observation(e))
        alike += (other.status, other.element, other.action) == (
            made[e].status, made[e].element, made[e].action,
        )  # fmt: skip
        gap = max(gap, abs(other.logit - made[e].logit))
    return alike / max(len(chosen), 1), gap
