"""Measure a base and what training made of it on the same prompts; report the difference.

Reads a dataset (test.jsonl, stdlib.jsonl, symbols.json) and a run of main.py; writes report.md,
report.json, before.json (the base's figures, taken once), quality.png and curve.png. Every row of
the report is taken twice, before and after. Where the run's base was made by teach.py, "before" is
the base that was taught, and the taught one stands between.

- bits/byte on the held-out files and on the standard library (what was forgotten);
- infilling of whole lines: exact match, edit similarity, and whether the file still parses; the
  base is credited with the best of all ways of asking it (prefix only, the suffix as plain text
  before it, sentinels in either order), the tuned model is asked in the order it learned; and
  again with passages of the training files that resemble what stands around the gap;
- the next line from the text before it;
- recall: the project's own names where the visible text has not shown them.
All answers are greedy and end with their first line, before and after alike.
"""

from __future__ import annotations

import argparse
import difflib
import json
import logging
import math
import random
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import attention
import infer
from convert_base import taught
from corpus import up_to
from examples import ORDERS, chunk, encode, plain_rows, read_documents
from main import Trainee
from retrieve import PASSAGES, QUERY_CHARS, Index, as_text
from state import write_atomically
from syntax import parses

log = logging.getLogger("finetune.evaluate")


CONDITIONS = ("num_cases", "context_tokens", "seq_len", "eval_tokens", "seed")


@dataclass(frozen=True)
class Options:
    """What is measured and how much of it."""

    run: str = "var/finetune/run"
    base: str = ""  # measure this base alone, before or while it is trained; --run then takes it up
    dataset_path: str = ""  # default: the one the run was trained on
    out: str = ""  # default: RUN/report
    num_cases: int = 200  # of infilling, next line and recall, each
    context_tokens: int = 1024
    seq_len: int = 2048
    eval_tokens: int = 262_144  # of each set, at most
    batch: int = 0  # prompts at a time; 0: 256 on a GPU, 8 on a CPU
    device: str = "auto"
    dtype: str = "auto"
    seed: int = 0
    download: bool = False


@dataclass(frozen=True)
class Case:
    """One question: the text around a gap and what stood in it."""

    lang: str
    prefix: str
    middle: str
    suffix: str


# --- questions ------------------------------------------------------------------------------------


def pick(cases: list[Case], num: int, seed: str) -> list[Case]:
    """Return at most `num` cases, the same ones every time."""
    chosen = list(cases)
    random.Random(seed).shuffle(chosen)  # noqa: S311 - a sample, not a secret
    return chosen[:num]


def infill_cases(documents: list[dict[str, Any]]) -> list[Case]:
    """Return whole single lines at syntax nodes, with the text on both sides."""
    cases = []
    for document in documents:
        text = document["text"]
        for start, end in document["spans"]:
            middle = text[start:end]
            alone = text[start : start + 1] == "\n" and text[end : end + 1] == "\n"
            if alone and "\n" not in middle.strip() and len(middle.strip()) >= 6:
                cases.append(Case(document["lang"], text[:start], middle, text[end:]))
    return cases


def next_line_cases(documents: list[dict[str, Any]]) -> list[Case]:
    """Return every line of some length, with the text before it."""
    cases = []
    for document in documents:
        text = document["text"]
        for found in re.finditer(r"\n\s*[^\s][^\n]{5,}(?=\n)", text):
            if found.start() > 200:
                before = text[: found.start()].rstrip()
                middle = text[len(before) : found.end()]
                cases.append(Case(document["lang"], before, middle, text[found.end() :]))
    return cases


def recall_cases(
    documents: list[dict[str, Any]], symbols: list[str], window_chars: int
) -> list[Case]:
    """Return uses of the project's names that the text before them does not show."""
    if not symbols:
        return []
    names = re.compile(r"\b(" + "|".join(map(re.escape, symbols)) + r")\b")
    cases = []
    for document in documents:
        text = document["text"]
        for found in names.finditer(text):
            before = text[: found.start()].rstrip(" \t")
            seen = before[-window_chars:]
            if len(before) > 200 and not re.search(rf"\b{re.escape(found[1])}\b", seen):
                cases.append(Case(document["lang"], before, found[1], ""))
    return cases


# --- answers --------------------------------------------------------------------------------------


