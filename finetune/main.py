"""Fine-tune a small language model on source code; the training itself, top to bottom.

Reads a folder of prepare_dataset.py and a base. Writes a run folder: options.json (options, git
revision, data digest, kernels), log.jsonl, tb/, checkpoints/, best/, and at the end adapter/ (PEFT;
model/ with --method full) and result.json. Processes deal the rows of a step among themselves and
a step's loss is divided by the step's targets, so any number of them computes the same steps.

    python main.py --dataset_path DIR [--base smollm2] [--method lora] [--resume auto]
    torchrun --nproc-per-node N main.py …

Past 400 lines because all that happens to the weights stands here, in the order it happens.
Not covered: bases with sliding windows shorter than --seq_len or soft-capped logits.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import adapter
import attention
import state
from convert_base import load_base, load_tokenizer
from corpus import Corpus, num_tokens
from examples import ORDERS, Row, fim_sentinels, plain_rows, share_out
from losses import chunked_nll

log = logging.getLogger("finetune")
HERE = Path(__file__).resolve().parent
BYTES_A_TOKEN = 3.5  # of source code, about
COMPILED_FROM_TOKENS = 2e6  # compiling takes half a minute; asking for a step then a third


@dataclass(frozen=True)
class Options:
    """Everything that shapes a run; one flag a field, written to options.json."""

    dataset_path: str = ""
    out: str = "var/finetune/run"
    base: str = "smollm2"  # or a Hub id, a folder, a GGUF file
    download: bool = False  # allow a Hub id to be fetched
    method: str = "lora"  # lora | dora | full
    rank: int = 32
    alpha: float = 0.0  # 0: equal to the rank
    fim_rate: float = 0.75  # share of the tokens that teach infilling
    fim_order: str = "spm"  # suffix, prefix, middle; psm as bases made for infilling learned it
    seq_len: int = 2048
    row_tokens: int = 0  # tokens a forward pass; 0: from the data and the device
    step_tokens: int = 0  # tokens an optimiser step, over all processes; 0: one row
    epochs: float = 5.0
    most_tokens: int = 6_000_000  # of a run: a large project is seen fewer times
    max_steps: int = 0  # 0: as the epochs say
    lr: float = 0.0  # 0: 2e-3 for adapters, 1e-4 for --method full
    warmup: float = 0.05  # share of the run
    weight_decay: float = 0.01
    clip: float = 1.0
    replay: float = 1.0  # tokens of the standard library for each token of the project
    max_forgetting: float = 0.01  # the relative rise of the guard's bits/byte a best model may have
    evals_per_epoch: float = 2.0
    eval_tokens: int = 131_072  # of each set, at most
    patience: int = 4  # evaluations without a better model
    attn: str = "auto"  # auto | flash4 | flash2 | varlen | flex | sdpa
    compile: str = "auto"  # auto: on a GPU, for runs that win back the time | on | off
    fuse: bool = True
    fp8: bool = False  # hold the frozen base in FP8
    checkpointing: bool = False
    parallel: str = "auto"  # auto | ddp | fsdp
    save_every: int = 200  # steps
    resume: str = ""  # auto | a checkpoint folder
    dtype: str = "auto"  # auto: bfloat16 on a GPU, float32 on a CPU
    device: str = "auto"
    threads: int = 0
    seed: int = 0

    @property
    def full(self) -> bool:
        """Say whether every weight is trained."""
        return self.method == "full"


# --- the model ------------------------------------------------------------------------------------


class Trainee(nn.Module):
    """A causal language model whose forward pass is the summed loss of one packed row."""

    def __init__(self, model: Any, rung: str, longest: int, compiled: bool) -> None:
        """Hold the model; its layers may be compiled already."""
        super().__init__()
        self.model, self.rung, self.longest, self.compiled = model, rung, longest, compiled
        self.slots = 64

    def forward(self, row: Row) -> torch.Tensor:
        """Return the sum of the row's negative log likelihoods in nats, float32."""
        while len(row.lengths) > self.slots:
            self.slots *= 2
        head = self.model.get_output_embeddings().weight
        device = head.device
        packing = attention.packing_kwargs(self.rung, row.lengths, self.slots, self.longest, device)
        hidden = self.model.get_decoder()(
            input_ids=row.tokens.to(device, non_blocking=True)[None],
            position_ids=row.positions.to(device, non_blocking=True)[None],
            use_cache=False,
            **packing,
        ).last_hidden_state
        labels, weights = row.labels.to(device), row.weights.to(device)
        return chunked_nll(hidden[0], head, labels, weights, self.compiled)


