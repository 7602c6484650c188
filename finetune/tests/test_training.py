import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import adapter
import attention
import main
from convert_base import load_base
from examples import IGNORED, Example, chunk, make_row, pack, read_documents
from losses import chunked_nll

SOURCE = Path(main.__file__).resolve().parent


def options(base, dataset, out, **changes):
    given = {
        "base": str(base),
        "dataset_path": str(dataset),
        "out": str(out),
        "seq_len": 256,
        "row_tokens": 512,
        "rank": 4,
        "replay": 0.1,
        "max_steps": 6,
        "eval_tokens": 1024,
        "device": "cpu",
    }
    return main.Options(**(given | changes))


def losses(out):
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


def test_packed_loss_equals_unpacked_loss(base, dataset):
    opts = options(base, dataset, "unused")
    setup = main.build(opts, torch.device("cpu"), 1)
    document = read_documents(dataset / "train.jsonl")[0]
    pieces = [Example(list(c.ids)) for c in chunk(document, setup.tokenizer, 256)][:4]
    plain, _ = load_base(str(base), torch.float32)
    (row,) = pack(pieces, 1024, 256, 0)
    with torch.no_grad():
        packed = setup.trainee(row)
        apart = torch.zeros(())
        for piece in pieces:
            tokens = torch.tensor([piece.ids])
            logits = plain(tokens).logits[0, :-1]
            apart += F.cross_entropy(logits, tokens[0, 1:], reduction="sum")
    assert packed.item() == pytest.approx(apart.item(), rel=1e-5)


def test_every_document_of_a_row_is_alone(base, dataset):
    setup = main.build(options(base, dataset, "unused"), torch.device("cpu"), 1)
    first, second, other = (Example(list(range(*r))) for r in ((20, 60), (80, 140), (27, 67)))
    with torch.no_grad():
        alone = setup.trainee(make_row([second], 128, 128, 0))
        for neighbour in (first, other):
            both = setup.trainee(make_row([neighbour, second], 128, 128, 0))
            only = setup.trainee(make_row([neighbour], 128, 128, 0))
            assert both.item() == pytest.approx((only + alone).item(), rel=1e-5)


def test_flex_attention_equals_its_definition():
    torch.manual_seed(0)
    lengths, device = [40, 1, 87], torch.device("cpu")
    q, k, v = (torch.randn(128, h, 16) for h in (4, 2, 2))
    kernel = attention.load_flex(device)
    packing = attention.packing_kwargs("flex", lengths, 5, 128, device)
    with torch.no_grad():
        got = kernel(q, k, v, 0.25, **packing)
    assert torch.allclose(got, attention.reference(q, k, v, 0.25, lengths), atol=1e-5)


def test_ladder_falls_to_sdpa_on_a_cpu_and_says_why():
    choice = attention.choose("auto", torch.device("cpu"), torch.float32)
    assert choice.rung == "sdpa"
    assert set(choice.passed_over) == {"flash4", "flash2", "varlen", "flex"}
    with pytest.raises(RuntimeError, match="CUDA"):
        attention.choose("flash4", torch.device("cpu"), torch.float32)


