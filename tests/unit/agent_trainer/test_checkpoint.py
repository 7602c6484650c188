"""A fit that is cut off goes on from its last epoch and comes to the same weights."""

import resource

import pytest

torch = pytest.importorskip("torch")

from services.agent_trainer.checkpoint import Checkpoint, key_of  # noqa: E402
from services.agent_trainer.options import TrainOptions  # noqa: E402
from services.agent_trainer.train import fit  # noqa: E402
from shared.errors import TrainingError  # noqa: E402
from tests.unit.agent_trainer.test_policy import FORGETS, NETWORK, toy  # noqa: E402

torch.set_num_threads(1)
OPTIONS = TrainOptions(num_epochs=6, min_epochs=6, min_steps=1, batch_size=16, word_dropout=0.5)


class CutOff(Checkpoint):
    """Ends the fit right after so many epochs were kept, as a kill would."""

    left = 3

    def write(self, state):
        super().write(state)
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def fitted(checkpoint=None, *, held=None, seed=0):
    options = OPTIONS.model_copy(update={"seed": seed})
    return fit(NETWORK, toy(), held, options, forgets=FORGETS, checkpoint=checkpoint)


@pytest.mark.parametrize("held", [None, toy(20, seed=1)], ids=["all", "held-out"])
def test_a_fit_that_is_cut_off_comes_to_the_same_weights_and_figures(tmp_path, capsys, held):
    file = tmp_path / "trial.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fitted(CutOff(file, "key"), held=held)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert file.stat().st_mode & 0o077 == 0
    capsys.readouterr()
    torch.manual_seed(99)  # another process knows nothing of the first one's random numbers
    resumed = fitted(Checkpoint(file, "key"), held=held)
    lines = capsys.readouterr().out
    assert '"event": "resumed", "epoch": 3' in lines
    undisturbed = fitted(held=held)
    told = capsys.readouterr().out
    assert lines.splitlines()[1:] == told.splitlines()
    for name in ("num_epochs", "losses", "held_out_losses", "held_out_accuracies"):
        assert getattr(resumed, name) == getattr(undisturbed, name)
    for a, b in zip(resumed.policy.parameters(), undisturbed.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_fit_that_was_over_trains_no_further(tmp_path):
    kept = Checkpoint(tmp_path / "final.safetensors", "key")
    one = fitted(kept)
    two = fitted(CutOff(tmp_path / "final.safetensors", "key"))  # which would end at a write
    for a, b in zip(one.policy.parameters(), two.policy.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("damage", ["key", "cut", "junk"])
def test_what_belongs_to_another_fit_or_cannot_be_read_counts_as_none(tmp_path, capsys, damage):
    file = tmp_path / "trial.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fitted(CutOff(file, "another" if damage == "key" else "key"), seed=damage == "key")
    whole = file.read_bytes()
    if damage == "cut":
        file.write_bytes(whole[: len(whole) // 2])
    elif damage == "junk":
        file.write_bytes(b"\xff" * len(whole))
    capsys.readouterr()
    anew = fitted(Checkpoint(file, "key"))
    assert "resumed" not in capsys.readouterr().out
    for a, b in zip(anew.policy.parameters(), fitted().policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_disk_that_refuses_is_said(tmp_path):
    with pytest.raises(TrainingError, match="free disk"):
        fitted(Checkpoint(tmp_path / "gone" / "trial.safetensors", "key"))


def test_a_full_disk_keeps_the_checkpoint_before_and_no_draft(tmp_path):
    file = tmp_path / "trial.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fitted(CutOff(file, "key"))
    whole = file.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 2, before[1]))
    try:
        with pytest.raises(TrainingError, match="free disk"):
            fitted(Checkpoint(file, "key"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert file.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [file]


def test_the_key_changes_with_the_data_and_with_every_word():
    data, other = toy(), toy(seed=1)
    keys = {key_of(d.arrays, *words) for d in (data, other) for words in (("a", "b"), ("ab", ""))}
    assert len(keys) == 4
    assert key_of(data.arrays, "a", "b") in keys
