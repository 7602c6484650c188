"""Load a base, perhaps with an adapter merged in, and continue prompts.

Shared by evaluation, export and the server. Prompts are token ids; long ones lose their far ends.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from adapter import merge_adapter
from convert_base import load_base
from examples import encode, fim_context, fim_sentinels, start_ids

CHARS_A_TOKEN = 32  # more than a token of source code has: what is further away is not coded


def load(
    base: str,
    adapter: Path | None,
    device: torch.device,
    dtype: torch.dtype,
    download: bool = False,
) -> tuple[Any, Any]:
    """Return (model, tokenizer), the adapter merged into the weights, ready to continue text."""
    model, tokenizer = load_base(base, dtype, download)
    if adapter is not None:
        merge_adapter(model, adapter)
    return model.to(device).eval(), tokenizer


def find_run(run: Path) -> tuple[str, Path | None]:
    """Return (base, adapter folder) of a run folder of main.py.

    Raises FileNotFoundError where the run has not been finished.
    """
    options = json.loads((run / "options.json").read_text())
    if options["method"] == "full" and (run / "model" / "config.json").is_file():
        return str(run / "model"), None
    if not (run / "adapter" / "adapter_config.json").is_file():
        raise FileNotFoundError(f"{run} holds no finished adapter or model; run main.py to its end")
    return options["base"], run / "adapter"


def fim_order(run: Path) -> str:
    """Return in which order a run of main.py learned to be asked what stands in a gap."""
    return json.loads((run / "options.json").read_text())["fim_order"]


def plain_prompt(tokenizer: Any, prefix: str, room: int) -> list[int]:
    """Return the ids of a text to continue, cut from the left."""
    ids = encode(tokenizer, prefix[-CHARS_A_TOKEN * room :])
    return [*start_ids(tokenizer), *ids[-room:]]


def fim_prompt(
    tokenizer: Any, prefix: str, suffix: str, room: int, order: str, shown: str = ""
) -> list[int]:
    """Return the ids that ask for what stands between prefix and suffix.

    Passages shown first take half of the room at most; a third of what is left is the suffix's,
    what it leaves is the prefix's.
    """
    first = encode(tokenizer, f"{shown}\n\n")[: room // 2] if shown else []
    room -= len(first)
    after = encode(tokenizer, suffix[: CHARS_A_TOKEN * room])[: room // 3]
    before = encode(tokenizer, prefix[-CHARS_A_TOKEN * room :])[-(room - len(after)) :]
    asked = fim_context(fim_sentinels(tokenizer), order, before, after)
    return [*start_ids(tokenizer), *first, *asked]


class LineEnded(StoppingCriteria):
    """Stop each sequence at the newline after its first line with anything on it."""

    def __init__(self, tokenizer: Any, prompt_tokens: int) -> None:
        """Note where the prompt ends."""
        self.tokenizer, self.prompt_tokens = tokenizer, prompt_tokens

    def __call__(self, ids: torch.LongTensor, scores: Any, **unused: Any) -> torch.Tensor:
        """Return which sequences are done (B,)."""
        texts = self.tokenizer.batch_decode(ids[:, self.prompt_tokens :], skip_special_tokens=True)
        return torch.tensor(["\n" in text.lstrip() for text in texts], device=ids.device)


@torch.inference_mode()
def continue_lines(
    model: Any,
    tokenizer: Any,
    prompts: list[list[int]],
    max_new_tokens: int = 48,
    batch: int = 32,
    told: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Return the greedy continuation of each prompt up to the end of its first line of text."""
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    pad = tokenizer.pad_token_id
    for at in range(0, len(order), batch):
        group = order[at : at + batch]
        longest = max(len(prompts[i]) for i in group)
        rows = [[pad] * (longest - len(prompts[i])) + prompts[i] for i in group]
        mask = [[0] * (longest - len(prompts[i])) + [1] * len(prompts[i]) for i in group]
        ids = model.generate(
            torch.tensor(rows, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=pad,
            stopping_criteria=StoppingCriteriaList([LineEnded(tokenizer, longest)]),
        )
        texts = tokenizer.batch_decode(ids[:, longest:], skip_special_tokens=True)
        for i, text in zip(group, texts, strict=True):
            answers[i] = first_line(text)
        told(len(group))
    return answers


def first_line(text: str) -> str:
    """Return a text up to the end of its first line with anything on it."""
    lead = len(text) - len(text.lstrip())
    end = text.find("\n", lead)
    return text if end < 0 else text[:end]
