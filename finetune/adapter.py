"""LoRA and DoRA on a frozen base, written for speed and saved as PEFT writes them.

Projections that read the same input (query, key, value; gate, up) are held as one weight, so a
layer of the Llama, Mistral and Qwen2 families runs 4 large products instead of 21. Other families
get the same adapters unfused. The frozen base can be held in FP8, one scale a row, on GPUs that
multiply it. Adapters are float32 and are cast to the activations' type where they are used.

W is the frozen weight (O, I); A is (r, I), B is (O, r); y = x Wᵀ + s (x Aᵀ) Bᵀ with s = alpha / r.
Source: LoRA arXiv:2106.09685; DoRA arXiv:2402.09353 (eq. 5, the norm outside the gradient).
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
FUSED_ATTENTION = ("LlamaAttention", "MistralAttention", "Qwen2Attention")
FUSED_MLP = ("LlamaMLP", "MistralMLP", "Qwen2MLP")
PREFIX = "base_model.model."


class AdaptedLinear(nn.Module):
    """One or more frozen linear layers of the same input, with an adapter each."""

    def __init__(
        self, parts: dict[str, nn.Linear], rank: int, alpha: float, dora: bool, fp8: bool
    ) -> None:
        """Take over the weights of `parts`, named by their places in the model."""
        super().__init__()
        self.names = list(parts)
        self.sizes = [part.out_features for part in parts.values()]
        self.rank, self.scale, self.dora, self.fp8 = rank, alpha / rank, dora, fp8
        self.shared_input = next(iter(parts.values())).in_features
        weight = torch.cat([part.weight.detach() for part in parts.values()])
        biases = [part.bias for part in parts.values()]
        self.bias = None
        if any(bias is not None for bias in biases):
            made = [
                weight.new_zeros(size) if bias is None else bias.detach()
                for bias, size in zip(biases, self.sizes, strict=True)
            ]
            self.bias = nn.Parameter(torch.cat(made), requires_grad=False)
        device = weight.device
        down = torch.empty(len(parts) * rank, self.shared_input, device=device)
        for piece in down.split(rank):
            nn.init.kaiming_uniform_(piece, a=math.sqrt(5))
        self.lora_a = nn.Parameter(down)
        self.lora_b = nn.ParameterList(
            nn.Parameter(torch.zeros(size, rank, device=device)) for size in self.sizes
        )
        self.magnitude = nn.Parameter(weight.float().norm(dim=1)) if dora else None
        if fp8:
            for name, (values, scales) in {
                "forward": quantise(weight),
                "backward": quantise(weight.T.contiguous()),
            }.items():
                self.register_buffer(f"{name}_values", values)
                self.register_buffer(f"{name}_scales", scales)
            self.weight = None
        else:
            self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the projections side by side (…, sum of sizes)."""
        down = self.lora_a.to(x.dtype)
        up = torch.block_diag(*(self.scale * b for b in self.lora_b)).to(x.dtype)
        flat = x.reshape(-1, x.shape[-1])
        if self.weight is not None:
            out = JoinedProduct.apply(flat, down, up, self.weight)
        else:
            out = F.linear(F.linear(flat, down), up) + Fp8Product.apply(
                flat,
                self.forward_values,
                self.forward_scales,
                self.backward_values,
                self.backward_scales,
            )
        out = out.view(*x.shape[:-1], -1)
        if self.magnitude is not None:
            out = out * (self.magnitude / self.directions().detach()).to(x.dtype)
        return out if self.bias is None else out + self.bias

    def directions(self) -> torch.Tensor:
        """Return the row norms of W + sBA (O,), float32."""
        weight = self.weight
        if weight is None:
            weight = self.forward_values.float() * self.forward_scales
        return (weight.float() + self.delta()).norm(dim=1)

    def delta(self) -> torch.Tensor:
        """Return sBA (O, I), float32."""
        downs = self.lora_a.split(self.rank)
        return torch.cat([self.scale * (b @ a) for a, b in zip(downs, self.lora_b, strict=True)])

    def state(self) -> dict[str, torch.Tensor]:
        """Return the adapter's tensors under PEFT's names."""
        tensors = {}
        magnitudes = self.magnitude.split(self.sizes) if self.magnitude is not None else self.sizes
        for name, a, b, m in zip(
            self.names, self.lora_a.split(self.rank), self.lora_b, magnitudes, strict=True
        ):
            tensors[f"{PREFIX}{name}.lora_A.weight"] = a
            tensors[f"{PREFIX}{name}.lora_B.weight"] = b
            if self.magnitude is not None:
                tensors[f"{PREFIX}{name}.lora_magnitude_vector"] = m
        return tensors


class JoinedProduct(torch.autograd.Function):
    """x (T, I) through a frozen weight (O, I) and its adapter, A (R, I) and B (O, R), at once.

    The adapter's R columns stand beside the weight's: [x, x Aᵀ] [W, B]ᵀ is one product, and so is
    the gradient of both its factors. Apart they would write and read a second (T, O) each way,
    which on a small model costs as much as multiplying.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        """Return x Wᵀ + (x Aᵀ) Bᵀ (T, O)."""
        joined = torch.cat([x, x @ down.t()], 1)
        ctx.save_for_backward(joined, down, up, weight)
        return joined @ torch.cat([weight, up], 1).t()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        """Return the gradients of x, A and B; the weight is frozen."""
        joined, down, up, weight = ctx.saved_tensors
        inside = down.shape[1]
        both = grad @ torch.cat([weight, up], 1)
        middle = both[:, inside:]
        grad_up = grad.t() @ joined[:, inside:]
        grad_down = middle.t() @ joined[:, :inside]
        return both[:, :inside] + middle @ down, grad_down, grad_up, None


class Fp8Product(torch.autograd.Function):
    """x (T, I) times a frozen FP8 weight; both directions multiply in FP8, one scale a row."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        values: torch.Tensor,
        scales: torch.Tensor,
        back_values: torch.Tensor,
        back_scales: torch.Tensor,
    ) -> torch.Tensor:
        """Return x Wᵀ (T, O)."""
        ctx.save_for_backward(back_values, back_scales)
        return fp8_product(x, values, scales)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        """Return the gradient of x only: the weight is frozen."""
        return fp8_product(grad, *ctx.saved_tensors), None, None, None, None


