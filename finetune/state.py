"""What a run keeps: progress, checkpoints, the best model; and how processes share the work.

A checkpoint is a folder with trainable.safetensors, optimizer.safetensors and progress.json. It
is written beside its place, synced and renamed, so a killed run leaves a whole one or none.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

KEPT_CHECKPOINTS = 2


@dataclass
class Progress:
    """Where a run stands; everything needed to go on as if it had never stopped."""

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    tokens: int = 0
    stale_evals: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


# --- files ----------------------------------------------------------------------------------------


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file whole."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with beside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Add one JSON line to a log."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def replace_folder(target: Path, filled: Path) -> None:
    """Put a filled folder, synced, in the place of another."""
    for path in sorted(filled.rglob("*")):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    if target.exists():
        target.rename(old)
    filled.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def beside(target: Path) -> Path:
    """Return a fresh empty folder next to where it will go."""
    folder = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    folder.mkdir(parents=True)
    return folder


# --- checkpoints ----------------------------------------------------------------------------------


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor on the CPU; a sharded one is gathered, so every process must ask."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu().contiguous()


def fill(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """Copy a whole value into a tensor, sharded or not."""
    with torch.no_grad():
        if isinstance(tensor, DTensor):
            value = value.to(tensor.device, tensor.dtype)
            tensor.copy_(distribute_tensor(value, tensor.device_mesh, tensor.placements))
        else:
            tensor.copy_(value)


def save_checkpoint(
    out: Path,
    progress: Progress,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    main_process: bool,
) -> None:
    """Write checkpoints/step-N; the oldest beyond two are removed."""
    trainable = {name: whole(p) for name, p in parameters.items()}
    moments = {
        f"{name}.{kind}": whole(value)
        for name, p in parameters.items()
        for kind, value in optimizer.state[p].items()
    }
    if not main_process:
        return
    target = out / "checkpoints" / f"step-{progress.step:07d}"
    folder = beside(target)
    save_file(trainable, folder / "trainable.safetensors")
    save_file(moments, folder / "optimizer.safetensors")
    write_atomically(folder / "progress.json", json.dumps(asdict(progress)) + "\n")
    replace_folder(target, folder)
    for old in sorted(target.parent.glob("step-*"))[:-KEPT_CHECKPOINTS]:
        shutil.rmtree(old)


def find_checkpoint(out: Path, wanted: str) -> Path | None:
    """Return the folder to resume from; None where `auto` finds none.

    Raises FileNotFoundError for a named folder that holds no checkpoint.
    """
    if wanted == "auto":
        found = sorted((out / "checkpoints").glob("step-*/progress.json"))
        return found[-1].parent if found else None
    if not (Path(wanted) / "progress.json").is_file():
        raise FileNotFoundError(f"{wanted} holds no checkpoint; use --resume auto")
    return Path(wanted)


def load_checkpoint(
    folder: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> Progress:
    """Restore parameters and optimiser in place and return the progress.

    Raises ValueError where the checkpoint is of other parameters.
    """
    trainable = load_file(folder / "trainable.safetensors")
    if trainable.keys() != parameters.keys():
        raise ValueError(f"{folder} was written with other --base, --method or --fuse options")
    moments = load_file(folder / "optimizer.safetensors")
    for name, p in parameters.items():
        fill(p, trainable[name])
        for kind in ("step", "exp_avg", "exp_avg_sq"):
            value = moments.get(f"{name}.{kind}")
            if value is None:
                continue
            held = torch.zeros_like(p) if kind != "step" else torch.zeros(())
            fill(held, value)
            fused = optimizer.param_groups[0].get("fused")
            optimizer.state[p][kind] = held.to(p.device) if kind == "step" and fused else held
    return Progress(**json.loads((folder / "progress.json").read_text()))


# --- processes ------------------------------------------------------------------------------------


def shard(trainee: nn.Module, layers: Iterable[nn.Module], dtype: torch.dtype) -> nn.Module:
    """Shard a model over all processes, layer by layer (FSDP2)."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(
        param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for layer in layers:
        fully_shard(layer, mp_policy=policy)
    # The head is used after the decoder's own forward pass, so the root stays gathered.
    return fully_shard(trainee, mp_policy=policy, reshard_after_forward=False)


def sync_gradients(trainee: nn.Module, last: bool) -> None:
    """Exchange gradients only after the last row of a step."""
    if hasattr(trainee, "set_requires_gradient_sync"):
        trainee.set_requires_gradient_sync(last)
    elif isinstance(trainee, nn.parallel.DistributedDataParallel):
        trainee.require_backward_grad_sync = last


def any_process(said: bool, device: torch.device) -> bool:
    """Say whether any process said yes; every process must ask."""
    if not dist.is_initialized():
        return said
    flag = torch.tensor(float(said), device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())
