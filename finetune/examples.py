"""From documents to rows of tokens: chunk, leave out middles, pack.

Nothing is truncated: a file longer than a chunk becomes several. Pieces are cut where a line
begins, at the newline itself, since a tokenizer merges a newline with the indentation after it.
A row holds whole examples end to end, each its own document to the attention.

Not covered: order of files within a repository, context across files.
"""

from __future__ import annotations

import bisect
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

IGNORED = -100
# prefix, suffix, middle sentinels of the families we know, most specific first.
SENTINELS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
)
FIM_MARGIN = 16  # tokens left free in a chunk: three sentinels, the end, and three worse cuts


@dataclass(frozen=True)
class Chunk:
    """A piece of a document: its text, the cuts inside it, its tokens as plain text."""

    text: str
    spans: tuple[tuple[int, int], ...]
    ids: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Return the size of the text in UTF-8."""
        return len(self.text.encode())


@dataclass(frozen=True)
class Row:
    """One packed row: tokens, positions and labels (T,), and the documents' lengths."""

    tokens: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    lengths: list[int]

    @property
    def num_targets(self) -> int:
        """Return how many tokens the loss is taken over."""
        return int((self.labels != IGNORED).sum())


def read_documents(path: Path) -> list[dict[str, Any]]:
    """Read a JSONL file of documents."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def fim_sentinels(tokenizer: Any) -> tuple[int, int, int]:
    """Return the ids of the prefix, suffix and middle sentinels.

    Raises ValueError where the tokenizer has none: asking it for one would silently answer with
    the id of some other token.
    """
    vocabulary = tokenizer.get_vocab()
    for names in SENTINELS:
        if all(name in vocabulary for name in names):
            return tuple(vocabulary[name] for name in names)  # type: ignore[return-value]
    raise ValueError(
        "this tokenizer has no fill-in-the-middle sentinels: train with --fim_rate 0, or give it "
        "some with convert_base.py --teach_fim"
    )


def encode(tokenizer: Any, text: str) -> list[int]:
    """Return a text's ids; what looks like a special token is spelled out, never obeyed.

    Source code may hold such strings (this file does), and so may what a user types.
    """
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def start_ids(tokenizer: Any) -> list[int]:
    """Return what this tokenizer puts before every text (often nothing)."""
    ids = tokenizer("")["input_ids"]
    return [i for i in ids if i != tokenizer.eos_token_id or i == tokenizer.bos_token_id]


def chunk(document: dict[str, Any], tokenizer: Any, seq_len: int) -> list[Chunk]:
    """Cut a document into pieces whose tokens fit `seq_len` together with FIM's sentinels."""
    text, spans = document["text"], [tuple(span) for span in document.get("spans", ())]
    room = seq_len - FIM_MARGIN - len(start_ids(tokenizer))
    if room < 8:
        raise ValueError(f"--seq_len {seq_len} is too short; use at least {FIM_MARGIN + 16}")
    coded = tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    starts = [start for start, _ in coded["offset_mapping"]]
    pieces, begin = [], 0
    while begin < len(text):
        first = bisect.bisect_left(starts, begin)
        end = len(text) if first + room >= len(starts) else best_cut(text, starts, first, room)
        piece = text[begin:end]
        ids = encode(tokenizer, piece)
        inside = tuple((a - begin, b - begin) for a, b in spans if begin < a and b <= end)
        pieces.append(Chunk(piece, inside, tuple(ids)))
        begin = end
    return pieces