@dataclass
class Asker:
    """A loaded model and how it is asked."""

    model: Any
    tokenizer: Any
    options: Options
    order: str  # in which infilling was learned; empty for a base, which may be asked in any

    def lines(self, prompts: list[list[int]], what: str) -> list[str]:
        """Return one greedy line for each prompt."""
        batch = self.options.batch or (256 if self.model.device.type == "cuda" else 8)
        with tqdm(total=len(prompts), desc=what, leave=False) as bar:
            return infer.continue_lines(
                self.model, self.tokenizer, prompts, batch=batch, told=bar.update
            )

    def after(self, texts: list[str], what: str, shown: list[str] | None = None) -> list[str]:
        """Continue texts; passages shown first have as much room again."""
        room, tokenizer = self.options.context_tokens, self.tokenizer
        prompts = [infer.plain_prompt(tokenizer, text, room) for text in texts]
        if shown:
            first = [encode(tokenizer, f"{text}\n\n")[:room] if text else [] for text in shown]
            prompts = [[*a, *b] for a, b in zip(first, prompts, strict=True)]
        return self.lines(prompts, what)

    def between(self, cases: list[Case], order: str, shown: list[str] | None = None) -> list[str]:
        """Fill gaps by way of the sentinels; passages shown first have as much room again."""
        room, tokenizer = self.options.context_tokens, self.tokenizer
        prompts = [
            infer.fim_prompt(tokenizer, c.prefix, c.suffix, 2 * room if text else room, order, text)
            for c, text in zip(cases, shown or [""] * len(cases), strict=True)
        ]
        return self.lines(prompts, f"infill, sentinels, {order}")

    def between_as_text(self, cases: list[Case], what: str) -> list[str]:
        """Fill gaps by showing what follows first, as plain text, and then what comes before."""
        third = self.options.context_tokens // 3
        prompts = []
        for case in cases:
            after = encode(self.tokenizer, case.suffix)[:third]
            shown = f"Code after the gap:\n{self.tokenizer.decode(after)}\n\nCode before the gap:\n"
            head = encode(self.tokenizer, shown)
            room = max(32, self.options.context_tokens - len(head))
            prompts.append([*head, *infer.plain_prompt(self.tokenizer, case.prefix, room)])
        return self.lines(prompts, what)


def similarity(a: str, b: str) -> float:
    """Return the share of characters two lines have in common, in order."""
    return difflib.SequenceMatcher(None, a.strip(), b.strip(), autojunk=False).ratio()


def score(cases: list[Case], answers: list[str]) -> dict[str, float]:
    """Return exact match, edit similarity and parse rate of infilled lines."""
    pairs = list(zip(cases, answers, strict=True))
    parsed = [
        bool(answer.strip()) and parses(case.prefix + answer.rstrip() + case.suffix, case.lang)
        for case, answer in pairs
        if parses(case.prefix + case.middle + case.suffix, case.lang)
    ]
    return {
        "exact_match": mean([a.strip() == c.middle.strip() for c, a in pairs]),
        "edit_similarity": mean([similarity(a, c.middle) for c, a in pairs]),
        "parse_rate": mean(parsed),
    }


def mean(values: list[Any]) -> float:
    """Return the mean, 0 of nothing."""
    return sum(values) / len(values) if values else 0.0


def bits_per_byte(asker: Asker, documents: list[dict[str, Any]], rung: str) -> float:
    """Return the model's bits per byte on documents as plain text."""
    options = asker.options
    pieces = [c for d in documents for c in chunk(d, asker.tokenizer, options.seq_len)]
    pieces = up_to(pieces, options.eval_tokens) or pieces[:1]
    rows, num_bytes = plain_rows(pieces, asker.tokenizer, options.seq_len * 4, options.seq_len)
    trainee = Trainee(asker.model, rung, options.seq_len, compiled=False)
    asker.model.set_attn_implementation(attention.NAME)
    with torch.inference_mode():
        nats = sum(float(trainee(row)) for row in tqdm(rows, desc="bits/byte", leave=False))
    asker.model.set_attn_implementation("sdpa")
    return nats / math.log(2) / num_bytes


