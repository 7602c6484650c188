"""From documents to rows of tokens: chunk, leave out middles, pack.

Nothing is truncated: a file longer than a chunk becomes several. Pieces are cut where a line
begins, at the newline itself, since a tokenizer merges a newline with the indentation after it.
Infilling is taught in windows: a gap, what stands around it as context, and a loss on the middle
alone. A gap is a hundredth of its file, so a file must show many of them to teach anything. Some
have passages of other files before them, as a question to the assistant has.
A row holds whole examples end to end, each its own document to the attention.

Not covered: order of files within a repository, context across files.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
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
FIM_MARGIN = 16  # tokens left free in a chunk: three sentinels and the end
GAP_TOKENS = 128  # the longest middle taught
MIDDLE_WEIGHT = 4.0  # of a middle's tokens, which are few, beside those of plain text
WINDOW_TOKENS = (96, 1024)  # of context around a gap, drawn evenly
SHOWN_SHARE = 0.4  # of the windows that have passages of other files before them
ORDERS = ("spm", "psm")
Passages = Callable[[str, str, str], list[int]]  # (path, text before, text after) -> tokens


@dataclass(frozen=True)
class Chunk:
    """A piece of a document: its text, its tokens, and the gaps worth leaving out, in tokens."""

    text: str
    gaps: tuple[tuple[int, int], ...]
    ids: tuple[int, ...]
    path: str = ""

    @property
    def num_bytes(self) -> int:
        """Return the size of the text in UTF-8."""
        return len(self.text.encode())


@dataclass(frozen=True)
class Example:
    """Tokens to learn from; the first `given` of them are read and never asked for."""

    ids: list[int]
    given: int = 1
    weight: float = 1.0  # of each token's loss


@dataclass(frozen=True)
class Row:
    """One packed row: tokens, positions, labels, their weights (T,); the documents' lengths."""

    tokens: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    lengths: list[int]

    @property
    def weight(self) -> float:
        """Return what the loss is divided by: the sum of the weights."""
        return float(self.weights.sum())

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
    vocabulary = tokenizer.get_added_vocab()  # the few special ones; all of them take a while
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
        inside = [(a - begin, b - begin) for a, b in spans if begin < a and b <= end]
        gaps = to_line_ends(text[begin:end], inside)
        pieces.append(make_chunk(text[begin:end], gaps, tokenizer, document.get("path", "")))
        begin = end
    return pieces


