"""The optimiser of a training: AdamW over torch's own kernel."""

from collections.abc import Iterable

import torch
from torch.optim.adamw import adamw

from services.agent_trainer.options import TrainOptions

__all__ = ["Adam"]


class Adam:
    """AdamW with the options' learning rate and weight decay.

    `torch.optim.AdamW` is not used: building one imports torch's compiler, which doubles the time
    a small training takes (23 s against 12 s for torch itself, two loaded cores, November 2026).
    Source: Loshchilov & Hutter, Decoupled Weight Decay Regularization, 2019.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], options: TrainOptions) -> None:
        self._parameters = list(parameters)
        self._options = options
        self._means = [torch.zeros_like(p) for p in self._parameters]
        self._squares = [torch.zeros_like(p) for p in self._parameters]
        self._steps = [torch.zeros(()) for _ in self._parameters]

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what it goes on from, by name; written to, it goes on from there."""
        kinds = {"mean": self._means, "square": self._squares, "step": self._steps}
        return {f"{kind}.{i}": t for kind, kept in kinds.items() for i, t in enumerate(kept)}

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Move the parameters along their gradients; `factor` scales the learning rate."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        assert len(gradients) == len(self._parameters)
        adamw(
            list[torch.Tensor](self._parameters),
            gradients,
            self._means,
            self._squares,
            [],
            self._steps,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self._options.learning_rate * factor,
            weight_decay=self._options.weight_decay,
            eps=1e-8,
            maximize=False,
        )
