"""One network in three engines: the metered module, ONNX Runtime and PyTorch, turn about.

32 elements, one thread each. The module's call is its `step` alone, as the sandbox makes it; the
sandbox's step is that with what it checks and copies and one call of the host. Reading the screen
and acting are not in them.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import onnxruntime
import torch
from safetensors.numpy import load

from services.agent_trainer.onnx_file import write_onnx
from services.agent_trainer.policy import Policy
from shared.module import emit
from tests.bench.agents_play import Mind

NUM_ELEMENTS = 32
_ROUNDS, _CALLS = 20, 25


def decision_us(module: bytes, weights: bytes) -> dict[str, float]:
    """Return the median microseconds of a decision by engine; `weights` is the safetensors file."""
    mind, arrays = Mind(module), load(weights)
    unsure = mind.manifest.model_copy(update={"margin_threshold": 1e6, "probes": ()})
    alone = Mind(emit(unsure, arrays))  # the same, but that it calls no host function
    network, rng = mind.manifest.network, np.random.default_rng(0)
    x = (rng.random((NUM_ELEMENTS, network.num_features)) < 0.06).astype(np.float32)
    g = (rng.random(network.num_context) < 0.15).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(write_onnx(network, arrays, {}), options)
    torch.set_num_threads(1)
    policy = Policy(network)
    policy.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    policy.eval()
    tensors = torch.from_numpy(x), torch.from_numpy(g[None]), torch.zeros(len(x), dtype=torch.int64)
    row = {"x": x, "g": g[None]}
    alone.sandbox.step(x, g)
    guest_step, _ = alone.sandbox._loaded()

    def call_module() -> object:
        alone.sandbox._meter()
        return guest_step(alone.sandbox._store)  # x is in its memory already

    calls: dict[str, Callable[[], object]] = {
        "module_call": call_module,
        "sandbox_step": lambda: mind.sandbox.step(x, g),
        "onnxruntime": lambda: session.run(None, row),
        "torch": lambda: policy(*tensors),
    }
    took: dict[str, list[float]] = {engine: [] for engine in calls}
    with torch.inference_mode():
        for _ in range(_ROUNDS):
            for engine, call in calls.items():
                call()  # the others have emptied its cache
                for _ in range(_CALLS):
                    began = time.perf_counter()
                    call()
                    took[engine].append((time.perf_counter() - began) * 1e6)
    mind.close()
    alone.close()
    return {engine: round(statistics.median(times), 1) for engine, times in took.items()}