def to_line_ends(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return spans that all end where a line does, as gaps at a cursor do, each of them once.

    A middle that may end anywhere teaches a model to end anywhere.
    """
    ends = ((start, text.find("\n", end)) for start, end in spans)
    return sorted({(start, end if end >= 0 else len(text)) for start, end in ends})


def make_chunk(text: str, spans: list[tuple[int, int]], tokenizer: Any, path: str = "") -> Chunk:
    """Return a chunk with the spans that begin and end where tokens do."""
    coded = tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    place: dict[int, int] = {}
    for index, (start, _) in enumerate(coded["offset_mapping"]):
        place.setdefault(start, index)
    place[len(text)] = len(coded["input_ids"])
    gaps = tuple(
        (place[a], place[b])
        for a, b in spans
        if a in place and b in place and 0 < place[b] - place[a] <= GAP_TOKENS
    )
    return Chunk(text, gaps, tuple(coded["input_ids"]), path)


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


def fim_context(
    sentinels: tuple[int, int, int], order: str, before: Sequence[int], after: Sequence[int]
) -> list[int]:
    """Return the ids that ask for what stands between `before` and `after`.

    Orders: `spm`, suffix then prefix, so that the middle follows the text it continues with one
    sentinel between (arXiv:2207.14255 section 3; llama.cpp's --spm-infill); `psm`, prefix then
    suffix, as most bases made for infilling learned it.
    """
    pre, suf, mid = sentinels
    if order == "psm":
        return [pre, *before, suf, *after, mid]
    return [suf, *after, pre, *before, mid]


@dataclass(frozen=True)
class Infilling:
    """How gaps are shown: by which tokenizer, in which order, how long at most."""

    tokenizer: Any
    order: str
    seq_len: int
    passages: Passages | None = None

    @functools.cached_property
    def sentinels(self) -> tuple[int, int, int]:
        """Return the tokenizer's sentinels, looked up once."""
        return fim_sentinels(self.tokenizer)

    @functools.cached_property
    def ends(self) -> tuple[list[int], list[int]]:
        """Return the ids before and after every example."""
        return start_ids(self.tokenizer), [self.tokenizer.eos_token_id]

    def window(self, piece: Chunk, gap: tuple[int, int], rng: random.Random) -> Example | None:
        """Return a gap as an example: context that is given, the middle, the end.

        None where nothing but the middle would fit.
        """
        (first, last), ids = gap, piece.ids
        start, end = self.ends
        most = self.seq_len - FIM_MARGIN - len(start) - (last - first)
        if most < 8:
            return None
        room = rng.randint(min(WINDOW_TOKENS[0], most), min(WINDOW_TOKENS[1], most))
        after = ids[last : last + int(room * rng.uniform(0.15, 0.5))]
        before = ids[max(0, first - room + len(after)) : first]
        shown: list[int] = []
        if self.passages and rng.random() < SHOWN_SHARE:
            around = self.tokenizer.decode(before), self.tokenizer.decode(after)
            shown = self.passages(piece.path, *around)[: most - len(before) - len(after)]
        asked = fim_context(self.sentinels, self.order, before, after)
        context = [*start, *shown, *asked]
        return Example([*context, *ids[first:last], *end], len(context), MIDDLE_WEIGHT)


def make_examples(
    chunks: list[Chunk], fim_rate: float, infilling: Infilling, rng: random.Random
) -> list[Example]:
    """Return every chunk as plain text, and windows until they hold `fim_rate` of all tokens."""
    seq_len = infilling.seq_len
    start, end = infilling.ends
    examples = []
    for piece in chunks:
        made = [*start, *piece.ids, *end]
        # Text may code into more tokens alone than in its file.
        examples += [Example(made[i : i + seq_len]) for i in range(0, len(made), seq_len)]
    left = fim_rate / (1 - fim_rate) * sum(len(example.ids) for example in examples)
    gaps = [(piece, gap) for piece in chunks for gap in piece.gaps] if fim_rate else []
    rng.shuffle(gaps)
    for piece, gap in gaps:
        if left <= 0:
            break
        window = infilling.window(piece, gap, rng)
        if window:
            examples.append(window)
            left -= len(window.ids)
    return examples


def best_fit(lengths: list[int], capacity: int, order: list[int] | None = None) -> list[list[int]]:
    """Return bins of indices, each at most `capacity` long: best fit, longest first.

    Another `order` costs some room, and mixes long and short ones in every bin.
    """
    spaces: list[tuple[int, int]] = []  # (room left, bin), sorted
    bins: list[list[int]] = []
    for index in order or sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
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


def pack(
    examples: list[Example],
    capacity: int,
    seq_len: int,
    pad: int,
    rng: random.Random | None = None,
) -> list[Row]:
    """Lay examples end to end in rows of exactly `capacity` tokens; mixed well with an `rng`."""
    order = list(range(len(examples)))
    if rng:
        rng.shuffle(order)
    bins = best_fit([len(one.ids) for one in examples], capacity, order if rng else None)
    return [make_row([examples[i] for i in group], capacity, seq_len, pad) for group in bins]


def plain_rows(
    chunks: list[Chunk], tokenizer: Any, capacity: int, seq_len: int
) -> tuple[list[Row], int]:
    """Return chunks as rows of plain text, and how many bytes of text their loss covers.

    Without a start token nothing predicts a chunk's first token: its bytes do not count.
    """
    start = start_ids(tokenizer)
    rows = pack(
        [Example([*start, *c.ids]) for c in chunks], capacity, seq_len, tokenizer.pad_token_id
    )
    num_bytes = sum(c.num_bytes for c in chunks)
    if not start:
        num_bytes -= sum(len(tokenizer.decode(c.ids[:1]).encode()) for c in chunks)
    return rows, num_bytes


def without_labels(row: Row) -> Row:
    """Return a row that costs the same and teaches nothing."""
    nothing = torch.full_like(row.labels, IGNORED), torch.zeros_like(row.weights)
    return Row(row.tokens, row.positions, *nothing, row.lengths)


def share_out(rows: list[Row], rank: int, world: int) -> list[Row]:
    """Return one process's rows; all get as many, the last ones perhaps without labels."""
    mine = rows[rank::world]
    short = -(-len(rows) // world) - len(mine)
    return mine + [without_labels(rows[0])] * short


def make_row(examples: list[Example], capacity: int, seq_len: int, pad: int) -> Row:
    """Build one row; what is left over is padding in documents of its own, without labels."""
    lengths = [len(example.ids) for example in examples]
    left = capacity - sum(lengths)
    padding = [seq_len] * (left // seq_len) + ([left % seq_len] if left % seq_len else [])
    ids = itertools.chain(*(example.ids for example in examples), itertools.repeat(pad, left))
    tokens = torch.from_numpy(np.fromiter(ids, np.int64, capacity))
    labels, weights = torch.full((capacity,), IGNORED), torch.zeros(capacity)
    place = 0
    for example in examples:
        asked = example.ids[example.given :]
        end = place + len(example.ids) - 1
        labels[end - len(asked) : end] = torch.tensor(asked)
        weights[end - len(asked) : end] = example.weight
        place = end + 1
    positions = torch.cat([torch.arange(length) for length in (*lengths, *padding)])
    return Row(tokens, positions, labels, weights, [*lengths, *padding])