@dataclass
class Setup:
    """What build() made: the model in its wrappers and all that belongs to it."""

    model: Any
    tokenizer: Any
    trainee: nn.Module
    adapters: list[adapter.AdaptedLinear]
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    attention: attention.Choice
    device: torch.device
    dtype: torch.dtype


def build(options: Options, device: torch.device, world: int) -> Setup:
    """Load the base and set it up."""
    dtype = run_dtype(options, device)
    held = torch.float32 if options.full else dtype  # weights that are trained stay exact
    model, tokenizer = load_base(options.base, held, options.download)
    return set_up(options, model, tokenizer, device, world)


def run_dtype(options: Options, device: torch.device) -> torch.dtype:
    """Return the type activations have."""
    if options.dtype != "auto":
        return getattr(torch, options.dtype)
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def set_up(options: Options, model: Any, tokenizer: Any, device: torch.device, world: int) -> Setup:
    """Adapt, compile and wrap a model; make the optimiser."""
    dtype = run_dtype(options, device)
    refuse_unsupported(model.config, options)
    if options.fim_rate:
        fim_sentinels(tokenizer)  # refused here, before anything is spent
    model.to(device).train()
    compiled = wants_compile(options, device)
    choice = attention.choose(options.attn, device, dtype, at_once=not compiled)
    model.set_attn_implementation(attention.NAME)
    alpha, dora = options.alpha or float(options.rank), options.method == "dora"
    adapters: list[adapter.AdaptedLinear] = []
    if not options.full:
        adapters = adapter.adapt(model, options.rank, alpha, dora, options.fuse, options.fp8)
    if options.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    if compiled and choice.compiles:
        for layer in model.get_decoder().layers:  # a layer compiles in seconds, a model does not
            layer.compile(dynamic=False)
        model.get_decoder().norm.compile(dynamic=False)
    trainee: nn.Module = Trainee(model, choice.rung, options.seq_len, compiled)
    if wants_fsdp(options, model, device, world):
        trainee = state.shard(trainee, model.get_decoder().layers, dtype)
    elif world > 1:
        trainee = nn.parallel.DistributedDataParallel(
            trainee,
            device_ids=[device.index] if device.type == "cuda" else None,
            broadcast_buffers=False,
        )
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        parameters.values(),
        betas=(0.9, 0.99),
        weight_decay=options.weight_decay,
        fused=device.type == "cuda",
    )
    return Setup(model, tokenizer, trainee, adapters, parameters, optimizer, choice, device, dtype)


def refuse_unsupported(config: Any, options: Options) -> None:
    """Raise SystemExit for a base whose mathematics this trainer does not do."""
    window = getattr(config, "sliding_window", None)
    if getattr(config, "use_sliding_window", True) and window and window < options.seq_len:
        raise SystemExit(f"the base attends to {window} tokens only; use --seq_len {window}")
    for name in ("final_logit_softcapping", "attn_logit_softcapping", "logit_scale"):
        if getattr(config, name, None):
            raise SystemExit(f"a base with {name} is not supported")
    if options.full and options.fp8:
        raise SystemExit("--fp8 holds a frozen base: use --method lora or dora")


