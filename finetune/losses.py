"""Cross-entropy through the output head without ever holding all logits.

The gradient of the hidden states is taken in the forward pass, chunk by chunk, so a row of 65k
tokens and a vocabulary of 150k need memory for one chunk only. With a frozen head the backward
pass is a single multiplication.

Shapes: T tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.nn import functional as F

CHUNK_TOKENS = 4096  # where no GPU says better


def chunk_tokens(weight: torch.Tensor, compiled: bool) -> int:
    """Return how many tokens' logits are held at a time: at most a 64th of the GPU's memory.

    A power of two. Few wide products fill a GPU; the last of a small model's head, (C, V) times
    (V, D), has too few tiles with fewer tokens. Uncompiled, float32 copies take their share.
    """
    if weight.device.type != "cuda":
        return CHUNK_TOKENS
    memory = torch.cuda.get_device_properties(weight.device).total_memory
    return 1 << max(9, (memory // ((128 if compiled else 1024) * weight.shape[0])).bit_length() - 1)


def nll_and_grad(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, want_grad: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weighted sum of negative log likelihoods in nats, its gradient at logits (C, V).

    Computed in float32; the gradient comes back in the logits' type, so that a compiler reads and
    writes every logit once more and no float32 copy of them ever exists.
    """
    given, logits = logits, logits.float()
    target = labels.clamp(min=0)[:, None]
    lse = logits.logsumexp(-1, keepdim=True)
    nll = ((lse - logits.gather(1, target))[:, 0] * weights).sum()
    if not want_grad:
        return nll, given
    hot = torch.arange(logits.shape[1], device=logits.device) == target
    return nll, (((logits - lse).exp() - hot.float()) * weights[:, None]).to(given.dtype)


@functools.cache
def kernel(compiled: bool) -> Any:
    """Return `nll_and_grad`, fused into one pass over the logits where asked."""
    return torch.compile(nll_and_grad, dynamic=False) if compiled else nll_and_grad


class ChunkedNll(torch.autograd.Function):
    """Summed NLL of labels (T,), times weights (T,), under hidden (T, D) @ weight (V, D)ᵀ."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        weights: torch.Tensor,
        compiled: bool,
    ) -> torch.Tensor:
        """Accumulate loss and gradients chunk by chunk."""
        want_hidden, want_weight = ctx.needs_input_grad[:2]
        head = weight.to(hidden.dtype)
        total = hidden.new_zeros((), dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden) if want_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if want_weight else None
        step = chunk_tokens(weight, compiled)
        for start in range(0, hidden.shape[0], step):
            part = slice(start, start + step)
            logits = F.linear(hidden[part], head)
            nll, grad = kernel(compiled)(
                logits, labels[part], weights[part], want_hidden or want_weight
            )
            total += nll
            if grad_hidden is not None:
                grad_hidden[part] = grad @ head
            if grad_weight is not None:
                grad_weight += grad.T @ hidden[part]
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        """Scale what the forward pass found."""
        hidden, weight = ctx.saved_tensors
        return (
            None if hidden is None else hidden * grad.to(hidden.dtype),
            None if weight is None else (weight * grad).to(ctx.weight_dtype),
            None,
            None,
            None,
        )


def chunked_nll(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    compiled: bool = False,
) -> torch.Tensor:
    """Return the weighted sum of negative log likelihoods, in nats, float32.

    Where a label is IGNORED its weight must be 0.
    """
    return ChunkedNll.apply(hidden, weight, labels, weights, compiled)
