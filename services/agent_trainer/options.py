"""The options of one training; part of the model's id, so equal input gives one model."""

import hashlib
from typing import Annotated

from pydantic import Field

from shared.schemas import Frozen

__all__ = ["TrainOptions"]

Width = Annotated[int, Field(ge=8, le=256)]


class TrainOptions(Frozen):
    """What a training does beside its data."""

    seed: Annotated[int, Field(ge=0)] = 0
    element_widths: tuple[Width, ...] = (48, 32)
    context_widths: tuple[Width, ...] = (32,)
    score_widths: tuple[Width, ...] = (32,)
    num_variants: Annotated[int, Field(ge=1, le=200)] = 12  # synthetic ones per demonstration
    num_epochs: Annotated[int, Field(ge=1, le=500)] = 40
    min_epochs: Annotated[int, Field(ge=1, le=500)] = 8  # people's own choices cannot be predicted
    min_steps: Annotated[int, Field(ge=1, le=100_000)] = (
        300  # gradient steps; few data, more epochs
    )
    patience: Annotated[int, Field(ge=1, le=100)] = 6  # epochs without better held-out decisions
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.02
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 32
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 3e-3
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-3
    word_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1  # of hashed words that are there
    word_noise: Annotated[float, Field(ge=0, lt=1)] = 0.01  # of hashed words that are not
    place_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3  # of decisions, of all their places
    step_dropout: Annotated[float, Field(ge=0, lt=1)] = (
        0.3  # of decisions, how many steps were done
    )
    min_accuracy: Annotated[float, Field(ge=0, le=1)] = 0.9  # of held-out decisions, to publish
    max_wrong: Annotated[float, Field(ge=0, le=1)] = 0.05  # of them, wrong and sure, to publish
    min_agreement: Annotated[float, Field(ge=0, le=1)] = 0.995  # of int8 with f32, to ship int8
    min_margin: Annotated[float, Field(ge=0)] = 0.1  # logits; floor of the abstaining threshold
    max_margin: Annotated[float, Field(ge=0)] = 1e6  # logits; cap of it: 0 never abstains
    needs_result: bool = True  # a screen after the last step, which success is read back from
    max_candidates: Annotated[int, Field(ge=8)] = 48  # of a decision; on long screens a sample
    max_rows: Annotated[int, Field(ge=1000)] = 60_000  # element rows kept for training

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the options as JSON."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