def wants_compile(options: Options, device: torch.device) -> bool:
    """Say whether a run is long enough to win back the half minute that compiling takes."""
    if options.compile != "auto" or device.type != "cuda" or not options.dataset_path:
        return options.compile == "on" or (options.compile == "auto" and device.type == "cuda")
    manifest = json.loads((Path(options.dataset_path) / "manifest.json").read_text())
    epoch = manifest["sets"]["train"]["num_bytes"] / BYTES_A_TOKEN * (1 + options.replay)
    epoch /= 1 - options.fim_rate
    tokens = min(epoch * options.epochs, options.most_tokens)
    return options.max_steps > 200 or tokens > COMPILED_FROM_TOKENS


def wants_fsdp(options: Options, model: Any, device: torch.device, world: int) -> bool:
    """Say whether weights, gradients and moments would not fit one GPU."""
    if options.parallel != "auto" or world == 1 or device.type != "cuda":
        return options.parallel == "fsdp"
    num_bytes = sum(
        p.numel() * (p.element_size() + 12 * p.requires_grad) for p in model.parameters()
    )
    return num_bytes > 0.5 * torch.cuda.get_device_properties(device).total_memory


# --- training -------------------------------------------------------------------------------------


def main(options: Options) -> dict[str, Any]:
    """Train once; return what result.json says."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    # Before there are threads or a GPU in this process: many documents are read by forked ones.
    corpus = Corpus.load(options, load_tokenizer(options.base, options.download), on_gpu(options))
    device = pick_device(options)
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    if options.threads:
        torch.set_num_threads(options.threads)
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    stop = {"asked": False}
    signal.signal(signal.SIGTERM, lambda *_: stop.update(asked=True))
    setup = build(options, device, world)
    try:
        return train(options, setup, corpus, rank, world, lambda: stop["asked"])
    finally:
        if world > 1:
            dist.destroy_process_group()


def train(
    options: Options,
    setup: Setup,
    corpus: Corpus,
    rank: int,
    world: int,
    asked_to_stop: Callable[[], bool],
) -> dict[str, Any]:
    """Run the loop: rows in, gradients, a step; measure, keep the best, stop when it is enough."""
    out, first_process = Path(options.out), rank == 0
    trainee, optimizer, parameters = setup.trainee, setup.optimizer, setup.parameters
    progress = state.Progress()
    found = state.find_checkpoint(out, options.resume) if options.resume else None
    if found:
        progress = state.load_checkpoint(found, parameters, optimizer)
        log.info("resumed from %s at step %d", found, progress.step)
    if first_process:
        out.mkdir(parents=True, exist_ok=True)
        if not found:
            shutil.rmtree(out / "best", ignore_errors=True)
            (out / "log.jsonl").unlink(missing_ok=True)
        state.write_atomically(out / "options.json", described(options, setup, corpus, world))
    board = SummaryWriter(str(out / "tb")) if first_process else None
    bar = tqdm(disable=not first_process, unit="tok", unit_scale=True, desc="train")

    def measure() -> bool:
        """Take bits/byte, keep the model if it is the best so far; say whether it is."""
        now = {"step": progress.step} | {
            name: bits_per_byte(setup, corpus, name, rank, world) for name in ("valid", "guard")
        }
        best, limit = best_so_far(progress.history, options)
        progress.history.append(now)
        kept = len(progress.history) > 1 and now["valid"] < best and now["guard"] <= limit
        progress.stale_evals = 0 if kept else progress.stale_evals + 1
        if kept:
            save_model(out / "best", options, setup, first_process)
        if board:
            for name in ("valid", "guard"):
                board.add_scalar(f"bits_per_byte/{name}", now[name], progress.step)
        log.info("step %(step)d: %(valid).4f bits/byte held out, %(guard).4f guard", now)
        return kept

    if not progress.history:
        measure()
        progress.stale_evals = 0
    peak = options.lr or (1e-4 if options.full else 2e-3)
    outcome, started, seen = "done", time.monotonic(), 0
    for rows, share, steps_an_epoch in corpus.steps(progress):
        for group in optimizer.param_groups:
            group["lr"] = peak * schedule(share, options.warmup)
        targets, weight = sum(row.num_targets for row in rows), sum(row.weight for row in rows)
        mine = share_out(rows, rank, world)
        nats = torch.zeros((), device=setup.device)
        for index, row in enumerate(mine):
            state.sync_gradients(trainee, index == len(mine) - 1)
            with mixed_precision(options, setup):
                loss = trainee(row)
            # The wrappers average over processes; a step's loss is the mean over its targets.
            (loss * (world / weight)).backward()
            nats += loss.detach()
        norm = nn.utils.clip_grad_norm_(parameters.values(), options.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        progress.step, progress.step_in_epoch = progress.step + 1, progress.step_in_epoch + 1
        progress.tokens, seen = progress.tokens + targets, seen + targets
        if world > 1:
            dist.all_reduce(nats)
        mean = nats.item() / weight
        if not math.isfinite(mean):
            raise SystemExit(f"step {progress.step}: the loss is {mean}; use a smaller --lr")
        if first_process:
            line = {"step": progress.step, "loss": mean, "lr": optimizer.param_groups[0]["lr"]}
            state.append_line(out / "log.jsonl", line | {"tokens": progress.tokens})
            (out / "heartbeat").touch()
            board.add_scalar("loss", mean, progress.step)
            board.add_scalar("gradient_norm", float(state.whole(norm)), progress.step)
            bar.set_postfix(loss=f"{mean:.3f}", step=progress.step, refresh=False)
            bar.update(targets)

        if state.any_process(asked_to_stop(), setup.device):
            state.save_checkpoint(out, progress, parameters, optimizer, first_process)
            outcome = "interrupted"
            break
        if progress.step % max(1, round(steps_an_epoch / options.evals_per_epoch)) == 0:
            measure()
            if progress.stale_evals >= options.patience:
                outcome = "stopped early"
                break
        if progress.step % options.save_every == 0:
            state.save_checkpoint(out, progress, parameters, optimizer, first_process)

    seconds = time.monotonic() - started
    bar.close()
    if outcome == "done" and progress.history[-1]["step"] != progress.step:
        measure()
    if outcome != "interrupted":
        state.save_checkpoint(out, progress, parameters, optimizer, first_process)
        publish(out, options, setup, first_process)
    best, _ = best_so_far(progress.history, options)
    result = {
        "outcome": outcome,
        "steps": progress.step,
        "tokens": progress.tokens,
        "tokens_per_s": round(seen / seconds, 1),
        "before": progress.history[0],
        "best": next(line for line in progress.history if line["valid"] == best),
        "history": progress.history,
    }
    if first_process:
        board.close()
        state.write_atomically(out / "result.json", json.dumps(result, indent=2) + "\n")
    if world > 1:
        dist.barrier()  # nobody leaves before the files are written
    return result


def schedule(share: float, warmup: float) -> float:
    """Return the learning rate's factor: up in a line, then down half a cosine to a twentieth."""
    if share < warmup:
        return max(share / warmup, 0.02)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))


