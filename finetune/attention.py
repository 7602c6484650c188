"""Packed-document causal attention: the fastest kernel this GPU and this installation offer.

The ladder is flash-attn-4, flash-attn 2, torch varlen, FlexAttention, sdpa. Every rung takes a row
of documents laid end to end and keeps them apart; `choose` runs each candidate forward and
backward against plain mathematics on the GPU itself, so a kernel that is installed but broken is
passed over, and the reason is logged. The choice is registered with transformers under `NAME`.

Not covered: sliding windows, soft-capping, attention dropout, bidirectional prefixes.

Shapes: T tokens in the row, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AttentionInterface

log = logging.getLogger("finetune.attention")

NAME = "packed_documents"
RUNGS = ("flash4", "flash2", "varlen", "flex", "sdpa")
COMPILED = ("flash4", "flex")
Kernel = Callable[..., torch.Tensor]


@dataclass
class Choice:
    """The rung in use and why those above it were passed over."""

    rung: str
    kernel: Kernel
    passed_over: dict[str, str] = field(default_factory=dict)

    @property
    def compiles(self) -> bool:
        """Say whether the layers around this kernel may be compiled."""
        return self.rung != "sdpa"


def choose(wanted: str, device: torch.device, dtype: torch.dtype, at_once: bool = False) -> Choice:
    """Return the first rung that works here, or exactly the one asked for.

    With `at_once`, for short runs, kernels that compile at their first call are passed over.
    Raises RuntimeError when a rung asked for by name does not work.
    """
    passed: dict[str, str] = {}
    for rung in RUNGS if wanted == "auto" else (wanted,):
        try:
            if at_once and rung in COMPILED and wanted == "auto":
                raise RuntimeError("compiles at its first call, which a short run cannot win back")
            kernel = LOADERS[rung](device)
            probe(kernel, device, dtype)
        except Exception as error:  # noqa: BLE001 - a kernel may fail in any way; the next rung serves
            passed[rung] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            log.info("attention %s passed over: %s", rung, passed[rung])
            continue
        log.info("attention %s chosen on %s", rung, device_name(device))
        AttentionInterface.register(NAME, as_transformers(kernel))
        return Choice(rung, kernel, passed)
    raise RuntimeError(f"no attention kernel works here: {passed}; use --attn auto")


def packing_kwargs(
    rung: str, lengths: list[int], slots: int, longest: int, device: torch.device
) -> dict[str, Any]:
    """Build what the kernel needs to know of the documents in a row.

    `slots` fixes the number of boundaries (the rest are empty documents) and `longest` bounds a
    document, so nothing a compiler looks at changes from step to step.
    """
    if rung == "sdpa":
        return {"doc_lens": lengths}
    if rung == "flex":
        return {"block_mask": flex_mask(lengths, device)}
    ends = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    if len(ends) > slots + 1:
        raise ValueError(f"{len(lengths)} documents in a row of {slots} slots; raise the slots")
    ends = F.pad(ends, (0, slots + 1 - len(ends)), value=int(ends[-1]))
    return {"cu_seq_lens_q": ends.to(device, non_blocking=True), "max_length_q": longest}


def as_transformers(kernel: Kernel) -> Callable:
    """Wrap a (T, H, D) kernel as a transformers attention function."""

    def forward(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        **packing: Any,
    ) -> tuple[torch.Tensor, None]:
        # Rotating exact weights' queries gives float32 even under autocast; kernels want one type.
        q, k, v = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
        return kernel(q, k, v, scaling or q.shape[-1] ** -0.5, **packing)[None], None

    return forward


def reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, lengths: list[int]
) -> torch.Tensor:
    """Compute the same attention in float32 from its definition; (T, H, D)."""
    doc = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(q.device)
    allowed = (doc[:, None] == doc[None, :]).tril()
    groups = q.shape[1] // k.shape[1]
    k, v = (x.float().repeat_interleave(groups, 1) for x in (k, v))
    scores = torch.einsum("thd,shd->hts", q.float(), k) * scale
    weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
    return torch.einsum("hts,shd->thd", weights, v)


def probe(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> None:
    """Run a small row forward and backward and compare with `reference`.

    Raises RuntimeError where outputs or gradients differ by more than the dtype explains.
    """
    lengths, heads, kv_heads, size = [70, 1, 57], 4, 2, 64
    maker = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(sum(lengths), h, size, generator=maker).to(device, dtype).requires_grad_()
        for h in (heads, kv_heads, kv_heads)
    )
    rung = getattr(kernel, "rung", "sdpa")
    out = kernel(q, k, v, size**-0.5, **packing_kwargs(rung, lengths, 5, 70, device))
    weight = torch.randn(out.shape, generator=maker).to(device, dtype)
    got = torch.autograd.grad((out * weight).sum(), (q, k, v))
    want_out = reference(q, k, v, size**-0.5, lengths)
    want = torch.autograd.grad((want_out * weight.float()).sum(), (q, k, v))
    limit = 1e-4 if dtype == torch.float32 else 2e-2
    for name, a, b in zip(
        ("output", "dq", "dk", "dv"), (out, *got), (want_out, *want), strict=True
    ):
        error = ((a.float() - b.float()).norm() / b.float().norm()).item()
        if not error < limit:
            raise RuntimeError(f"{name} is off by {error:.1e} (limit {limit:.0e})")


# --- the rungs; each returns kernel(q, k, v, scale, **packing) -> (T, H, D) ----------------------


@functools.cache
def load_flash4(device: torch.device) -> Kernel:
    """flash-attn-4 (CuTe DSL), Hopper and newer, as one opaque operator the compiler can keep."""
    require_cuda(device, (9, 0))
    from flash_attn.cute.interface import _flash_attn_bwd, _flash_attn_fwd

    @torch.library.custom_op("finetune::flash4_fwd", mutates_args=())
    def fwd(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        ends: torch.Tensor,
        most: int,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        out = _flash_attn_fwd(
            q,
            k,
            v,
            cu_seqlens_q=ends,
            cu_seqlens_k=ends,
            max_seqlen_q=most,
            max_seqlen_k=most,
            softmax_scale=scale,
            causal=True,
            return_lse=True,
        )
        return out[0], out[1]

    @fwd.register_fake
    def _(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        ends: torch.Tensor,
        most: int,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        lse = q.new_empty((q.shape[1], q.shape[0]), dtype=torch.float32)
        return q.new_empty((q.shape[0], q.shape[1], v.shape[2])), lse

    @torch.library.custom_op("finetune::flash4_bwd", mutates_args=())
    def bwd(
        grad: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        ends: torch.Tensor,
        most: int,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        dq, dk, dv = _flash_attn_bwd(
            q,
            k,
            v,
            out,
            grad.contiguous(),
            lse,
            softmax_scale=scale,
            causal=True,
            cu_seqlens_q=ends,
            cu_seqlens_k=ends,
            max_seqlen_q=most,
            max_seqlen_k=most,
        )[:3]
        return dq, dk, dv

    @bwd.register_fake
    def _(
        grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *rest: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)

    def setup(ctx: Any, inputs: tuple, output: tuple) -> None:
        q, k, v, ends, ctx.most, ctx.scale = inputs
        ctx.save_for_backward(q, k, v, *output, ends)

    def backward(ctx: Any, grad: torch.Tensor, _lse_grad: torch.Tensor | None) -> tuple:
        q, k, v, out, lse, ends = ctx.saved_tensors
        return *bwd(grad, q, k, v, out, lse, ends, ctx.most, ctx.scale), None, None, None

    fwd.register_autograd(backward, setup_context=setup)

    def kernel(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, **packing: Any
    ) -> torch.Tensor:
        q, k, v = (x.contiguous() for x in (q, k, v))
        return fwd(q, k, v, packing["cu_seq_lens_q"], packing["max_length_q"], scale)[0]

    return named(kernel, "flash4")


@functools.cache
def load_flash2(device: torch.device) -> Kernel:
    """flash-attn 2, built for this GPU; Ampere and newer."""
    require_cuda(device, (8, 0))
    from flash_attn import flash_attn_varlen_func

    def kernel(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, **packing: Any
    ) -> torch.Tensor:
        ends, most = packing["cu_seq_lens_q"], packing["max_length_q"]
        return flash_attn_varlen_func(
            q, k, v, ends, ends, most, most, softmax_scale=scale, causal=True
        )

    return named(kernel, "flash2")


@functools.cache
def load_varlen(device: torch.device) -> Kernel:
    """torch's own variable-length attention (torch 2.10 and newer)."""
    require_cuda(device, (8, 0))
    from torch.nn.attention.varlen import varlen_attn

    parameters = inspect.signature(varlen_attn).parameters
    # torch 2.10 spelled causality `is_causal`; later releases spell it as a window.
    causal: dict[str, Any] = (
        {"is_causal": True} if "is_causal" in parameters else {"window_size": (-1, 0)}
    )
    grouped = "enable_gqa" in parameters

    def kernel(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, **packing: Any
    ) -> torch.Tensor:
        ends, most = packing["cu_seq_lens_q"], packing["max_length_q"]
        options = dict(causal)
        if grouped:
            options["enable_gqa"] = q.shape[1] != k.shape[1]
        if "scale" in parameters:
            options["scale"] = scale
        return varlen_attn(q, k, v, ends, ends, most, most, **options)

    return named(kernel, "varlen")