def measure(
    asker: Asker, sets: dict[str, Any], cases: dict[str, list[Case]], rung: str, shown: list[str]
) -> dict[str, Any]:
    """Return every figure of one model."""
    figures: dict[str, Any] = {
        "held_out_bits_per_byte": bits_per_byte(asker, sets["test"], rung),
        "stdlib_bits_per_byte": bits_per_byte(asker, sets["stdlib"], rung),
    }
    infill = cases["infill"]
    ways: dict[str, list[str]] = {}
    if not asker.order:
        ways["prefix"] = asker.after([c.prefix for c in infill], "infill, prefix only")
        ways["text"] = asker.between_as_text(infill, "infill, as text")
        ways["prefix, passages"] = asker.after(
            [c.prefix for c in infill], "infill, prefix and passages", shown
        )
    try:
        for order in [asker.order] if asker.order else ORDERS:
            ways[f"sentinels, {order}"] = asker.between(infill, order)
        if asker.order:
            ways["sentinels, passages"] = asker.between(infill, asker.order, shown)
    except ValueError as error:
        log.info("no infilling by sentinels: %s", error)
        ways.setdefault("prefix", asker.after([c.prefix for c in infill], "infill, prefix only"))
    scores = {way: score(infill, answers) for way, answers in ways.items()}
    figures["infill_ways"] = scores
    for name in ("exact_match", "edit_similarity", "parse_rate"):
        alone = [one[name] for way, one in scores.items() if "passages" not in way]
        figures[f"infill_{name}"] = max(alone)
        figures[f"infill_shown_{name}"] = max(one[name] for one in scores.values())
    lines = asker.after([c.prefix for c in cases["next_line"]], "next line")
    pairs = list(zip(cases["next_line"], lines, strict=True))
    figures["next_line_exact_match"] = mean([a.strip() == c.middle.strip() for c, a in pairs])
    figures["next_line_edit_similarity"] = mean([similarity(a, c.middle) for c, a in pairs])
    named = asker.after([c.prefix for c in cases["recall"]], "recall")
    figures["symbol_recall"] = mean(
        [
            re.match(rf"\s*{re.escape(c.middle)}\b", a) is not None
            for c, a in zip(cases["recall"], named, strict=True)
        ]
    )
    return figures


# --- the report -----------------------------------------------------------------------------------

ROWS = (
    ("held_out_bits_per_byte", "held-out bits/byte", "lower"),
    ("stdlib_bits_per_byte", "standard library bits/byte", "lower"),
    ("infill_exact_match", "infilled line, exact match", "higher"),
    ("infill_edit_similarity", "infilled line, edit similarity", "higher"),
    ("infill_shown_exact_match", "the same, passages of other files shown", "higher"),
    ("infill_shown_edit_similarity", "the same, edit similarity", "higher"),
    ("infill_parse_rate", "file parses after infilling", "higher"),
    ("next_line_exact_match", "next line, exact match", "higher"),
    ("next_line_edit_similarity", "next line, edit similarity", "higher"),
    ("symbol_recall", "recall of the project's names", "higher"),
)


def markdown(report: dict[str, Any]) -> str:
    """Return the report as a table with its conditions."""
    lines = [
        "# Before and after",
        "",
        f"Base `{report['base']}`, {report['steps']} steps, {report['tokens']} tokens; "
        f"data {report['data_digest'][:12]}; {report['device']}, {report['dtype']}.",
        f"Cases: {', '.join(f'{n} {k}' for k, n in report['num_cases'].items())}.",
        "",
        "| figure | better | before | taught | after | change |",
        "|---|---|---|---|---|---|",
    ]
    for key, name, better in ROWS:
        before, after = report["before"][key], report["after"][key]
        between = f"{report['taught'][key]:.4f}" if report["taught"] else ""
        change = (
            f"{100 * (after / before - 1):+.1f} %"
            if "bits" in key and before
            else (f"{100 * (after - before):+.1f} points")
        )
        lines.append(f"| {name} | {better} | {before:.4f} | {between} | {after:.4f} | {change} |")
    ways = report["before"]["infill_ways"]
    lines += ["", "The base's infilling by way of asking (exact match, edit similarity):"]
    lines += [f"- {w}: {s['exact_match']:.3f}, {s['edit_similarity']:.3f}" for w, s in ways.items()]
    return "\n".join(lines) + "\n"