def quantise(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (rows in FP8, their scales (N, 1) float32)."""
    scales = rows.abs().amax(1, keepdim=True).float().clamp(min=1e-30) / FP8_MAX
    return (rows / scales).clamp(-FP8_MAX, FP8_MAX).to(FP8), scales


def fp8_product(x: torch.Tensor, values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return x (T, I) times values (O, I) transposed, in bfloat16 accumulated exactly."""
    held, held_scales = quantise(x)
    out = torch._scaled_mm(
        held, values.t(), held_scales, scales.t(), out_dtype=torch.bfloat16, use_fast_accum=True
    )
    return out.to(x.dtype)


# --- putting adapters into a model ----------------------------------------------------------------


def adapt(
    model: PreTrainedModel,
    rank: int,
    alpha: float,
    dora: bool = False,
    fuse: bool = True,
    fp8: bool = False,
) -> list[AdaptedLinear]:
    """Freeze a model and adapt every linear layer but the head; return the adapters in order."""
    model.requires_grad_(False)
    head = model.get_output_embeddings()
    made: list[AdaptedLinear] = []

    def replace(owner: nn.Module, path: str, names: tuple[str, ...], slot: str) -> None:
        parts = {f"{path}.{name}".lstrip("."): getattr(owner, name) for name in names}
        for name in names:
            delattr(owner, name)
        made.append(AdaptedLinear(parts, rank, alpha, dora, fp8))
        setattr(owner, slot, made[-1])

    for path, module in list(model.named_modules()):
        if isinstance(module, AdaptedLinear):
            continue
        kind = type(module).__name__
        if fuse and kind in FUSED_ATTENTION:
            replace(module, path, ("q_proj", "k_proj", "v_proj"), "qkv_proj")
            module.forward = MethodType(fused_attention, module)
        elif fuse and kind in FUSED_MLP:
            replace(module, path, ("gate_proj", "up_proj"), "gate_up_proj")
            module.forward = MethodType(fused_mlp, module)
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and child is not head:
                replace(module, path, (name,), name)
    return made


def fused_attention(
    self: Any,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    attention_mask: torch.Tensor | None = None,
    **packing: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of the fused families; same mathematics as theirs, one product for q, k and v."""
    shape = (*hidden_states.shape[:-1], -1, self.head_dim)
    q, k, v = (
        part.view(shape).transpose(1, 2)
        for part in self.qkv_proj(hidden_states).split(self.qkv_proj.sizes, -1)
    )
    rotate = sys.modules[type(self).__module__].apply_rotary_pos_emb
    q, k = rotate(q, k, *position_embeddings)
    attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
    out, _ = attend(self, q, k, v, attention_mask, scaling=self.scaling, **packing)
    return self.o_proj(out.reshape(*hidden_states.shape[:-1], -1)), None


def fused_mlp(self: Any, x: torch.Tensor) -> torch.Tensor:
    """Gated MLP of the fused families with one product for gate and up."""
    gate, up = self.gate_up_proj(x).split(self.gate_up_proj.sizes, -1)
    return self.down_proj(self.act_fn(gate) * up)


# --- saving ---------------------------------------------------------------------------------------


def adapter_state(adapters: list[AdaptedLinear]) -> dict[str, torch.Tensor]:
    """Return every adapter's tensors under PEFT's names."""
    return {name: t for one in adapters for name, t in one.state().items()}


def save_adapter(
    folder: Path, state: dict[str, torch.Tensor], base: str, rank: int, alpha: float, dora: bool
) -> None:
    """Write a PEFT adapter folder."""
    folder.mkdir(parents=True, exist_ok=True)
    modules = {name.removeprefix(PREFIX).split(".lora_")[0] for name in state}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_dora": dora,
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name in modules}),
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    tensors = {name: t.detach().cpu().float().contiguous() for name, t in state.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def merge_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Add a saved adapter to the plain weights of `model`, in place, in float32.

    Raises ValueError where the adapter names a layer the model lacks.
    """
    config = json.loads((folder / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    state = load_file(folder / "adapter_model.safetensors")
    layers = dict(model.named_modules())
    for key in [name for name in state if name.endswith(".lora_A.weight")]:
        stem = key.removesuffix(".lora_A.weight")
        layer = layers.get(stem.removeprefix(PREFIX))
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"the adapter names {stem}, which this base has not")
        down, up = state[key], state[f"{stem}.lora_B.weight"]
        merged = layer.weight.detach().float().cpu() + scale * (up @ down)
        if config.get("use_dora"):
            merged *= (state[f"{stem}.lora_magnitude_vector"] / merged.norm(dim=1))[:, None]
        layer.weight.data.copy_(merged.to(layer.weight))
