"""Teaching a base to fill gaps on the sources installed here."""

import random
from collections import Counter
from email.message import Message

import pytest
import torch

import evaluate
import installed
import main
import teach
from convert_base import load_base, resolve, taught, teach_fim
from examples import Infilling, chunk, pack, read_documents
from library import library_files


class Told:
    """A distribution of which only the metadata is known."""

    def __init__(self, **fields):
        self.metadata = Message()
        for name, values in fields.items():
            for value in values if isinstance(values, list) else [values]:
                self.metadata[name.replace("_", "-")] = value


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({"License_Expression": "MIT"}, True),
        ({"License_Expression": "Apache-2.0 WITH LLVM-exception AND BSD-3-Clause"}, True),
        ({"License_Expression": "MIT AND GPL-3.0-only"}, False),
        ({"License_Expression": "LicenseRef-Proprietary"}, False),
        ({"Classifier": ["License :: OSI Approved :: BSD License"]}, True),
        ({"Classifier": ["License :: OSI Approved :: GNU General Public License (GPL)"]}, False),
        ({"License": "Apache 2.0 License"}, True),
        ({"License": "MIT AND GPL-3.0"}, False),
        ({"License": "NVIDIA Proprietary Software"}, False),
        ({"License": "see LICENSE"}, False),
        ({}, False),
    ],
)
def test_only_licences_named_and_permissive_are_taken(fields, allowed):
    assert installed.permissive(Told(**fields)) is allowed


@pytest.fixture(scope="module")
def sources():
    return installed.installed_files(Counter())


def test_library_that_measures_forgetting_is_kept_back(sources):
    files, names = sources
    assert any(name.startswith("torch ") for name in names)
    assert "python/enum.py" in files
    assert not set(library_files(("guard", "measured"))) & set(files.values())
    assert not any(name.startswith("python/") and "/test/" in name for name in files)


def test_files_that_share_code_with_what_is_measured_are_left_out(sources, tmp_path):
    name = "torch/optim/adam.py"
    path = sources[0][name]
    installed.avoid(installed.avoided_blocks([]))
    assert installed.read((name, path))[0] == ""
    lines = path.read_text().splitlines()[60:100]
    (tmp_path / "ours.py").write_text("\n".join(f"    {line}" for line in lines))
    installed.avoid(installed.avoided_blocks([tmp_path]))
    assert installed.read((name, path))[0] == "shares code with what is measured"
    (tmp_path / "backport.py").write_text(library_files(("measured",))[0].read_text())
    assert installed.read(("backport.py", tmp_path / "backport.py"))[0] != ""


@pytest.fixture(scope="module")
def lesson(base_without_sentinels, tmp_path_factory):
    """Teach the tiny base for a few steps; return the flags and the folder."""
    folder = tmp_path_factory.mktemp("teach")
    small = "--seq_len 256 --row_tokens 1024 --step_tokens 2048 --lr 5e-3 --threads 1 --device cpu"
    flags = ["--base", str(base_without_sentinels), "--out", str(folder / "base-taught")]
    flags += ["--avoid", str(teach.HERE), "--most_bytes", "400000"]
    flags += ["--", *small.split(), "--eval_tokens", "2048", "--max_steps", "120"]
    return flags, teach.main(flags)


def nats_of_middles(base, documents):
    """Return the mean loss on what stands in gaps, of windows drawn the same way every time."""
    model, tokenizer = load_base(str(base), torch.float32)
    rng = random.Random(0)
    infilling = Infilling(tokenizer, "spm", 256)
    pieces = [piece for one in documents for piece in chunk(one, tokenizer, 256)]
    made = [infilling.window(p, rng.choice(p.gaps), rng) for p in pieces if p.gaps]
    rows = pack([one for one in made if one][:40], 1024, 256, tokenizer.pad_token_id)
    setup = main.set_up(
        main.Options(base=str(base), seq_len=256, method="full", device="cpu"),
        model,
        tokenizer,
        torch.device("cpu"),
        1,
    )
    with torch.no_grad():
        nats = sum(float(setup.trainee(row)) for row in rows)
    return nats / sum(row.weight for row in rows)


def test_taught_base_fills_gaps_it_has_not_seen(lesson, base_without_sentinels, dataset, tmp_path):
    _, out = lesson
    documents = read_documents(dataset / "test.jsonl")
    teach_fim(base_without_sentinels, tmp_path / "untaught")
    before = nats_of_middles(tmp_path / "untaught", documents)
    after = nats_of_middles(out, documents)
    assert after < 0.9 * before


def test_taught_base_says_where_it_comes_from_and_is_made_once(lesson, base_without_sentinels):
    flags, out = lesson
    told = taught(str(out))
    assert told["base"] == str(base_without_sentinels)
    assert told["fim_order"] == "spm"
    assert told["corpus"]["distributions"]
    assert told["corpus"]["sets"]["train"]["num_spans"] > 500
    assert not out.with_name(f".{out.name}-work").exists()
    written = (out / "model.safetensors").stat().st_mtime_ns
    assert teach.main(flags) == out
    assert (out / "model.safetensors").stat().st_mtime_ns == written


def test_taught_base_that_did_not_avoid_a_source_is_not_taken_for_it(lesson, tmp_path):
    _, out = lesson
    with pytest.raises(SystemExit, match=f"without --avoid {tmp_path.name.lower()}"):
        teach.main(["--out", str(out), "--avoid", str(teach.HERE), "--avoid", str(tmp_path)])


def test_report_compares_with_the_base_that_was_taught(lesson, dataset, tmp_path):
    _, out = lesson
    small = {"seq_len": 256, "device": "cpu", "eval_tokens": 2048}
    run = str(tmp_path / "run")
    main.main(
        main.Options(
            base=str(out), dataset_path=str(dataset), out=run, row_tokens=512, max_steps=2, **small
        )
    )
    report = evaluate.main(evaluate.Options(run=run, num_cases=3, context_tokens=64, **small))
    assert report["base"] == taught(str(out))["base"]
    assert report["taught"]["infill_ways"].keys() == report["after"]["infill_ways"].keys()
    assert "prefix" in report["before"]["infill_ways"]
    untaught = report["before"]["stdlib_bits_per_byte"]
    assert report["taught"]["stdlib_bits_per_byte"] < untaught


def test_a_taught_base_that_was_not_made_says_how(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"teach\.py --base smollm2"):
        resolve("smollm2-taught")