def plots(report: dict[str, Any], run: Path, out: Path) -> None:
    """Draw the figures before and after, and the run's curves."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(1, 2.2))
    for axis, rows in ((axes[0], ROWS[:2]), (axes[1], ROWS[2:])):
        for shift, when in ((-0.2, "before"), (0.2, "after")):
            values = [report[when][key] for key, _, _ in rows]
            axis.barh([i + shift for i in range(len(rows))], values, height=0.38, label=when)
        axis.set_yticks(range(len(rows)), [name for _, name, _ in rows])
        axis.invert_yaxis()
    axes[0].set_title("bits per byte (lower is better)")
    axes[1].set_title("share of cases (higher is better)")
    axes[1].legend()
    figure.tight_layout()
    figure.savefig(out / "quality.png", dpi=120)
    plt.close(figure)

    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    history = json.loads((run / "result.json").read_text())["history"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    left.plot([line["step"] for line in lines], [line["loss"] for line in lines])
    left.set(title="training loss, nats a token", xlabel="step")
    for name, label in (("valid", "held out"), ("guard", "standard library")):
        right.plot([h["step"] for h in history], [h[name] for h in history], "o-", label=label)
    right.set(title="bits per byte while training", xlabel="step")
    right.legend()
    figure.tight_layout()
    figure.savefig(out / "curve.png", dpi=120)
    plt.close(figure)


def main(options: Options) -> dict[str, Any]:
    """Measure before and after; write and return the report."""
    run = Path(options.run)
    trained = {"base": options.base, "dataset_path": options.dataset_path}
    if not options.base:
        trained = json.loads((run / "options.json").read_text())
    data = Path(options.dataset_path or trained["dataset_path"])
    out = Path(options.out or run / "report")
    name = options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    chosen = options.dtype
    if chosen == "auto":
        chosen = "bfloat16" if name == "cuda" else "float32"
    dtype = getattr(torch, chosen)
    digest = json.loads((data / "manifest.json").read_text())["digest"]
    rung = attention.choose("auto", device, dtype, at_once=True).rung
    sets = {name: read_documents(data / f"{name}.jsonl") for name in ("test", "stdlib")}
    cases = questions(sets, json.loads((data / "symbols.json").read_text()), options)
    index = Index((one["path"], one["text"]) for one in read_documents(data / "train.jsonl"))
    near, half = QUERY_CHARS, QUERY_CHARS // 2
    shown = [
        as_text(index.search(case.prefix[-near:] + case.suffix[:half], PASSAGES))
        for case in cases["infill"]
    ]

    def measured(place: str, added: Path | None, order: str) -> dict[str, Any]:
        model, tokenizer = infer.load(place, added, device, dtype, options.download)
        return measure(Asker(model, tokenizer, options, order), sets, cases, rung, shown)

    # What the base's figures depend on; figures taken under other conditions are taken again.
    note = taught(trained["base"])
    conditions = {
        "base": note.get("base", trained["base"]),
        "taught": trained["base"] if note else "",
        "data_digest": digest,
        "device": attention.device_name(device),
        "dtype": chosen,
        "options": {k: v for k, v in asdict(options).items() if k in CONDITIONS},
    }
    out.mkdir(parents=True, exist_ok=True)
    kept = out / "before.json"
    held = json.loads(kept.read_text()) if kept.is_file() else {}
    if held.get("conditions") != conditions:
        held = {"conditions": conditions, "figures": measured(conditions["base"], None, "")}
        held["taught"] = measured(trained["base"], None, note["fim_order"]) if note else {}
        write_atomically(kept, json.dumps(held, indent=2) + "\n")
    if options.base:
        return held
    base, adapter = infer.find_run(run)
    result = json.loads((run / "result.json").read_text())
    report = conditions | {
        "steps": result["steps"],
        "tokens": result["tokens"],
        "num_cases": {kind: len(some) for kind, some in cases.items()},
        "options": asdict(options),
        "before": held["figures"],
        "taught": held["taught"],
        "after": measured(base, adapter, infer.fim_order(run)),
    }
    write_atomically(out / "report.json", json.dumps(report, indent=2) + "\n")
    write_atomically(out / "report.md", markdown(report))
    plots(report, run, out)
    return report


def questions(sets: dict[str, Any], symbols: list[str], options: Options) -> dict[str, list[Case]]:
    """Return the cases of each kind, the same ones every time."""
    found = {
        "infill": infill_cases(sets["test"]),
        "next_line": next_line_cases(sets["test"]),
        "recall": recall_cases(sets["test"], symbols, 4 * options.context_tokens),
    }
    return {
        kind: pick(some, options.num_cases, f"{options.seed} {kind}")
        for kind, some in found.items()
    }


def parse(arguments: list[str] | None = None) -> Options:
    """Read the command line; one flag per field of Options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in asdict(Options()).items():
        if isinstance(default, bool):
            parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=default)
        else:
            parser.add_argument(f"--{name}", type=type(default), default=default)
    return Options(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    told = main(parse())
    print(markdown(told) if "after" in told else json.dumps(told["figures"], indent=2))
