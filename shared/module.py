"""The agent module: weights in, one `.wasm` out, and the checks a runner makes before it runs it.

`shared.manifest` says what a module is, `shared.guest` writes its code, `shared.wasm` knows the
binary format and `shared.proof` checks a file; this one holds the numbers: weights, the numpy
reference of the guest's arithmetic, and probes. The reference sums in the guest's order, so the
two agree bit for bit. It is the way in: what other rooms need of the five is named here.

Not covered: what a host function does with an element (the runner's actuators), and whether the
decisions are any good (the trainer's held-out figures).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared import wasm
from shared.errors import ContractError
from shared.guest import IMPORT_MODULE
from shared.layout import (
    BLOCK,
    NUM_ELEMENTS,
    OUTCOME,
    OUTCOME_BYTES,
    PAGE_BYTES,
    TURN_INPUTS,
    Layout,
    activation_levels,
    blocks_at_once,
    is_listed,
    padded,
)
from shared.manifest import (
    ABI_VERSION,
    EMITTER_VERSION,
    FINISH,
    KEYS,
    MAX_ACTIONS,
    MAX_ELEMENTS,
    NUM_PROBES,
    OPS,
    ActionEntry,
    Manifest,
    Network,
    Op,
    Precision,
    Probe,
    Status,
    capabilities_of,
)
from shared.proof import (
    ParsedModule,
    Signature,
    VerifiedModule,
    data_head,
    fixed_sections,
    parse,
    sign,
    verify,
)
from shared.wasm import Section

__all__ = [
    "ABI_VERSION",
    "EMITTER_VERSION",
    "FINISH",
    "IMPORT_MODULE",
    "KEYS",
    "MAX_ACTIONS",
    "MAX_ELEMENTS",
    "NUM_ELEMENTS",
    "NUM_PROBES",
    "OPS",
    "OUTCOME",
    "OUTCOME_BYTES",
    "PAGE_BYTES",
    "ActionEntry",
    "Decision",
    "Floats",
    "Layout",
    "Manifest",
    "Network",
    "Op",
    "ParsedModule",
    "Precision",
    "Probe",
    "Signature",
    "Status",
    "VerifiedModule",
    "Weights",
    "capabilities_of",
    "check_observation",
    "check_weights",
    "decide",
    "digest_observation",
    "emit",
    "parse",
    "random_weights",
    "reference_logits",
    "reference_step",
    "sign",
    "synthetic_observation",
    "verify",
]

Floats = NDArray[np.float32]
Weights = Mapping[str, Floats]  # `Network.parameter_shapes` names -> arrays

_SMALLEST_SCALE = np.float32(1e-20)  # below it a vector counts as all zero, so Q / max stays finite
_ROWS_AT_ONCE = 32  # bounds the reference's (rows, inputs, outputs) product


@dataclass(frozen=True)
class Decision:
    """Hold what one step decides. FINISH as element and action stands for "finished"."""

    status: int
    element: int
    action: int
    logit: float
    margin: float
    runner_up_element: int
    runner_up_action: int


def check_weights(network: Network, weights: Weights) -> dict[str, Floats]:
    """Return `weights` as contiguous f32 arrays in the network's order.

    Raises ContractError on a missing, unknown, misshapen or non-finite array.
    """
    shapes = network.parameter_shapes()
    if set(shapes) != set(weights):
        odd = sorted(set(shapes) ^ set(weights))
        raise ContractError(f"weights and network differ in {odd}: give exactly {list(shapes)}")
    checked = {}
    for name, shape in shapes.items():
        array = np.ascontiguousarray(weights[name], dtype="<f4")
        if array.shape != shape:
            raise ContractError(f"weight {name} has shape {array.shape}, the network needs {shape}")
        if not np.isfinite(array).all():
            raise ContractError(f"weight {name} holds NaN or infinity: train again, do not ship")
        checked[name] = array
    return checked


def random_weights(network: Network, seed: int) -> dict[str, Floats]:
    """Return weights of plausible size from a seed, for tests and benchmarks."""
    rng = np.random.default_rng(seed)
    return {
        name: (
            rng.standard_normal(shape) * np.sqrt(2 / shape[-1] if len(shape) == 2 else 0.01)
        ).astype(np.float32)
        for name, shape in network.parameter_shapes().items()
    }


def quantise_rows(weight: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Return (outputs, inputs) int8 weights and the scale of each output row."""
    scale = np.abs(weight).max(axis=1) / np.float32(127)
    safe = np.where(scale > 0, scale, np.float32(1))
    return np.clip(np.rint(weight / safe[:, None]), -127, 127).astype(np.int8), scale