def mixed_precision(options: Options, setup: Setup) -> Any:
    """Return the context in which exact weights are multiplied in the run's type."""
    if options.full and setup.dtype != torch.float32:
        return torch.autocast(setup.device.type, setup.dtype)
    return contextlib.nullcontext()


def bits_per_byte(setup: Setup, corpus: Corpus, name: str, rank: int, world: int) -> float:
    """Return the model's bits per byte on one part of the corpus, as plain text."""
    rows, num_bytes = plain_rows(
        corpus.parts[name], corpus.tokenizer, corpus.row_tokens, corpus.options.seq_len
    )
    if not rows:
        return 0.0
    nats = torch.zeros((), device=setup.device)
    with torch.no_grad(), mixed_precision(corpus.options, setup):
        for row in share_out(rows, rank, world):
            nats += setup.trainee(row)
    if world > 1:
        dist.all_reduce(nats)
    return nats.item() / math.log(2) / num_bytes


def best_so_far(history: list[dict[str, float]], options: Options) -> tuple[float, float]:
    """Return (lowest held-out bits/byte among models that forgot little, the guard's limit)."""
    if not history:
        return math.inf, math.inf
    limit = history[0]["guard"] * (1 + options.max_forgetting)
    return min(line["valid"] for line in history if line["guard"] <= limit), limit