@functools.cache
def load_flex(device: torch.device) -> Kernel:
    """FlexAttention with a block mask per row; compiled on a GPU, plain on a CPU (for tests)."""
    from torch.nn.attention.flex_attention import flex_attention

    run = torch.compile(flex_attention) if device.type == "cuda" else flex_attention

    def kernel(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, **packing: Any
    ) -> torch.Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        out = run(q, k, v, block_mask=packing["block_mask"], scale=scale, enable_gqa=True)
        return out[0].transpose(0, 1)

    return named(kernel, "flex")


@functools.cache
def load_sdpa(device: torch.device) -> Kernel:
    """One plain scaled_dot_product_attention per document: slow, and right everywhere."""

    def kernel(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, **packing: Any
    ) -> torch.Tensor:
        lengths = packing.get("doc_lens") or packing["cu_seq_lens_q"].diff().tolist()
        parts = (x.transpose(0, 1).split(lengths, 1) for x in (q, k, v))
        outs = [
            F.scaled_dot_product_attention(
                a[None], b[None], c[None], is_causal=True, scale=scale, enable_gqa=True
            )[0]
            for a, b, c in zip(*parts, strict=True)
        ]
        return torch.cat(outs, 1).transpose(0, 1)

    return named(kernel, "sdpa")


LOADERS: dict[str, Callable[[torch.device], Kernel]] = {
    "flash4": load_flash4,
    "flash2": load_flash2,
    "varlen": load_varlen,
    "flex": load_flex,
    "sdpa": load_sdpa,
}


def flex_mask(lengths: list[int], device: torch.device) -> Any:
    """Build the block mask that lets a token see its own document's past."""
    from torch.nn.attention.flex_attention import create_block_mask

    doc = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(device)

    def same_document(
        b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor
    ) -> torch.Tensor:
        return (q >= k) & (doc[q] == doc[k])

    total = sum(lengths)
    return create_block_mask(same_document, None, None, total, total, device=str(device))


def named(kernel: Kernel, rung: str) -> Kernel:
    """Mark a kernel with its rung, so that `probe` feeds it the right packing."""
    kernel.rung = rung  # type: ignore[attr-defined]
    return kernel


def require_cuda(device: torch.device, capability: tuple[int, int]) -> None:
    """Raise RuntimeError unless `device` is a GPU of at least this compute capability."""
    if device.type != "cuda":
        raise RuntimeError("needs a CUDA device")
    if torch.cuda.get_device_capability(device) < capability:
        raise RuntimeError(f"needs compute capability {capability}")


def device_name(device: torch.device) -> str:
    """Name the GPU, or say cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
