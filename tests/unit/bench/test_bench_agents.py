"""What the agents' benchmark counts: recordings of a row, run states, risk and coverage."""

import json
import lzma

import pytest

pytest.importorskip("onnxruntime")

from tests.bench.agents import drift_summary, risk_coverage
from tests.bench.agents_data import read_recordings
from tests.bench.agents_play import Episode


@pytest.fixture
def file(tmp_path):
    lines = [
        {"rawReward": int(number % 3 > 0), "states": [number], "session": number // 4}
        for number in range(30)
    ]
    path = tmp_path / "some.jsonl.xz"
    path.write_bytes(lzma.compress(b"".join(json.dumps(x).encode() + b"\n" for x in lines)))
    return path


def numbers(recordings):
    return [json.loads(line)["states"][0] for line in recordings.lines]


def test_failures_are_mixed_in_only_where_the_row_asks_for_them(file):
    assert numbers(read_recordings(file, 4)) == [1, 2, 4, 5]
    assert numbers(read_recordings(file, 4, failed_too=True)) == [0, 1, 2, 3]


def test_each_training_seed_draws_its_own_recordings_and_always_the_same(file):
    draws = [numbers(read_recordings(file, 6, draw=draw)) for draw in (1, 2, 1)]
    assert draws[0] == draws[2] != draws[1]
    assert all(number % 3 for number in draws[0])
    assert draws[0] == sorted(draws[0])


def episode(ended, margin, reward=1.0):
    return Episode(0, reward, ended, 1, margin, 0.1, [])


def test_an_episode_is_reported_done_only_where_the_agent_was_sure_to_its_end():
    assert episode("page", 1.0).is_reported_done(1.0)
    assert episode("finished", 2.0, 0.0).is_reported_done(1.0)
    assert not episode("page", 0.9).is_reported_done(1.0)
    assert not episode("page: timed out", 9.0, -1.0).is_reported_done(0.0)
    assert not episode("it changed nothing", 9.0, 0.0).is_reported_done(0.0)


def test_risk_and_coverage_fall_with_the_margin():
    states = [(3.0, True, True), (1.0, True, True), (0.6, False, True), (5.0, False, False)]
    curve = {point["margin"]: point for point in risk_coverage(states)}
    assert (curve[0.0]["wrong"], curve[0.0]["kept"]) == (0.25, 1.0)
    assert (curve[1.0]["wrong"], curve[1.0]["kept"]) == (0.0, 1.0)
    assert (curve[2.0]["wrong"], curve[2.0]["kept"]) == (0.0, 0.5)


def test_the_loss_of_drift_is_counted_on_the_same_episodes():
    rows = [
        {"task": "a", "pairs": [("names", True, False), ("size", True, True)], "left_out": {}},
        {"task": "b", "pairs": [("size", False, True)], "left_out": {"names": "not paid"}},
    ]
    found = drift_summary(rows)
    assert found["loss"] == 0
    assert found["loss_by_change"] == {"names": 1, "size": -0.5}
    assert found["left_out"] == {"b": {"names": "not paid"}}
