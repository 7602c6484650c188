"""A dataset's chunks, and the steps of training made of them, one epoch ahead."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from examples import (
    Chunk,
    Infilling,
    Row,
    chunk,
    make_examples,
    pack,
    read_documents,
)
from state import Progress

if TYPE_CHECKING:
    from main import Options


@dataclass
class Corpus:
    """The chunks of a dataset and the rows made of them."""

    options: Options
    tokenizer: Any
    row_tokens: int
    parts: dict[str, list[Chunk]]
    epochs: float

    @classmethod
    def load(cls, options: Options, tokenizer: Any, device: torch.device) -> Corpus:
        """Read and chunk a dataset folder."""
        names = ("train", "valid", "replay", "guard")
        folder = Path(options.dataset_path)
        documents = {name: read_documents(folder / f"{name}.jsonl") for name in names}
        parts = {
            name: [piece for one in some for piece in chunk(one, tokenizer, options.seq_len)]
            for name, some in documents.items()
        }
        # Forty steps an epoch learn a small project; a wide row keeps a GPU busy.
        widest = 32 if device.type == "cuda" else 2
        epoch = num_tokens(parts["train"]) * (1 + options.replay) / (1 - options.fim_rate)
        wide = int(epoch) // (40 * options.seq_len)
        row = options.row_tokens or options.seq_len * min(max(1, wide), widest)
        for name in ("valid", "guard"):
            parts[name] = up_to(parts[name], options.eval_tokens)
        epochs = min(options.epochs, options.most_tokens / epoch)
        return cls(options, tokenizer, row, parts, epochs)

    def epoch(self, number: int) -> list[list[Row]]:
        """Return an epoch's steps, each a list of rows; the same on every process."""
        options = self.options
        rng = random.Random(f"{options.seed} {number}")  # noqa: S311 - an order, not a secret
        replay = list(self.parts["replay"])
        rng.shuffle(replay)
        replay = up_to(replay, int(options.replay * num_tokens(self.parts["train"])))
        infilling = Infilling(self.tokenizer, options.fim_order, options.seq_len)
        made = make_examples(self.parts["train"] + replay, options.fim_rate, infilling, rng)
        rows = pack(made, self.row_tokens, options.seq_len, self.tokenizer.pad_token_id, rng)
        rng.shuffle(rows)
        size = max(1, round(options.step_tokens / self.row_tokens))
        return [rows[i : i + size] for i in range(0, len(rows), size)]

    def steps(self, progress: Progress) -> Iterator[tuple[list[Row], float, int]]:
        """Yield (rows, share of the run done, steps in this epoch) from where progress stands.

        The next epoch's rows are made while this one is trained on.
        """
        epochs, last = self.epochs, self.options.max_steps
        with ThreadPoolExecutor(1) as worker:
            ahead = worker.submit(self.epoch, progress.epoch)
            while True:
                plan = ahead.result()
                if last or progress.epoch + 1 < epochs:
                    ahead = worker.submit(self.epoch, progress.epoch + 1)
                while progress.step_in_epoch < len(plan):
                    done = (progress.epoch + progress.step_in_epoch / len(plan)) / epochs
                    done = progress.step / last if last else done
                    if done >= 1:
                        return
                    yield plan[progress.step_in_epoch], done, len(plan)
                progress.epoch, progress.step_in_epoch = progress.epoch + 1, 0


def num_tokens(chunks: list[Chunk]) -> int:
    """Count the tokens of chunks."""
    return sum(len(piece.ids) for piece in chunks)


def up_to(chunks: list[Chunk], tokens: int) -> list[Chunk]:
    """Return the first chunks that hold at most `tokens`."""
    kept = []
    for piece in chunks:
        tokens -= len(piece.ids)
        if tokens < 0:
            break
        kept.append(piece)
    return kept
