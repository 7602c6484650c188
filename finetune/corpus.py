"""A dataset's chunks, and the steps of training made of them, one epoch ahead."""

from __future__ import annotations

import functools
import multiprocessing
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples import (
    Chunk,
    Infilling,
    Passages,
    Row,
    chunk,
    encode,
    make_examples,
    pack,
    read_documents,
)
from retrieve import PASSAGES, QUERY_CHARS, Index, as_text
from state import Progress

if TYPE_CHECKING:
    from main import Options

MANY_DOCUMENTS = 2000
SLICE_TOKENS = 16e6


@dataclass
class Corpus:
    """The chunks of a dataset and the rows made of them."""

    options: Options
    tokenizer: Any
    row_tokens: int
    parts: dict[str, list[Chunk]]
    epochs: float
    slices: int = 1
    passages: Passages | None = None

    @classmethod
    def load(cls, options: Options, tokenizer: Any, on_gpu: bool) -> Corpus:
        """Read and chunk a dataset folder."""
        names = ("train", "valid", "replay", "guard")
        folder = Path(options.dataset_path)
        documents = {name: read_documents(folder / f"{name}.jsonl") for name in names}
        parts = {name: chunked(some, tokenizer, options) for name, some in documents.items()}
        # Forty steps an epoch learn a small project; a wide row keeps a GPU busy.
        widest = 32 if on_gpu else 2
        epoch = num_tokens(parts["train"]) * (1 + options.replay) / (1 - options.fim_rate)
        wide = int(epoch) // (40 * options.seq_len)
        row = options.row_tokens or options.seq_len * min(max(1, wide), widest)
        for name in ("valid", "guard"):
            parts[name] = up_to(parts[name], options.eval_tokens)
        # A large corpus is dealt out in slices, so that the first step need not wait for all rows.
        slices = max(1, round(epoch / SLICE_TOKENS))
        epochs = min(options.epochs, options.most_tokens / epoch) * slices
        corpus = cls(options, tokenizer, row, parts, epochs, slices)
        if slices == 1 and options.fim_rate:
            corpus.passages = passages(documents["train"], tokenizer, options.seq_len)
        return corpus

    def epoch(self, number: int) -> list[list[Row]]:
        """Return an epoch's steps, each a list of rows; the same on every process."""
        options = self.options
        rng = random.Random(f"{options.seed} {number}")  # noqa: S311 - an order, not a secret
        replay = list(self.parts["replay"])
        rng.shuffle(replay)
        pieces = self.parts["train"][number % self.slices :: self.slices]
        replay = up_to(replay, int(options.replay * num_tokens(pieces)))
        infilling = Infilling(self.tokenizer, options.fim_order, options.seq_len, self.passages)
        made = make_examples(pieces + replay, options.fim_rate, infilling, rng)
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


def chunked(documents: list[dict[str, Any]], tokenizer: Any, options: Options) -> list[Chunk]:
    """Return the chunks of documents; many documents are dealt among processes."""
    cut = functools.partial(chunk, tokenizer=tokenizer, seq_len=options.seq_len)
    if len(documents) < MANY_DOCUMENTS:
        return [piece for one in documents for piece in cut(one)]
    workers = min(16, os.cpu_count() or 1)
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        return [piece for some in pool.imap(cut, documents, 32) for piece in some]


def passages(documents: list[dict[str, Any]], tokenizer: Any, seq_len: int) -> Passages:
    """Return what shows a gap the passages of other files that resemble what stands around it."""
    index = Index((one["path"], one["text"]) for one in documents)

    def shown(path: str, before: str, after: str) -> list[int]:
        query = before[-QUERY_CHARS:] + after[: QUERY_CHARS // 2]
        found = [one for one in index.search(query, 4 * PASSAGES) if one.path != path][:PASSAGES]
        return encode(tokenizer, f"{as_text(found)}\n\n")[: seq_len // 2] if found else []

    return shown


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
