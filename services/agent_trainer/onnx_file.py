"""The network as an ONNX file, for tools that read no agent module; the only file that names onnx.

Opset 17, f32, one observation: inputs `x` (elements, F) and `g` (1, G), outputs `logits`
(elements, A) and `finish` (1, 1), with the wiring of `shared.manifest.Network`. The graph is built
by hand of Gemm, Relu and two reductions: torch's exporter wants onnxscript and traces for seconds
what is known beforehand. Reading the screen and acting are not in it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from shared.manifest import Network
from shared.module import Floats, Weights

__all__ = ["read_onnx", "write_onnx"]

_OPSET, _IR_VERSION = 17, 8  # both of 2022: what reads ONNX today reads them


class _Graph:
    """Collects nodes and weights; a value is known by its name."""

    def __init__(self, network: Network, weights: Weights) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._layers = network.layers()
        self._weights = weights

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], output, **attributes))
        return output

    def linear(self, layer: str, inputs: list[tuple[int, str]], output: str = "") -> str:
        """Apply one layer to (part, value) pairs; rows of one broadcast over the last part's."""
        _, parts = self._layers[layer]
        found = self._keep(f"{layer}.bias", self._weights[f"{layer}.bias"])
        for count, (part, value) in enumerate(inputs, 1):
            start = sum(parts[:part])
            rows = self._weights[f"{layer}.weight"][:, start : start + parts[part]]
            weight = self._keep(f"{layer}.weight.{part}", rows)
            name = output if output and count == len(inputs) else f"{layer}.sum.{part}"
            found = self.add("Gemm", [value, weight, found], name, transB=1)
        return found

    def relu(self, value: str) -> str:
        return self.add("Relu", [value], f"{value}.relu")

    def stack(self, layers: list[str], inputs: list[tuple[int, str]]) -> str:
        """Apply layers with ReLU one after the other; `inputs` are those of the first."""
        for layer in layers:
            inputs = [(0, self.relu(self.linear(layer, inputs)))]
        return inputs[0][1]

    def _keep(self, name: str, array: NDArray[np.float32]) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name


def write_onnx(network: Network, weights: Weights, about: Mapping[str, str]) -> bytes:
    """Return the file; `about` becomes its metadata. The same input gives the same bytes."""
    graph = _Graph(network, weights)
    names = list(network.layers())

    def stack_of(prefix: str) -> list[str]:
        return [name for name in names if name.startswith(f"{prefix}.")]

    h = graph.stack(stack_of("element"), [(1, "g"), (0, "x")])
    mean = graph.add("ReduceMean", [h], "mean", axes=[0], keepdims=1)
    largest = graph.add("ReduceMax", [h], "max", axes=[0], keepdims=1)
    u = graph.stack(stack_of("context"), [(0, mean), (1, largest), (2, "g")])
    graph.linear("finish", [(0, u)], "finish")
    pair = [(1, u), (0, h)]
    if score := stack_of("score"):
        pair = [(0, graph.stack(score, pair))]
    graph.linear("scores", pair, "logits")

    def value(name: str, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "agent",
            [value("x", "elements", network.num_features), value("g", 1, network.num_context)],
            [value("logits", "elements", network.num_actions), value("finish", 1, 1)],
            graph.initializers,
        ),
        producer_name="WasmAgentTrainer",
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    helper.set_model_props(model, dict(about))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def read_onnx(file: bytes) -> Callable[[Floats, Floats], tuple[Floats, float]]:
    """Return what maps x (N, F) and g (G) to logits (N, A) and the finish logit.

    ONNX's own reference evaluator computes them.
    """
    evaluator = ReferenceEvaluator(file)

    def scores(x: Floats, g: Floats) -> tuple[Floats, float]:
        found: Any = evaluator.run(None, {"x": x, "g": g[None]})
        return found[0], float(found[1][0, 0])

    return scores
