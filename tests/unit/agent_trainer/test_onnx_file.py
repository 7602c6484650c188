"""The ONNX file: the module's wiring, read by two runtimes that are not ours."""

import numpy as np
import onnx
import onnxruntime
import pytest

from services.agent_trainer.onnx_file import read_onnx, write_onnx
from shared.manifest import Network
from shared.module import random_weights, reference_logits, synthetic_observation

NETWORKS = [
    Network(num_features=9, num_context=5, num_actions=3, element=(8, 6), context=(7, 4),
            score=(5, 4)),
    Network(num_features=3, num_context=2, num_actions=1, element=(4,), context=(4,), score=()),
]  # fmt: skip


@pytest.mark.parametrize("network", NETWORKS)
def test_onnx_scores_like_the_reference_in_both_runtimes(network):
    weights = random_weights(network, 3)
    file = write_onnx(network, weights, {})
    scores = read_onnx(file)
    session = onnxruntime.InferenceSession(file)
    for seed in range(5):
        x, g = synthetic_observation(network, seed)
        logits, finish = reference_logits(network, weights, x, g)
        own, own_finish = scores(x, g)
        theirs, their_finish = session.run(None, {"x": x, "g": g[None]})
        for found, end in ((own, own_finish), (theirs, float(their_finish[0, 0]))):
            assert np.abs(found - logits).max() < 1e-5
            assert abs(end - finish) < 1e-5


def test_the_same_network_gives_the_same_bytes_and_says_what_it_is():
    weights = random_weights(NETWORKS[0], 1)
    file = write_onnx(NETWORKS[0], weights, {"routine": "r1"})
    assert file == write_onnx(NETWORKS[0], weights, {"routine": "r1"})
    model = onnx.load_from_string(file)
    assert [p.value for p in model.metadata_props if p.key == "routine"] == ["r1"]
    assert [i.name for i in model.graph.input] == ["x", "g"]
    assert [o.name for o in model.graph.output] == ["logits", "finish"]