def save_model(target: Path, options: Options, setup: Setup, first_process: bool) -> None:
    """Write the trained part whole: a PEFT adapter, or the model with --method full."""
    if options.full:
        weights = {n: state.whole(p) for n, p in setup.model.state_dict().items()}
    else:
        weights = adapter.adapter_state(setup.adapters)
        weights = {name: state.whole(t) for name, t in weights.items()}
    if not first_process:
        return
    folder = state.beside(target)
    if options.full:
        setup.model.save_pretrained(
            folder, state_dict={n: t.to(torch.bfloat16) for n, t in weights.items()}
        )
    else:
        alpha, dora = options.alpha or float(options.rank), options.method == "dora"
        adapter.save_adapter(folder, weights, options.base, options.rank, alpha, dora)
    setup.tokenizer.save_pretrained(folder)
    state.replace_folder(target, folder)


def publish(out: Path, options: Options, setup: Setup, first_process: bool) -> None:
    """Put the best model (the last, where none was better than the base) in its final place."""
    target = out / ("model" if options.full else "adapter")
    if not (out / "best").is_dir():
        save_model(target, options, setup, first_process)
    elif first_process:
        folder = state.beside(target)
        shutil.copytree(out / "best", folder, dirs_exist_ok=True)
        state.replace_folder(target, folder)


def described(options: Options, setup: Setup, corpus: Corpus, world: int) -> str:
    """Return options.json: the options and what they met."""
    manifest = json.loads((Path(options.dataset_path) / "manifest.json").read_text())
    git = shutil.which("git") or "git"
    revision = subprocess.run(
        [git, "-C", str(HERE), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    told = asdict(options) | {
        "git_revision": revision.stdout.strip(),
        "data_digest": manifest["digest"],
        "attention": setup.attention.rung,
        "attention_passed_over": setup.attention.passed_over,
        "device": attention.device_name(setup.device),
        "processes": world,
        "row_tokens": corpus.row_tokens,
        "train_tokens": num_tokens(corpus.parts["train"]),
        "trainable_parameters": sum(p.numel() for p in setup.parameters.values()),
        "torch": torch.__version__,
    }
    return json.dumps(told, indent=2) + "\n"


def on_gpu(options: Options) -> bool:
    """Say whether the run is on a GPU."""
    wanted = options.device
    return wanted.startswith("cuda") or (wanted == "auto" and torch.cuda.is_available())


def pick_device(options: Options) -> torch.device:
    """Return this process's device and make it the current one."""
    if options.device != "auto":
        return torch.device(options.device)
    if not on_gpu(options):
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def parse(arguments: list[str] | None = None) -> Options:
    """Read the command line; one flag per field of Options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in asdict(Options()).items():
        if isinstance(default, bool):
            parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=default)
        else:
            parser.add_argument(f"--{name}", type=type(default), default=default)
    options = Options(**vars(parser.parse_args(arguments)))
    if not (Path(options.dataset_path) / "manifest.json").is_file():
        parser.error("--dataset_path must name a folder written by prepare_dataset.py")
    for name, known in (("method", ("lora", "dora", "full")), ("fim_order", ORDERS)):
        if getattr(options, name) not in known:
            parser.error(f"--{name} is one of {', '.join(known)}")
    if not 0 <= options.fim_rate < 1:
        parser.error("--fim_rate is a share of the tokens: at least 0, below 1")
    return options


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    main(parse())
