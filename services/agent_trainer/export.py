"""Policy -> module, safetensors and ONNX, each checked against torch before anyone sees them.

int8 is shipped only where it decides like f32 on (nearly) all held-out decisions. Returns bytes;
does not sign: the private key stays in the service's own process.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from pydantic import JsonValue
from safetensors.numpy import load, save

from services.agent_trainer.dataset import Dataset
from services.agent_trainer.demonstrations import Chore
from services.agent_trainer.evaluate import agreement, decide_all
from services.agent_trainer.onnx_file import read_onnx, write_onnx
from services.agent_trainer.options import TrainOptions
from services.agent_trainer.policy import Policy
from shared.encoding import ENCODING_VERSION
from shared.encoding_goal import GOAL_ENCODING_VERSION
from shared.errors import TrainingError
from shared.manifest import Manifest, Precision, capabilities_of
from shared.module import Decision, Floats, decide, emit, reference_step
from shared.schemas import Routine
from shared.screen import Sighting, learn_post_condition, learn_screen

__all__ = ["Exported", "export", "git_revision"]

_MAX_GAP = 1e-3  # logits; measured 2e-5 on nets of this size, summed in another order
_MIN_TORCH_AGREEMENT = 0.995  # a tie within rounding may fall either way
_MAX_CHECKED = 200  # the reference sums in the guest's order, which numpy does slowly


@dataclass(frozen=True)
class Exported:
    """A finished module, not yet signed, and the same network for other tools, f32."""

    module: bytes
    weights: bytes  # safetensors
    onnx: bytes
    manifest: Manifest
    agreement: float  # of the shipped precision with torch
    agreement_int8: float
    gap: float  # largest difference of a best logit to torch's, at f32


def export(
    policy: Policy,
    *,
    routine: Routine,
    chore: Chore,
    options: TrainOptions,
    threshold: float,
    checked: Dataset,
    figures: Mapping[str, Mapping[str, float]],
    data_digest: str,
) -> Exported:
    """Emit the policy. `checked` are the decisions on which torch and module are compared.

    Raises TrainingError where they differ. Long because a manifest has many fields.
    """
    weights = {
        name: np.ascontiguousarray(tensor.detach().numpy(), np.float32)
        for name, tensor in policy.state_dict().items()
    }
    finals = [(d.final, d.values) for d in chore.demonstrations if d.final is not None]
    made = decide_all(policy, checked, threshold)
    chosen = _spread(checked.num_decisions)
    in_f32 = partial(reference_step, policy.network, weights, margin_threshold=threshold)
    same, gap = _same_as_torch("module", in_f32, checked, chosen, made)
    in_int8 = partial(in_f32, precision="int8")
    same_int8, _ = agreement(in_int8, checked, chosen, made)
    precision: Precision = "int8" if same_int8 >= options.min_agreement else "f32"
    manifest = Manifest(
        encoding=ENCODING_VERSION if chore.reading is None else GOAL_ENCODING_VERSION,
        reading={} if chore.reading is None else chore.reading.model_dump(mode="json"),
        routine_id=routine.routine_id,
        routine_revision=routine.revision,
        name=routine.name[:200],
        actions=chore.actions,
        slots=chore.slots,
        constants=dict(chore.constants),
        programmes={
            p.name: p.programme
            for p in routine.parameters
            if p.programme is not None and p.name in chore.slots
        },
        network=policy.network,
        precision=precision,
        margin_threshold=threshold,
        capabilities=capabilities_of(chore.actions),
        screen_schema=learn_screen(chore.start_url, _sightings(chore)),
        post_condition=learn_post_condition(finals) if finals else {},
        training=dict(figures["training"]),
        held_out=dict(figures["held_out"]),
        options=_json(options),
        data_digest=data_digest,
        git_revision=git_revision(),
        producers={
            "wasmagenttrainer": version("wasmagenttrainer"),
            "torch": str(torch.__version__)[:200],
        },
    )
    safetensors = save(weights, {"format": "pt"})
    if any(not np.array_equal(kept, weights[name]) for name, kept in load(safetensors).items()):
        raise TrainingError("the weights do not come back from safetensors: not published")
    onnx = write_onnx(
        policy.network, weights, {"routine": routine.routine_id, "encoding": str(manifest.encoding)}
    )

    scores = read_onnx(onnx)

    def in_onnx(x: Floats, g: Floats) -> Decision:
        return decide(*scores(x, g), threshold)

    _same_as_torch("ONNX file", in_onnx, checked, chosen, made)
    return Exported(
        module=emit(manifest, weights),
        weights=safetensors,
        onnx=onnx,
        manifest=manifest,
        agreement=same_int8 if precision == "int8" else same,
        agreement_int8=same_int8,
        gap=gap,
    )


def _same_as_torch(
    what: str,
    answer: Callable[[Floats, Floats], Decision],
    checked: Dataset,
    chosen: Sequence[int],
    made: Sequence[Decision],
) -> tuple[float, float]:
    """Return the share of decisions alike and the largest gap. Raises TrainingError."""
    same, gap = agreement(answer, checked, chosen, made)
    if same < _MIN_TORCH_AGREEMENT or gap > _MAX_GAP:
        raise TrainingError(
            f"the {what} decides like torch on {same:.1%} of {len(chosen)} decisions, with logits "
            f"up to {gap:.1e} apart: not published; train again with another seed"
        )
    return same, gap


def _spread(num: int) -> Sequence[int]:
    return sorted({int(i) for i in np.linspace(0, num - 1, min(num, _MAX_CHECKED))})


def _sightings(chore: Chore) -> list[Sighting]:
    return [sighting for d in chore.demonstrations for sighting in d.sightings]


def _json(options: TrainOptions) -> dict[str, JsonValue]:
    return dict(options.model_dump(mode="json"))


def git_revision() -> str:
    """Return the checkout's commit, or the installed version where there is no checkout."""
    folder = Path(__file__).resolve().parents[2] / ".git"
    try:
        head = (folder / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head[:64]
        name = head.removeprefix("ref: ")
        loose = folder / name
        if loose.is_file():
            return loose.read_text().strip()[:64]
        packed = (folder / "packed-refs").read_text().splitlines()
        return next(line.split()[0] for line in packed if line.endswith(f" {name}"))[:64]
    except (OSError, StopIteration):
        return f"v{version('wasmagenttrainer')}"[:64]
