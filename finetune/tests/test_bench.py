import json

import pytest

import bench


@pytest.fixture
def work(base, tmp_path):
    bench.write_chunks(tmp_path, str(base), most_files=2)
    return tmp_path


def test_chunks_are_kept_whole(work):
    chunks = bench.read_chunks(work)
    assert chunks
    assert all(0 < len(ids) <= bench.SEQ_LEN for ids in chunks)


def test_rows_time_real_tokens_and_the_table_compares_them(work, capsys):
    flags = ["--out", str(work), "--steps", "1", "--batch", "1", "--row_tokens", "4096"]
    for row in ("hf", "ours-sdpa"):
        bench.run_row(bench.parse(["row", row, "tiny", *flags]))
    told = json.loads((work / "row-tiny-ours-sdpa.json").read_text())
    assert 0 < told["timed_tokens"] <= 4096
    assert told["attention"] == "sdpa"
    bench.table(bench.parse(["table", *flags]))
    text = (work / "table.md").read_text()
    assert "| tiny | hf | sdpa |" in text
    assert "| tiny | ours-sdpa | sdpa |" in text
    capsys.readouterr()


def test_fast_path_and_plain_loop_lose_alike(work, monkeypatch):
    monkeypatch.setattr(bench, "SEQ_LEN", 512)
    rows = bench.packed(work, 2048)
    monkeypatch.setattr(bench, "packed", lambda *_: rows[:2])
    told = bench.curve(bench.parse(["row", "curve", "tiny", "--out", str(work)]))
    assert told["float32"]["largest_difference"] < 5e-4
