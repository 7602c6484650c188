from pathlib import Path

import pytest

import shared.meanings
from shared.errors import ArtifactError
from shared.meanings import alike, likeness, means, read_table


def test_words_of_one_meaning_are_more_alike_than_others():
    assert likeness("huge", "gigantic") > 0.5 > likeness("huge", "water")
    assert likeness("huge", "huge") == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("form", "word"), [
    ("Bunnies", "bunny"), ("cars", "car"), ("boxes", "box"), ("stopped", "stopped"),
    ("televisions", "television"), (" fire ", "fire"),
])  # fmt: skip
def test_a_form_means_its_word(form, word):
    assert means(form)
    assert likeness(form, word) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("text", ["", "qzxv", "two words", "12", "Straße"])
def test_what_is_no_known_word_means_nothing(text):
    assert not means(text)
    assert likeness(text, "fire") == 0


def test_each_word_is_paired_once_from_the_most_alike_on():
    found = alike(["big", "hot", "qzxv"], ["large", "huge", "water", "warm"])
    assert found["warm"] == "hot"
    assert list(found.values()).count("big") == 1
    assert "water" not in found
    assert alike([], ["large"]) == alike(["big"], []) == {}


def test_another_table_is_refused(tmp_path):
    data = bytearray(Path(shared.meanings.__file__).with_name("words.bin").read_bytes())
    data[-1] ^= 1
    (tmp_path / "words.bin").write_bytes(data)
    with pytest.raises(ArtifactError, match="install the package again"):
        read_table(tmp_path / "words.bin")