def _affine_f32(v: Floats, weight: Floats, init: Floats) -> Floats:
    # Running sums in input order, as the guest adds; a matrix product would round otherwise.
    sums = [
        np.add.accumulate(rows[:, :, None] * weight.T[None], axis=1)[:, -1]
        for rows in np.split(v, range(_ROWS_AT_ONCE, len(v), _ROWS_AT_ONCE))
    ]
    return np.concatenate(sums) + init


def _affine_int8(v: Floats, weight: Floats, init: Floats) -> Floats:
    quantised, row_scale = quantise_rows(weight)
    levels = np.float32(activation_levels(v.shape[1]))
    largest = np.abs(v).max(axis=1, keepdims=True)
    inverse = np.where(
        largest > _SMALLEST_SCALE, levels / np.maximum(largest, _SMALLEST_SCALE), np.float32(0)
    )
    integers = np.rint(v * inverse).astype(np.float64)
    # float64 holds every int32 sum exactly, so BLAS gives the guest's integers.
    sums = (integers @ quantised.T.astype(np.float64)).astype(np.float32)
    scaled: Floats = sums * (row_scale * (largest / levels)) + init
    return scaled


def _layer(
    network: Network,
    weights: Weights,
    name: str,
    inputs: list[tuple[int, Floats]],
    precision: Precision,
) -> Floats:
    """Apply one layer to (part, vectors) pairs in the given order, without ReLU."""
    _, parts = network.layers()[name]
    affine = _affine_f32 if precision == "f32" else _affine_int8
    out = weights[f"{name}.bias"]
    for part, v in inputs:
        start = sum(parts[:part])
        weight = weights[f"{name}.weight"][:, start : start + parts[part]]
        out = affine(v, weight, out)
    return out


def reference_logits(
    network: Network, weights: Weights, x: Floats, g: Floats, precision: Precision = "f32"
) -> tuple[Floats, float]:
    """Return logits (N, A) and the finish logit for x (N, F) and g (G)."""
    zero = np.float32(0)
    x, g = np.asarray(x, np.float32), np.asarray(g, np.float32)[None]

    def layer(name: str, *inputs: tuple[int, Floats]) -> Floats:
        return _layer(network, weights, name, list(inputs), precision)

    h = np.maximum(layer("element.0", (1, g), (0, x)), zero)
    for i in range(1, len(network.element)):
        h = np.maximum(layer(f"element.{i}", (0, h)), zero)
    mean = (np.add.accumulate(h, axis=0)[-1:] / np.float32(len(x))).astype(np.float32)
    u = np.maximum(layer("context.0", (0, mean), (1, h.max(axis=0)[None]), (2, g)), zero)
    for i in range(1, len(network.context)):
        u = np.maximum(layer(f"context.{i}", (0, u)), zero)
    finish = layer("finish", (0, u))
    s, first = h, [(1, u)]
    for i in range(len(network.score)):
        s = np.maximum(layer(f"score.{i}", *first, (0, s)), zero)
        first = []
    return layer("scores", *first, (0, s)), float(finish[0, 0])


def decide(logits: Floats, finish: float, margin_threshold: float) -> Decision:
    """Return the best entry of logits (N, A) and finish; the first of equals wins, finish before.

    A margin below the threshold, or one that is not a number, abstains.
    """
    num_actions = logits.shape[1]
    entries = np.concatenate([[np.float32(finish)], logits.ravel()]).astype(np.float32)
    first, second = (int(i) for i in np.argsort(-entries, kind="stable")[:2])
    margin = float(entries[first] - entries[second])
    if not margin >= np.float32(margin_threshold):
        status = Status.ABSTAINED
    else:
        status = Status.FINISHED if first == 0 else Status.ACTED

    def place(entry: int) -> tuple[int, int]:
        return divmod(entry - 1, num_actions) if entry else (FINISH, FINISH)

    return Decision(status, *place(first), float(entries[first]), margin, *place(second))


def reference_step(
    network: Network,
    weights: Weights,
    x: Floats,
    g: Floats,
    *,
    precision: Precision = "f32",
    margin_threshold: float = 0.0,
) -> Decision:
    """Decide on x (N, F) and g (G) as the guest does. Raises ContractError on bad shapes."""
    check_observation(network, x, g)
    logits, finish = reference_logits(network, weights, x, g, precision)
    return decide(logits, finish, margin_threshold)


def check_observation(network: Network, x: Floats, g: Floats) -> None:
    """Refuse an observation that does not fit the network or is not finite: ContractError."""
    num_elements = x.shape[0] if x.ndim == 2 else 0
    if (
        x.shape != (num_elements, network.num_features)
        or g.shape != (network.num_context,)
        or not 1 <= num_elements <= MAX_ELEMENTS
    ):
        raise ContractError(
            f"observation x {x.shape}, g {g.shape} does not fit ({network.num_features} features, "
            f"{network.num_context} context, 1 to {MAX_ELEMENTS} elements): encode it with the "
            "module's own encoding version"
        )
    if not (np.isfinite(x).all() and np.isfinite(g).all()):
        raise ContractError("observation holds NaN or infinity: the encoding is broken")


