"""The training of one agent, from traces to module; read it from top to bottom.

Run as `python -m services.agent_trainer.train` with one JSON line on stdin (`Order`). Writes
progress as JSON lines to stdout, and `module.wasm`, `weights.safetensors` and `network.onnx` into
the order's folder. Reads the learner's trace and snapshot artifacts. Exits 0 when done, 1 with the
reason in its last line, 3 when stdin closes: then the service that wanted the agent is gone.

Two fits. The first, without the held-out traces, says how long to train and how far to trust; the
second trains on all traces for as long. Held-out figures are the first one's. Each keeps a
checkpoint in the folder after every epoch, from which a child that is given the same order goes on.

Longer than 400 lines because a training reads best in one piece.
"""

import hashlib
import json
import math
import os
import resource
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from services.agent_trainer.adam import Adam
from services.agent_trainer.checkpoint import Checkpoint, FitState, key_of
from services.agent_trainer.dataset import Dataset, build, split, variants
from services.agent_trainer.demonstrations import Chore, read_chore
from services.agent_trainer.evaluate import Judged, calibrate, decide_all, judge, rows_of
from services.agent_trainer.export import export, git_revision
from services.agent_trainer.instructed import read_instructed
from services.agent_trainer.options import TrainOptions
from services.agent_trainer.order import Order
from services.agent_trainer.policy import Policy
from shared.artifacts import Artifacts
from shared.encoding import HASHED_CONTEXT_FEATURES, HASHED_ELEMENT_FEATURES
from shared.encoding_goal import (
    GOAL_HASHED_CONTEXT,
    GOAL_HASHED_ELEMENT,
    GOAL_NUM_STEPS,
    GOAL_PLACES,
)
from shared.errors import Diverged, TrainingError, WatError
from shared.manifest import ABI_VERSION, EMITTER_VERSION, Network
from shared.schemas import Level, Snapshot, Trace
from shared.topics import Room

__all__ = ["MAX_TRACES", "Fitted", "Forgettable", "check_good_enough", "fit", "for_few", "train"]

T = TypeVar("T", Trace, Snapshot)

MAX_TRACES = 60  # the newest; more add seconds and no accuracy on chores of this size
_NUM_HELD_VARIANTS = 8
_ENOUGH = 30  # demonstrations from which on nothing is made up for
_MAX_VARIANTS = 60
_MOST_PLACES = 0.8  # forgotten with next to no demonstrations
_GOOD_ENOUGH = 0.003  # held-out loss in nats at which more epochs change nothing


class Forgettable(NamedTuple):
    """Where the features are that are left out at random in training."""

    words: range  # hashed, of an element
    context_words: range
    places: range  # where an element stands among others
    steps: range  # of the context: how many were done


@dataclass
class Fitted:
    """A policy and how it came about."""

    policy: Policy
    num_epochs: int
    losses: list[float]
    held_out_losses: list[float]
    held_out_accuracies: list[float]


def say(**fields: object) -> None:
    """Write one progress line."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Train what stdin orders; return the exit status."""
    line = sys.stdin.readline()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        order = Order.model_validate_json(line)
    except ValidationError as error:
        say(event="failed", reason=f"the order does not fit ({error.error_count()} errors)")
        return 1
    os.nice(5)
    resource.setrlimit(resource.RLIMIT_CPU, (order.cpu_limit_s, order.cpu_limit_s + 5))
    resource.setrlimit(resource.RLIMIT_DATA, (order.memory_limit_bytes, order.memory_limit_bytes))
    try:
        train(order)
    except WatError as error:
        say(event="failed", reason=str(error))
        return 1
    except MemoryError:
        say(event="failed", reason=f"it needs more than {order.memory_limit_bytes >> 20} MiB")
        return 1
    return 0


def _die_with_parent() -> None:
    # The service never writes a second line: reading ends when it closes the pipe or dies.
    sys.stdin.read()
    os._exit(3)


