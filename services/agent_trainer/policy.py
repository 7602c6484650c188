"""The policy as a torch module: the wiring that `shared.manifest.Network` describes.

Parameters carry the names that the emitter wants. Weights count as the 8-bit steps they are shipped
in, from the first epoch on, so that rounding them later changes no decision. Decisions of different
sizes are trained in one batch as ragged rows. Axes: M element rows of all decisions, B decisions,
F, G features, H element state, C context state, A actions.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike
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
        self._is_rounded = False

    @torch.no_grad()
    def never_finish(self) -> None:
        """Make "finished" lose always: no demonstration shows what it looks like."""
        self.finish.weight.zero_()
        self.finish.bias.fill_(-100.0)

    @torch.no_grad()
    def ignore(self, seen_F: ArrayLike, seen_G: ArrayLike) -> None:
        """Start inputs that no demonstration has at weight 0: a live page may have them.

        They get no gradient, and what they were drawn as at random would speak there.
        """
        seen_G = np.asarray(seen_G, np.float32)
        seen_I = np.concatenate([np.asarray(seen_F, np.float32), seen_G])
        for layers, seen in ((self.element, seen_I), (self.context, seen_G)):
            weight = layers[0].weight
            assert isinstance(weight, Tensor)
            weight[:, weight.shape[1] - len(seen) :] *= torch.from_numpy(seen)

    @torch.no_grad()
    def round(self) -> None:
        """Set the weights to the steps they count as; train no further."""
        for name in self.network.layers():
            layer = self.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            layer.weight.copy_(self._weight(name))
        self._is_rounded = True

    def _weight(self, name: str) -> Tensor:
        """Return a layer's weight in steps of 1/127 of the largest of its row and part.

        Gradients pass as if nothing were rounded. Source: Bengio, Léonard & Courville, Estimating
        or Propagating Gradients Through Stochastic Neurons, 2013 (straight-through).
        """
        weight = self.get_parameter(f"{name}.weight")
        if self._is_rounded:
            return weight
        with torch.no_grad():
            rounded = []
            sizes = list(self.network.layers()[name][1])
            for part in torch.split(weight, sizes, dim=1):
                step = part.abs().amax(1, keepdim=True) / 127
                rounded.append((part / step.clamp(min=1e-30)).round() * step)
            change = torch.cat(rounded, 1) - weight
        return weight + change

    def _apply_layer(self, name: str, inputs: Tensor) -> Tensor:
        return nn.functional.linear(inputs, self._weight(name), self.get_parameter(f"{name}.bias"))

    def forward(self, x_MF: Tensor, g_BG: Tensor, owner_M: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (M, A) and finish logits (B); `owner_M` is each row's decision."""
        num = g_BG.shape[0]
        # The context's part once for each decision, not once for each of its elements.
        num_features, first = x_MF.shape[1], self._weight("element.0")
        from_g_BH = g_BG @ first[:, num_features:].T + self.get_parameter("element.0.bias")
        h = torch.relu(x_MF @ first[:, :num_features].T + from_g_BH[owner_M])
        for i in range(1, len(self.element)):
            h = torch.relu(self._apply_layer(f"element.{i}", h))
        counts = torch.bincount(owner_M, minlength=num).clamp(min=1)[:, None]
        total = h.new_zeros(num, h.shape[1]).index_add(0, owner_M, h)
        index = owner_M[:, None].expand_as(h)
        # h is not negative after ReLU, so 0 is no larger than any maximum.
        largest = h.new_zeros(num, h.shape[1]).scatter_reduce(0, index, h, "amax")
        u = torch.cat([total / counts, largest, g_BG], 1)
        for i in range(len(self.context)):
            u = torch.relu(self._apply_layer(f"context.{i}", u))
        s = torch.cat([h, u[owner_M]], 1)
        for i in range(len(self.score)):
            s = torch.relu(self._apply_layer(f"score.{i}", s))
        return self._apply_layer("scores", s), self._apply_layer("finish", u)[:, 0]