def best_cut(text: str, starts: list[int], first: int, room: int) -> int:
    """Return where to end a chunk that starts at token `first`, in characters.

    Prefers the last newline before unindented text in the second half, then the last newline,
    then the last token.
    """
    low, high = starts[first], starts[first + room - FIM_MARGIN]
    for place in range(high, (low + high) // 2, -1):
        if text[place] == "\n" and text[place + 1 : place + 2].strip():
            return place
    newline = text.rfind("\n", low + 1, high + 1)
    return newline if newline > low else high


def fim_example(
    piece: Chunk, tokenizer: Any, sentinels: tuple[int, int, int], rng: random.Random
) -> list[int] | None:
    """Return prefix, suffix and middle in the order the model is asked in; None without a cut."""
    if not piece.spans:
        return None
    start, end = rng.choice(piece.spans)
    prefix, middle, suffix = (
        encode(tokenizer, part)
        for part in (piece.text[:start], piece.text[start:end], piece.text[end:])
    )
    pre, suf, mid = sentinels
    return [pre, *prefix, suf, *suffix, mid, *middle]


def make_examples(
    chunks: list[Chunk],
    tokenizer: Any,
    seq_len: int,
    fim_rate: float,
    rng: random.Random,
) -> list[list[int]]:
    """Turn chunks into examples: at `fim_rate` with the middle last, the others as they are."""
    sentinels = fim_sentinels(tokenizer) if fim_rate else (0, 0, 0)
    start, end = start_ids(tokenizer), [tokenizer.eos_token_id]
    examples = []
    for piece in chunks:
        ids = None
        if fim_rate and rng.random() < fim_rate:
            ids = fim_example(piece, tokenizer, sentinels, rng)
        made = [*start, *(ids if ids is not None else piece.ids), *end]
        if len(made) > seq_len:  # a cut may cost tokens; the plain form always fits
            made = [*start, *piece.ids, *end]
        if len(made) > seq_len:  # text that codes into more tokens alone than in its file
            examples += [made[i : i + seq_len] for i in range(0, len(made), seq_len)]
        else:
            examples.append(made)
    return examples


def best_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    """Return bins of indices, each at most `capacity` long: best fit, longest first."""
    spaces: list[tuple[int, int]] = []  # (room left, bin), sorted
    bins: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = bisect.bisect_left(spaces, (lengths[index], -1))
        if place == len(spaces):
            bins.append([])
            spaces.append((capacity, len(bins) - 1))
            spaces.sort()
            place = bisect.bisect_left(spaces, (lengths[index], -1))
        room, number = spaces.pop(place)
        bins[number].append(index)
        bisect.insort(spaces, (room - lengths[index], number))
    return bins


def pack(examples: list[list[int]], capacity: int, seq_len: int, pad: int) -> list[Row]:
    """Lay examples end to end in rows of exactly `capacity` tokens."""
    return [
        make_row([examples[i] for i in group], capacity, seq_len, pad)
        for group in best_fit([len(example) for example in examples], capacity)
    ]


def plain_rows(
    chunks: list[Chunk], tokenizer: Any, capacity: int, seq_len: int
) -> tuple[list[Row], int]:
    """Return chunks as rows of plain text, and how many bytes of text their loss covers.

    Without a start token nothing predicts a chunk's first token: its bytes do not count.
    """
    start = start_ids(tokenizer)
    rows = pack([[*start, *c.ids] for c in chunks], capacity, seq_len, tokenizer.pad_token_id)
    num_bytes = sum(c.num_bytes for c in chunks)
    if not start:
        num_bytes -= sum(len(tokenizer.decode(c.ids[:1]).encode()) for c in chunks)
    return rows, num_bytes


def without_labels(row: Row) -> Row:
    """Return a row that costs the same and teaches nothing."""
    return Row(row.tokens, row.positions, torch.full_like(row.labels, IGNORED), row.lengths)


def share_out(rows: list[Row], rank: int, world: int) -> list[Row]:
    """Return one process's rows; all get as many, the last ones perhaps without labels."""
    mine = rows[rank::world]
    short = -(-len(rows) // world) - len(mine)
    return mine + [without_labels(rows[0])] * short


def make_row(examples: list[list[int]], capacity: int, seq_len: int, pad: int) -> Row:
    """Build one row; what is left over is padding in documents of its own, without labels."""
    lengths = [len(example) for example in examples]
    left = capacity - sum(lengths)
    padding = [seq_len] * (left // seq_len) + ([left % seq_len] if left % seq_len else [])
    tokens = torch.tensor([i for example in examples for i in example] + [pad] * left)
    labels = torch.full((capacity,), IGNORED)
    place = 0
    for example in examples:
        labels[place : place + len(example) - 1] = torch.tensor(example[1:])
        place += len(example)
    positions = torch.cat([torch.arange(length) for length in (*lengths, *padding)])
    return Row(tokens, positions, labels, [*lengths, *padding])
