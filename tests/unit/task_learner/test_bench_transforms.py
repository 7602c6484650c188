"""The benchmark of computed values, on a small made-up folder."""

import json

import pytest

from tests.bench.transforms import rows

FIRST = ["Ada", "Bo", "Cleo", "Dov", "Eli", "Fay", "Gus", "Hal"]
LAST = ["Abel", "Born", "Cole", "Dahl", "Eads", "Finn", "Gray", "Hill"]


def test_rows_say_what_was_right_wrong_and_not_given(tmp_path):
    cases = [
        {"case": str(n), "src": {"Sheet!A": f"{a} {b}"},
         "tgt": {"last": b, "code": f"{n * 7919 % 97}"}}
        for n, (a, b) in enumerate(zip(FIRST, LAST, strict=True))
    ]  # fmt: skip
    unread = [{"case": "1", "src": {}, "tgt": {"x": "1"}}]
    (tmp_path / "transforms").mkdir()
    path = tmp_path / "transforms" / "transform_pairs.json"
    path.write_text(json.dumps({"people": cases, "nothing": unread}))
    by_field = {row["field"]: row for row in rows(tmp_path)}
    assert set(by_field) == {"last", "code", "(mean)"}
    assert by_field["last"]["exact"] == 1
    assert (by_field["code"]["wrong"], by_field["code"]["abstained"]) == (0, 1)
    assert by_field["(mean)"]["exact"] == pytest.approx(0.5)


def test_a_folder_without_such_logs_has_no_rows(tmp_path):
    assert rows(tmp_path) == []