def train(order: Order) -> None:
    """Train, evaluate, export. Raises TrainingError, ArtifactError."""
    options, started = order.options, time.monotonic()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    say(event="reading", num_traces=len(order.routine.traces))
    chore = _read(order)
    options = for_few(options, len(chore.demonstrations))
    learn, held = split(chore.demonstrations, options.seed)
    learn_data = build(
        variants(learn, chore, options.num_variants, options.seed),
        chore,
        options.max_rows,
        options.max_candidates,
    )
    held_data = build(
        variants(held, chore, _NUM_HELD_VARIANTS, options.seed + 1), chore, options.max_rows // 4
    )
    as_shown = build(variants(held, chore, 0, options.seed), chore, options.max_rows // 4)
    say(
        event="encoded",
        num_demonstrations=len(chore.demonstrations),
        num_held_out=len(held),
        num_decisions=learn_data.num_decisions,
        left_out=list(chore.left_out[:5]),
        elapsed_s=round(time.monotonic() - started, 2),
    )
    network = Network(
        num_features=chore.sizes[0],
        num_context=chore.sizes[1],
        num_actions=len(chore.actions),
        element=options.element_widths,
        context=options.context_widths,
        score=options.score_widths,
    )
    forgets = Forgettable(HASHED_ELEMENT_FEATURES, HASHED_CONTEXT_FEATURES, range(0), range(0))
    if chore.reading is not None:
        forgets = Forgettable(GOAL_HASHED_ELEMENT, GOAL_HASHED_CONTEXT, GOAL_PLACES, GOAL_NUM_STEPS)
    everything = learn_data.joined(held_data)
    key = key_of(
        (*everything.arrays, np.array(learn_data.num_decisions)),
        options.digest, network.model_dump_json(), git_revision(),
    )  # fmt: skip

    def checkpoint(name: str) -> Checkpoint:
        return Checkpoint(order.folder / f"{name}.safetensors", key)

    trial = fit(
        network, learn_data, held_data, options, forgets=forgets, checkpoint=checkpoint("trial")
    )
    held_judged = judge(decide_all(trial.policy, held_data), held_data)
    shown_judged = judge(decide_all(trial.policy, as_shown), as_shown)
    calibrated = calibrate(held_judged, options.min_margin)
    threshold = min(calibrated, options.max_margin)
    check_good_enough(held_judged, threshold, options)

    say(event="fitting", on="all demonstrations", num_epochs=trial.num_epochs)
    final = fit(
        network, everything, None, options, forgets=forgets, num_epochs=trial.num_epochs,
        checkpoint=checkpoint("final"),
    )  # fmt: skip
    if not any(d.final for d in chore.demonstrations):
        final.policy.never_finish()
    wrong, abstained = held_judged.shares(threshold)
    figures = {
        "training": {
            "num_demonstrations": float(len(chore.demonstrations)),
            "num_decisions": float(everything.num_decisions),
            "num_epochs": float(trial.num_epochs),
            "loss": round(final.losses[-1], 6),
        },
        "held_out": {
            "num_demonstrations": float(len(held)),
            "step_accuracy": shown_judged.accuracy,
            "demonstration_accuracy": _whole(shown_judged, [len(d.states) for d in held]),
            "num_decisions": float(held_data.num_decisions),
            "decision_accuracy": held_judged.accuracy,
            "wrong_share": wrong,
            "abstained_share": abstained,
        },
    }
    exported = export(
        final.policy,
        routine=order.routine,
        chore=chore,
        options=order.options,
        threshold=threshold,
        checked=held_data,
        figures=figures,
        data_digest=order.data_digest,
    )
    (order.folder / "module.wasm").write_bytes(exported.module)
    (order.folder / "weights.safetensors").write_bytes(exported.weights)
    (order.folder / "network.onnx").write_bytes(exported.onnx)
    held_figures = {f"held_out_{key}": value for key, value in figures["held_out"].items()}
    say(
        event="done",
        sha256=hashlib.sha256(exported.module).hexdigest(),
        precision=exported.manifest.precision,
        capabilities=list(exported.manifest.capabilities),
        parameters=[s for s in chore.slots if s not in chore.constants and chore.reading is None],
        abi=ABI_VERSION,
        emitter=EMITTER_VERSION,
        encoding=exported.manifest.encoding,
        git_revision=git_revision(),
        metrics={
            **figures["training"],
            **held_figures,
            "margin_threshold": threshold,
            "calibrated_margin": calibrated,
            "agreement_with_torch": exported.agreement,
            "agreement_int8": exported.agreement_int8,
            "logit_gap": exported.gap,
            "elapsed_s": round(time.monotonic() - started, 2),
        },
        curves={
            "loss": _rounded(trial.losses),
            "held_out_loss": _rounded(trial.held_out_losses),
            "held_out_accuracy": _rounded(trial.held_out_accuracies),
        },
    )


def for_few(options: TrainOptions, num_demonstrations: int) -> TrainOptions:
    """Return the options with more variants and more forgetting, the fewer the demonstrations.

    Few screens are told apart by where things stand, which says nothing of the next one.
    """
    share = min(1.0, num_demonstrations / _ENOUGH)
    variants = min(round(options.num_variants / share), _MAX_VARIANTS)
    lacking = max(0.0, _MOST_PLACES - options.place_dropout)
    return options.model_copy(
        update={
            "num_variants": max(options.num_variants, variants),
            "place_dropout": options.place_dropout + (1 - share) * lacking,
        }
    )


def _read(order: Order) -> Chore:
    if order.routine.level is Level.STRUCTURE:
        raise TrainingError(
            "the routine touches an application of which only the structure may be kept: allow "
            "`values` for it, then show the routine again"
        )
    artifacts = Artifacts(order.artifacts, Room.AGENT_TRAINER)
    newest = sorted(order.routine.traces, key=lambda t: t.started_ms)[-MAX_TRACES:]
    snapshots: dict[str, Snapshot] = {}

    def snapshot_of(digest: str) -> Snapshot:
        if digest not in snapshots:
            data = artifacts.get(digest, Room.TASK_LEARNER)
            snapshots[digest] = _parsed(Snapshot, data, "snapshot")
            if snapshots[digest].level is Level.STRUCTURE:
                raise TrainingError("a screen shows an application of which no values may be kept")
        return snapshots[digest]

    traces = [_parsed(Trace, artifacts.get(t.digest, Room.TASK_LEARNER), "trace") for t in newest]
    # Without a parameter the data is on the screen alone: in a sentence, or in nothing but looks.
    read = read_chore if order.routine.parameters else read_instructed
    return read(order.routine, traces, snapshot_of, needs_result=order.options.needs_result)


def _parsed(model: type[T], untrusted: bytes, what: str) -> T:
    try:
        return model.model_validate_json(untrusted)
    except ValidationError as error:
        raise TrainingError(f"a {what} does not fit its schema: find the routine anew") from error


def fit(
    network: Network,
    data: Dataset,
    held: Dataset | None,
    options: TrainOptions,
    *,
    forgets: Forgettable,
    num_epochs: int | None = None,
    checkpoint: Checkpoint | None = None,
) -> Fitted:
    """Fit a new policy. With `held` stop early and keep the best epoch's weights, else train on.

    With a `checkpoint` go on from it and keep it after each epoch; the result is the same.
    Raises Diverged where the loss is not a number, TrainingError for a full disk.
    """
    torch.manual_seed(options.seed)
    policy = Policy(network)
    policy.ignore(np.any(data.x_MF, axis=0), np.any(data.g_EG, axis=0))
    best = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    optimiser = Adam(policy.parameters(), options)
    state = FitState(policy, optimiser, np.random.default_rng(options.seed), best, [], [], [])
    least = math.ceil(options.min_steps * options.batch_size / max(1, data.num_decisions))
    least = max(options.min_epochs, least)
    num_epochs = num_epochs or max(options.num_epochs, least)
    if checkpoint is not None and checkpoint.read(state):
        say(event="resumed", epoch=len(state.losses))
        for epoch in range(1, len(state.losses) + 1):
            _say_epoch(state, epoch)
    while len(state.losses) < num_epochs and not _is_good(state, least, options):
        epoch = len(state.losses) + 1
        policy.train()
        order = state.rng.permutation(data.num_decisions)
        total = 0.0
        for first in range(0, len(order), options.batch_size):
            chosen = order[first : first + options.batch_size]
            loss = _loss(policy, data, chosen, options, forgets)
            if not torch.isfinite(loss):
                raise Diverged(f"the loss is {loss.item()} in epoch {epoch}: lower learning_rate")
            policy.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimiser.step(0.5 + 0.5 * math.cos(math.pi * (epoch - 1) / num_epochs))
            total += loss.item() * len(chosen)
        state.losses.append(total / len(order))
        if held is not None:
            with torch.no_grad():
                policy.eval()
                loss_held = float(_loss(policy, held, np.arange(held.num_decisions), None, forgets))
            state.held_out_losses.append(loss_held)
            state.held_out_accuracies.append(judge(decide_all(policy, held), held).accuracy)
            if _best_epoch(state) == epoch:
                state.best = {name: t.clone() for name, t in policy.state_dict().items()}
        _say_epoch(state, epoch)
        if checkpoint is not None:
            checkpoint.write(state)
    if held is not None:
        policy.load_state_dict(state.best)
        num_epochs = max(_best_epoch(state), least)
    policy.round()
    return Fitted(
        policy, num_epochs, state.losses, state.held_out_losses, state.held_out_accuracies
    )


def _best_epoch(state: FitState) -> int:
    """Return the epoch with the most right held-out decisions, of equals the one of least loss."""
    ranks = zip(state.held_out_accuracies, (-x for x in state.held_out_losses), strict=True)
    return max(enumerate(ranks, 1), key=lambda numbered: numbered[1])[0]


def _is_good(state: FitState, least: int, options: TrainOptions) -> bool:
    """Tell whether more epochs would change nothing, by the held-out decisions."""
    if not state.held_out_losses:
        return False
    if state.held_out_accuracies[-1] == 1 and state.held_out_losses[-1] < _GOOD_ENOUGH:
        return True
    return len(state.losses) >= max(least, _best_epoch(state) + options.patience)


def _say_epoch(state: FitState, epoch: int) -> None:
    figures = {"loss": round(state.losses[epoch - 1], 5)}
    if state.held_out_losses:
        figures["held_out_loss"] = round(state.held_out_losses[epoch - 1], 5)
        figures["held_out_accuracy"] = round(state.held_out_accuracies[epoch - 1], 4)
    say(event="epoch", epoch=epoch, **figures)


def _loss(
    policy: Policy,
    data: Dataset,
    chosen: NDArray[np.int64],
    options: TrainOptions | None,
    forgets: Forgettable,
) -> torch.Tensor:
    """Return the mean cross-entropy over all (element, action) pairs and "finished".

    With `options` some words are forgotten and others heard that were never said.
    """
    x_MF, owner_M = rows_of(data, chosen)
    g_BG = torch.from_numpy(data.g_EG[chosen])
    for features, places in zip((x_MF, g_BG), forgets[:2], strict=True):
        if options is not None:
            words = features[:, places.start : places.stop]  # both are copies of the data
            words *= torch.rand_like(words) >= options.word_dropout
            words += (1 - words) * (torch.rand_like(words) < options.word_noise)
    if options is not None and len(places := forgets.places):
        # A choice that nothing explains would be learnt by heart, by its place and the words, and
        # when to stop by the number of steps.
        forgotten_B = torch.rand(len(chosen)) < options.place_dropout
        x_MF[:, places.start : places.stop] *= ~forgotten_B[owner_M][:, None]
        forgotten_B = torch.rand(len(chosen)) < options.step_dropout
        g_BG[:, forgets.steps.start : forgets.steps.stop] *= ~forgotten_B[:, None]
    logits_MA, finish_B = policy(x_MF, g_BG, owner_M)
    index = owner_M[:, None]
    top_B = finish_B.scatter_reduce(0, owner_M, logits_MA.amax(1), "amax").detach()
    sums_B = (finish_B - top_B).exp()
    sums_B = sums_B.index_add(0, owner_M, (logits_MA - top_B[index]).exp().sum(1))
    total_B = top_B + sums_B.log()
    row_B, action_B = torch.from_numpy(data.row_E[chosen]), torch.from_numpy(data.action_E[chosen])
    counts_B = torch.from_numpy(data.counts_E[chosen])
    place_B = counts_B.cumsum(0) - counts_B + row_B.clamp(min=0)
    right_B = torch.where(row_B < 0, finish_B, logits_MA[place_B, action_B.clamp(min=0)])
    losses_B = total_B - right_B
    if options is not None and options.label_smoothing:
        # Over what can be acted on: "finished" is never a near miss.
        means_B = torch.zeros_like(finish_B).index_add(0, owner_M, logits_MA.mean(1)) / counts_B
        evenly_B = total_B - means_B
        losses_B = losses_B + options.label_smoothing * (evenly_B - losses_B)
    mean: torch.Tensor = losses_B.mean()
    return mean


def check_good_enough(judged: Judged, threshold: float, options: TrainOptions) -> None:
    """Raise TrainingError where held-out decisions are too often wrong or too unsure."""
    wrong, abstained = judged.shares(threshold)
    if wrong > options.max_wrong:
        raise TrainingError(
            f"on held-out demonstrations {wrong:.1%} of {len(judged.right_E)} decisions were wrong "
            f"and as sure as the right ones, {options.max_wrong:.0%} may be: show the routine in "
            "one and the same order, or a few times more"
        )
    if judged.accuracy < options.min_accuracy or abstained > 1 - options.min_accuracy:
        raise TrainingError(
            f"on held-out demonstrations {judged.accuracy:.0%} of {len(judged.right_E)} decisions "
            f"were right and {abstained:.0%} too unsure, {options.min_accuracy:.0%} must be right "
            "and sure: show the routine a few times more"
        )


def _whole(judged: Judged, sizes: Sequence[int]) -> float:
    """Return the share of demonstrations without a wrong decision."""
    if sum(sizes) != len(judged.right_E) or not sizes:
        return judged.accuracy  # some last screens had nothing to decide on
    parts = np.split(judged.right_E, np.cumsum(sizes)[:-1])
    return float(np.mean([part.all() for part in parts]))


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 5) for value in values]


if __name__ == "__main__":
    sys.exit(main())