def test_broken_kernel_is_passed_over():
    def wrong(q, k, v, scale, **packing):
        return attention.load_sdpa(q.device)(q, k, v, scale * 1.1, **packing)

    with pytest.raises(RuntimeError, match="output is off"):
        attention.probe(attention.named(wrong, "sdpa"), torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("weight_needs_grad", [False, True])
def test_chunked_loss_and_gradients_equal_the_plain_ones(weight_needs_grad, monkeypatch):
    monkeypatch.setattr("losses.CHUNK_TOKENS", 7)
    torch.manual_seed(0)
    hidden = torch.randn(30, 8, requires_grad=True)
    weight = torch.randn(50, 8, requires_grad=weight_needs_grad)
    labels = torch.randint(0, 50, (30,))
    labels[::4] = IGNORED
    weights = torch.rand(30) * (labels != IGNORED)
    wanted = [hidden, weight] if weight_needs_grad else [hidden]
    got = torch.autograd.grad(3 * chunked_nll(hidden, weight, labels, weights), wanted)
    each = F.cross_entropy(hidden @ weight.T, labels, reduction="none", ignore_index=IGNORED)
    plain = (each * weights).sum()
    want = torch.autograd.grad(3 * plain, wanted)
    assert chunked_nll(hidden, weight, labels, weights).item() == pytest.approx(
        plain.item(), rel=1e-6
    )
    for a, b in zip(got, want, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("dora", [False, True])
def test_fused_adapters_equal_peft(base, tmp_path, dora):
    from peft import PeftModel

    model, _ = load_base(str(base), torch.float32)
    adapters = adapter.adapt(model, 4, 8.0, dora=dora)
    torch.manual_seed(1)
    for one in adapters:
        for b in one.lora_b:
            torch.nn.init.normal_(b, std=0.05)
        if dora:
            one.magnitude.data *= 1.1
    adapter.save_adapter(tmp_path, adapter.adapter_state(adapters), str(base), 4, 8.0, dora)
    ids = torch.arange(20, 60)[None]
    plain, _ = load_base(str(base), torch.float32)
    merged, _ = load_base(str(base), torch.float32)
    adapter.merge_adapter(merged, tmp_path)
    with torch.no_grad():
        before = plain(ids).logits
        ours = model(ids).logits
        theirs = PeftModel.from_pretrained(plain, str(tmp_path))(ids).logits
        baked = merged(ids).logits
    assert (ours - before).abs().max() > 1e-3
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert torch.allclose(ours, baked, atol=1e-5)


def test_unfused_adapters_equal_fused_ones(base, dataset, tmp_path):
    for fuse in (True, False):
        main.main(options(base, dataset, tmp_path / str(fuse), fuse=fuse, max_steps=1))
    # A's random start differs in order, so only the first loss, before any step, is comparable.
    assert losses(tmp_path / "True")[0] == pytest.approx(losses(tmp_path / "False")[0], rel=1e-6)


def test_fp8_base_is_close_and_lets_gradients_through(base):
    model, _ = load_base(str(base), torch.float32)
    layer = model.model.layers[0].mlp.down_proj
    held = adapter.AdaptedLinear({"down": layer}, 4, 4.0, dora=False, fp8=True)
    x = torch.randn(32, 128, requires_grad=True)
    exact = F.linear(x, layer.weight)
    got = held(x)
    (grad,) = torch.autograd.grad(got.sum(), x)
    want = layer.weight.sum(0).expand_as(x)
    assert ((got - exact).norm() / exact.norm()).item() < 0.06
    assert ((grad - want).norm() / want.norm()).item() < 0.06


def test_plain_loop_agrees_to_three_decimals_over_25_steps(base, dataset, tmp_path):
    """The reference: peft, unpacked documents, all logits, autograd's own cross-entropy."""
    from peft import PeftModel

    opts = options(base, dataset, tmp_path, max_steps=25, lr=1e-2, fim_rate=0.2)
    setup = main.build(opts, torch.device("cpu"), 1)
    start = tmp_path / "start"
    state_now = adapter.adapter_state(setup.adapters)
    adapter.save_adapter(start, state_now, str(base), opts.rank, float(opts.rank), False)
    plain, tokenizer = load_base(str(base), torch.float32)
    reference = PeftModel.from_pretrained(plain, str(start), is_trainable=True)
    corpus = main.Corpus.load(opts, tokenizer, on_gpu=False)
    wanted = []
    parameters = [p for p in reference.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=opts.weight_decay)
    for rows, share, _ in corpus.steps(progress := main.state.Progress()):
        for group in optimizer.param_groups:
            group["lr"] = opts.lr * main.schedule(share, opts.warmup)
        weight, total = sum(row.weight for row in rows), 0.0
        for row in rows:
            parts = (part.split(row.lengths) for part in (row.tokens, row.labels, row.weights))
            for tokens, labels, weights in zip(*parts, strict=True):
                logits = reference(tokens[None]).logits[0]
                each = F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED)
                loss = (each * weights).sum()
                (loss / weight).backward()
                total += loss.item()
        torch.nn.utils.clip_grad_norm_(parameters, opts.clip)
        optimizer.step()
        optimizer.zero_grad()
        wanted.append(total / weight)
        progress.step, progress.step_in_epoch = progress.step + 1, progress.step_in_epoch + 1
    result = main.train(opts, setup, corpus, 0, 1, lambda: False)
    got = losses(tmp_path)
    assert len(got) == len(wanted) == 25
    assert max(abs(a - b) for a, b in zip(got, wanted, strict=True)) < 5e-4
    assert result["history"][-1]["valid"] < 0.999 * result["before"]["valid"]  # it learned


def test_resumed_run_equals_the_uninterrupted_one(base, dataset, tmp_path):
    whole = main.main(options(base, dataset, tmp_path / "whole", evals_per_epoch=4.0))
    parts = options(base, dataset, tmp_path / "parts", evals_per_epoch=4.0, save_every=1)
    calls = iter([False, False, False, True])
    setup = main.build(parts, torch.device("cpu"), 1)
    torch.manual_seed(parts.seed)
    corpus = main.Corpus.load(parts, setup.tokenizer, on_gpu=False)
    setup = main.build(parts, torch.device("cpu"), 1)
    first = main.train(parts, setup, corpus, 0, 1, lambda: next(calls))
    assert first["outcome"] == "interrupted"
    assert not (tmp_path / "parts" / "adapter").exists()
    resumed = main.main(main.Options(**(vars(parts) | {"resume": "auto"})))
    assert resumed["steps"] == whole["steps"] == 6
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert resumed["history"] == whole["history"]
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_sigterm_saves_a_checkpoint(base, dataset, tmp_path):
    opts = options(base, dataset, tmp_path, max_steps=100000, patience=100000)
    process = run(opts)
    while not (tmp_path / "heartbeat").exists():
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    assert json.loads((tmp_path / "result.json").read_text())["outcome"] == "interrupted"
    assert list(tmp_path.glob("checkpoints/step-*/progress.json"))


@pytest.mark.parametrize(
    ("parallel", "method"), [("ddp", "lora"), ("fsdp", "lora"), ("fsdp", "full")]
)
def test_two_processes_equal_one(base, dataset, tmp_path, parallel, method):
    same = {"step_tokens": 1536, "max_steps": 3, "method": method}  # 3 rows: unevenly shared
    main.main(options(base, dataset, tmp_path / "one", **same))
    opts = options(base, dataset, tmp_path / "two", parallel=parallel, **same)
    assert run(opts, processes=2).wait() == 0
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=2e-4)
    one, two = (json.loads((tmp_path / n / "result.json").read_text()) for n in ("one", "two"))
    for a, b in zip(one["history"], two["history"], strict=True):
        assert a == pytest.approx(b, abs=2e-3)
    if method == "lora":
        assert (tmp_path / "two" / "adapter" / "adapter_model.safetensors").is_file()
    else:
        load_base(str(tmp_path / "two" / "model"), torch.float32)