def synthetic_observation(network: Network, seed: int) -> tuple[Floats, Floats]:
    """Return x (N, F) and g (G), half zeros and half in [-1, 1), from a seed alone.

    The numbers come from SHAKE-256, not from numpy's generator, whose stream may change.
    """
    num_elements = 1 + (seed * 7) % 31
    count = num_elements * network.num_features + network.num_context
    stream = hashlib.shake_256(f"wat probe {seed}".encode()).digest(3 * count)
    raw = np.frombuffer(stream, np.uint8).reshape(count, 3).astype(np.float32)
    values = np.where(raw[:, 0] < 128, np.float32(0), (raw[:, 1] + raw[:, 2] / 256) / 128 - 1)
    x, g = np.split(values.astype(np.float32), [num_elements * network.num_features])
    return x.reshape(num_elements, network.num_features), g


def digest_observation(x: Floats, g: Floats) -> str:
    """Return the SHA-256 of x then g as little-endian f32."""
    data = np.ascontiguousarray(x, "<f4").tobytes() + np.ascontiguousarray(g, "<f4").tobytes()
    return hashlib.sha256(data).hexdigest()


def _pack_rows(rows: NDArray[np.generic], inputs_together: int) -> bytes:
    """Order (outputs, inputs) as `dense` reads: outputs of a pass, then inputs, then lanes.

    `inputs_together` neighbours of one output lie side by side: 1 for f32, 2 for int8.
    """
    outputs, inputs = rows.shape
    full = np.zeros((padded(outputs), padded(inputs, TURN_INPUTS)), rows.dtype)
    full[:outputs, :inputs] = rows
    blocks = full.reshape(
        -1, BLOCK * blocks_at_once(outputs), full.shape[1] // inputs_together, inputs_together
    )
    return blocks.transpose(0, 2, 1, 3).tobytes()


def _pack_columns(rows: NDArray[np.generic]) -> bytes:
    """Order (outputs, inputs) as `listed` reads: all outputs of one input side by side."""
    return np.pad(rows.T, ((0, 0), (0, padded(len(rows)) - len(rows)))).tobytes()


def _pack_vector(values: Floats) -> bytes:
    return np.pad(values, (0, padded(len(values)) - len(values))).astype("<f4").tobytes()


def _pack(layout: Layout, weights: Weights) -> bytes:
    """Return the data segment: every parameter where `layout.parameters` says."""
    layers, blobs = layout.network.layers(), []
    for layer, kind, part in layout.parameters():
        if kind == "bias":
            blobs.append(_pack_vector(weights[f"{layer}.bias"]))
            continue
        parts = layers[layer][1]
        start = sum(parts[:part])
        rows = weights[f"{layer}.weight"][:, start : start + parts[part]]
        quantised, scale = quantise_rows(rows)
        weight = rows.astype("<f4") if layout.precision == "f32" else quantised
        if kind == "scale":
            blobs.append(_pack_vector(scale))
        elif is_listed(layer, part):
            blobs.append(_pack_columns(weight))
        else:
            blobs.append(_pack_rows(weight, 1 if layout.precision == "f32" else 2))
    return b"".join(blobs)


def _probe(manifest: Manifest, weights: Weights, seed: int) -> Probe:
    x, g = synthetic_observation(manifest.network, seed)
    decision = reference_step(
        manifest.network,
        weights,
        x,
        g,
        precision=manifest.precision,
        margin_threshold=manifest.margin_threshold,
    )
    return Probe(
        seed=seed,
        num_elements=len(x),
        digest=digest_observation(x, g),
        status=decision.status,
        element=decision.element,
        action=decision.action,
        margin=decision.margin,
    )


def emit(manifest: Manifest, weights: Weights) -> bytes:
    """Return the unsigned module, always the same bytes for the same input.

    Fills in the manifest's probes. Raises ContractError if weights and network do not fit.
    """
    checked = check_weights(manifest.network, weights)
    probes = tuple(_probe(manifest, checked, seed) for seed in range(NUM_PROBES))
    full = Manifest.model_validate({**manifest.model_dump(), "probes": probes})
    layout = Layout(full.network, full.precision)
    sections = [
        Section(wasm.DATA, data_head(layout) + _pack(layout, checked))
        if section.id == wasm.DATA
        else section
        for section in fixed_sections(full)
    ]
    return wasm.encode(sections)
