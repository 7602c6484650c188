"""The policy as a torch module: the wiring that `shared.manifest.Network` describes.

Parameters carry the names that the emitter wants. Decisions of different sizes are trained in one
batch as ragged rows. Axes: M element rows of all decisions, B decisions, F, G features,
H element state, C context state, A actions.
"""

import torch
from torch import Tensor, nn

from shared.manifest import Network

__all__ = ["Policy"]


class Policy(nn.Module):
    """Scores every (element, action) pair and "finished"."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        sizes = {name: (out, sum(parts)) for name, (out, parts) in network.layers().items()}

        def stack(name: str, depth: int) -> nn.ModuleList:
            shapes = [sizes[f"{name}.{i}"] for i in range(depth)]
            return nn.ModuleList(nn.Linear(inputs, outputs) for outputs, inputs in shapes)

        self.element = stack("element", len(network.element))
        self.context = stack("context", len(network.context))
        self.score = stack("score", len(network.score))
        self.finish = nn.Linear(sizes["finish"][1], 1)
        self.scores = nn.Linear(sizes["scores"][1], network.num_actions)

    @torch.no_grad()
    def never_finish(self) -> None:
        """Make "finished" lose always: no demonstration shows what it looks like."""
        self.finish.weight.zero_()
        self.finish.bias.fill_(-100.0)

    def forward(self, x_MF: Tensor, g_BG: Tensor, owner_M: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (M, A) and finish logits (B); `owner_M` is each row's decision."""
        num = g_BG.shape[0]
        h = torch.cat([x_MF, g_BG[owner_M]], 1)
        for layer in self.element:
            h = torch.relu(layer(h))
        counts = torch.bincount(owner_M, minlength=num).clamp(min=1)[:, None]
        total = h.new_zeros(num, h.shape[1]).index_add(0, owner_M, h)
        index = owner_M[:, None].expand_as(h)
        # h is not negative after ReLU, so 0 is no larger than any maximum.
        largest = h.new_zeros(num, h.shape[1]).scatter_reduce(0, index, h, "amax")
        u = torch.cat([total / counts, largest, g_BG], 1)
        for layer in self.context:
            u = torch.relu(layer(u))
        s = torch.cat([h, u[owner_M]], 1)
        for layer in self.score:
            s = torch.relu(layer(s))
        return self.scores(s), self.finish(u)[:, 0]
