"""A tiny base with a real tokenizer, a tiny project, and its dataset."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import main
import prepare_dataset

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent
SENTINELS = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"


def make_tokenizer(specials):
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        [path.read_text() for path in sorted(SOURCE.glob("*.py"))],
        trainers.BpeTrainer(
            vocab_size=600,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=CHAT,
    )


def make_base(folder, specials, **changes):
    torch.manual_seed(0)
    tokenizer = make_tokenizer(specials)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **changes,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base_without_sentinels(tmp_path_factory):
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return make_base(tmp_path_factory.mktemp("plain"), specials)


def git(folder, *arguments):
    who = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", folder, *who, *arguments], check=True, capture_output=True)


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """Make a git repository of a few of our own files, with a history of two commits."""
    folder = tmp_path_factory.mktemp("project")
    files = sorted(SOURCE.glob("*.py"))
    git(folder, "init", "-q")
    for path in files[:-2]:
        (folder / path.name).write_text(path.read_text())
    (folder / "README.md").write_text("# A project\n\nIt has words.\n\nAnd paragraphs of them.\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    for path in files[-2:]:
        (folder / path.name).write_text(path.read_text())
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "second")
    return folder


@pytest.fixture(scope="session")
def dataset(project, tmp_path_factory):
    out = tmp_path_factory.mktemp("dataset")
    prepare_dataset.main([str(project), "--out", str(out), "--stdlib_bytes", "20000"])
    return out


@pytest.fixture(scope="session")
def base(dataset, tmp_path_factory):
    """Return a base that has learned some Python: the standard library, not the project."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *SENTINELS]
    raw = make_base(tmp_path_factory.mktemp("raw"), specials)
    library = tmp_path_factory.mktemp("library")
    for name in ("train", "valid", "guard", "replay"):
        (library / f"{name}.jsonl").write_bytes((dataset / "replay.jsonl").read_bytes())
    (library / "manifest.json").write_text((dataset / "manifest.json").read_text())
    run = tmp_path_factory.mktemp("pretrained")
    main.main(
        main.Options(
            base=str(raw),
            dataset_path=str(library),
            out=str(run),
            method="full",
            lr=5e-3,
            seq_len=256,
            row_tokens=1024,
            max_steps=120,
            replay=0.0,
            evals_per_epoch=0.01,
            eval_tokens=2048,
        )
    )
    return run / "model"
