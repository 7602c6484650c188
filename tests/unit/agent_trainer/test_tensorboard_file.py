"""The event file, read by TensorBoard itself."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from services.agent_trainer.tensorboard_file import write_events

LINES = [
    {"event": "reading", "num_traces": 3, "time_ms": 1_000},
    {"event": "epoch", "epoch": 1, "loss": 0.75, "held_out_loss": 0.5, "time_ms": 2_000},
    {"event": "epoch", "epoch": 2, "loss": 0.25, "held_out_loss": 0.125, "time_ms": 3_500},
    {"event": "fitting", "on": "all demonstrations", "num_epochs": 2, "time_ms": 4_000},
    {"event": "epoch", "epoch": 1, "loss": 0.5, "time_ms": 5_000},
    {"event": "done"},
]


def test_tensorboard_reads_the_figures_of_both_fits(tmp_path):
    (tmp_path / "events.out.tfevents.1.wat").write_bytes(write_events(LINES))
    found = EventAccumulator(str(tmp_path)).Reload()
    assert sorted(found.Tags()["scalars"]) == ["final/loss", "trial/held_out_loss", "trial/loss"]
    assert [(e.wall_time, e.step, e.value) for e in found.Scalars("trial/loss")] == [
        (2.0, 1, 0.75), (3.5, 2, 0.25),
    ]  # fmt: skip
    assert [e.value for e in found.Scalars("final/loss")] == [0.5]


@pytest.mark.parametrize("lines", [[], [{"event": "failed", "reason": "too few"}]])
def test_a_training_without_figures_has_an_empty_file(tmp_path, lines):
    (tmp_path / "events.out.tfevents.1.wat").write_bytes(write_events(lines))
    assert EventAccumulator(str(tmp_path)).Reload().Tags()["scalars"] == []
