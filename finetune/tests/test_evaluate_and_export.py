import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch
from card_contract import check_card
from test_training import options

import evaluate
import export
import infer
import main
from convert_base import load_base


@pytest.fixture(scope="module")
def run(base, dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    main.main(options(base, dataset, out, max_steps=30, lr=1e-2, fim_rate=0.2))
    return out


def test_report_compares_the_same_questions_before_and_after(run):
    report = evaluate.main(
        evaluate.Options(
            run=str(run), num_cases=6, context_tokens=96, seq_len=256, eval_tokens=2048
        )
    )
    before, after = report["before"], report["after"]
    assert after["held_out_bits_per_byte"] < before["held_out_bits_per_byte"]
    assert report["num_cases"]["infill"] == report["num_cases"]["next_line"] == 6
    asked = {"prefix", "text", "prefix, passages", "sentinels, psm", "sentinels, spm"}
    assert set(before["infill_ways"]) == asked
    assert set(after["infill_ways"]) == {"sentinels, spm", "sentinels, passages"}
    text = (run / "report" / "report.md").read_text()
    assert "| held-out bits/byte | lower |" in text
    for name in ("quality.png", "curve.png"):
        assert (run / "report" / name).read_bytes().startswith(b"\x89PNG")


def test_an_untrained_adapter_changes_no_figure(base, dataset, tmp_path):
    opts = options(base, dataset, tmp_path, max_steps=1, lr=1e-12)
    main.main(opts)
    report = evaluate.main(
        evaluate.Options(
            run=str(tmp_path), num_cases=4, context_tokens=96, seq_len=256, eval_tokens=1024
        )
    )
    before, after = report["before"], report["after"]
    for name in ("held_out_bits_per_byte", "stdlib_bits_per_byte"):
        assert before[name] == pytest.approx(after[name], rel=1e-5)
    assert before["next_line_exact_match"] == after["next_line_exact_match"]
    assert before["infill_ways"]["sentinels, spm"] == after["infill_ways"]["sentinels, spm"]


def test_perfect_answers_score_full_marks():
    document = {"lang": "python", "text": "a = 1\nb = compute(a)\nc = 3\n", "spans": [[5, 20]]}
    (case,) = evaluate.infill_cases([document])
    assert case.middle == "\nb = compute(a)"
    assert evaluate.score([case], ["\nb = compute(a)"]) == {
        "exact_match": 1.0,
        "edit_similarity": 1.0,
        "parse_rate": 1.0,
    }
    assert evaluate.score([case], ["\nb = (("])["parse_rate"] == 0.0


def test_recall_asks_only_for_names_the_text_has_not_shown():
    text = "x = 1\n" * 40 + "first = my_helper(1)\nsecond = my_helper(2)\n"
    cases = evaluate.recall_cases([{"lang": "python", "text": text}], ["my_helper"], 4000)
    assert [case.prefix.endswith("first =") for case in cases] == [True]


def test_first_line_and_prompts_keep_what_is_near_the_gap(base):
    assert infer.first_line("\n\n  return x\nmore") == "\n\n  return x"
    _, tokenizer = load_base(str(base), torch.float32)
    ids = infer.fim_prompt(tokenizer, "a = 1\n" * 100 + "near", "\nnext\n" + "z\n" * 100, 30, "psm")
    text = tokenizer.decode(ids)
    assert len(ids) <= 33
    assert "near<|fim_suffix|>\nnext" in text
    assert text.endswith("<|fim_middle|>")


def test_every_export_reloads_with_the_same_logits(run, tmp_path):
    told = export.main(export.Options(run=str(run), out=str(tmp_path)))
    assert set(told["logit_errors"]) == set(export.FORMATS)
    for kind, error in told["logit_errors"].items():
        assert error <= export.LIMITS[kind]
    assert told["logit_errors"]["gguf-f16"] < told["logit_errors"]["gguf-q8_0"]
    for name, digest in told["files"].items():
        assert export.sha256(tmp_path / name) == digest
    from transformers import AutoTokenizer

    _, ours = load_base(str(tmp_path / "merged"), torch.float32)
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model-f16.gguf")
    text = "def f(a):\n    return a + 12\n"
    assert ours(text)["input_ids"] == theirs(text)["input_ids"]


def test_a_broken_export_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "interleaved", lambda weight, heads: weight)
    with pytest.raises(SystemExit, match="off by"):
        export.main(export.Options(run=str(run), out=str(tmp_path), formats="gguf-f16"))


class Owner(BaseHTTPRequestHandler):
    """Stands where the owner of models listens: notes what arrives, accepts a known token."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, self.headers["Authorization"], body))
        self.send_response(201 if self.headers["Authorization"] == "Bearer sesame" else 401)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def owner():
    server = HTTPServer(("127.0.0.1", 0), Owner)
    server.seen = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_model_card_reaches_the_owner_of_models(run, tmp_path, owner):
    (tmp_path / "token").write_text("sesame\n")
    url = f"http://127.0.0.1:{owner.server_port}/"
    opts = export.Options(
        run=str(run),
        out=str(tmp_path / "out"),
        formats="adapter",
        models_url=url,
        token_file=str(tmp_path / "token"),
    )
    export.main(opts)
    ((path, token, sent),) = owner.seen
    assert (path, token) == ("/v1/agent-trainer/cards", "Bearer sesame")
    assert sent["kind"] == "adapter"
    assert sent["subject_id"].startswith("adapter-")
    assert sent["metrics"]["held_out_bits_per_byte"] > 0
    export.main(opts)
    assert owner.seen[1][2]["id"] == sent["id"]  # twice is harmless
    with pytest.raises(SystemExit, match="401"):
        export.main(export.Options(**(vars(opts) | {"token_file": ""})))
    check_card(sent)
