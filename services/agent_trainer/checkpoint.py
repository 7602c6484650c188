"""How far a fit has come, kept after each epoch: one that was killed goes on from there.

One file of safetensors, in which nothing can be run, with the rest as JSON in its metadata. It is
whole from the moment it has its name. A file of another fit (`key`) or one that cannot be read
counts as none: then the fit begins anew.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from services.agent_trainer.adam import Adam
from services.agent_trainer.policy import Policy
from shared.errors import TrainingError

__all__ = ["Checkpoint", "FitState", "key_of"]


@dataclass
class FitState:
    """A fit between two epochs; the lists hold one figure an epoch."""

    policy: Policy
    optimiser: Adam
    rng: np.random.Generator
    best: dict[str, torch.Tensor]  # the policy's weights at its best epoch
    losses: list[float]
    held_out_losses: list[float]
    held_out_accuracies: list[float]

    def _tensors(self) -> dict[str, torch.Tensor]:
        kinds = {
            "policy": self.policy.state_dict(), "best": self.best, "adam": self.optimiser.tensors,
        }  # fmt: skip
        return {f"{kind}.{name}": t for kind, named in kinds.items() for name, t in named.items()}


class Checkpoint:
    """The file of one fit."""

    def __init__(self, file: Path, key: str) -> None:
        self._file = file
        self._key = key

    def write(self, state: FitState) -> None:
        """Replace the file. Raises TrainingError where the disk refuses."""
        facts = {
            "losses": state.losses,
            "held_out_losses": state.held_out_losses,
            "held_out_accuracies": state.held_out_accuracies,
            "rng": state.rng.bit_generator.state,
        }
        tensors = {**state._tensors(), "torch_rng": torch.get_rng_state()}
        data = save(tensors, {"key": self._key, "facts": json.dumps(facts)})
        draft = self._file.with_suffix(".draft")  # of one name: what a kill leaves is written over
        try:
            with draft.open("wb") as file:
                draft.chmod(0o600)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._file)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise TrainingError(f"its checkpoint cannot be written ({error}): free disk") from error

    @torch.no_grad()
    def read(self, state: FitState) -> bool:
        """Take over what was kept, of torch's random numbers too; tell whether there was any."""
        try:
            with safe_open(self._file, framework="pt") as kept:
                metadata = kept.metadata() or {}
                if metadata.get("key") != self._key:
                    return False
                facts = json.loads(metadata["facts"])
                for name, tensor in state._tensors().items():
                    tensor.copy_(kept.get_tensor(name))
                torch.set_rng_state(kept.get_tensor("torch_rng"))
        except (OSError, SafetensorError):
            return False
        state.rng.bit_generator.state = facts.pop("rng")
        for name, figures in facts.items():
            getattr(state, name)[:] = figures
        return True


def key_of(arrays: Iterable[NDArray[np.generic]], *words: str) -> str:
    """Return the SHA-256 of all that a fit depends on: its data, and what else is named."""
    digest = hashlib.sha256("\0".join((*words, str(torch.__version__))).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