def test_full_training_hands_kernels_one_type(base, dataset, tmp_path, monkeypatch):
    """Flash kernels refuse float32; autocast leaves queries of exact weights in it."""
    plain = attention.load_sdpa(torch.device("cpu"))

    def picky(q, k, v, scale, **packing):
        assert q.dtype == k.dtype == v.dtype == torch.bfloat16
        return plain(q, k, v, scale, **packing)

    monkeypatch.setitem(attention.LOADERS, "sdpa", lambda device: attention.named(picky, "sdpa"))
    opts = options(base, dataset, tmp_path, method="full", dtype="bfloat16", max_steps=2)
    assert main.main(opts)["steps"] == 2


def test_training_stops_early_and_keeps_the_best(base, dataset, tmp_path):
    opts = options(
        base, dataset, tmp_path, max_steps=200, lr=0.3, patience=2, evals_per_epoch=100.0
    )
    result = main.main(opts)
    assert result["outcome"] == "stopped early"
    assert result["steps"] < 200
    assert result["best"]["valid"] == min(
        line["valid"]
        for line in result["history"]
        if line["guard"] <= result["before"]["guard"] * 1.01
    )


def test_fim_without_sentinels_is_refused(base_without_sentinels, dataset, tmp_path):
    with pytest.raises(ValueError, match="--teach_fim"):
        main.main(options(base_without_sentinels, dataset, tmp_path))
    result = main.main(
        options(base_without_sentinels, dataset, tmp_path, fim_rate=0.0, max_steps=1)
    )
    assert result["steps"] == 1


def run(opts, processes=1):
    flags = []
    for name, value in vars(opts).items():
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        elif value != "":
            flags += [f"--{name}", str(value)]
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [*launch, str(SOURCE / "main.py"), *flags],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
