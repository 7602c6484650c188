"""Hand a finished run over: PEFT adapter, merged safetensors, GGUF; each reloaded and compared.

Reads a run of main.py; writes OUT/adapter, OUT/merged, OUT/model-f16.gguf, OUT/model-q8_0.gguf and
export.json with the relative error of each one's logits. A format whose error passes its limit
stops the export. With --models_url a ModelCard of kind `adapter` is posted to the room that owns
published models; the token is read from the file named by --token_file, never from the flags.

GGUF is written for the Llama and Qwen2 families with byte-level BPE tokenizers; others are
refused, since a file that loads and answers wrongly is worse than none.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gguf
import httpx
import numpy as np
import torch
from transformers import AutoModelForCausalLM

import infer
from convert_base import load_base, quick_reading
from examples import fim_sentinels
from state import beside, replace_folder, write_atomically

log = logging.getLogger("finetune.export")

FORMATS = ("adapter", "merged", "gguf-f16", "gguf-q8_0")
# Relative error of the logits: merged is bfloat16, Q8_0 has eight bits a weight.
LIMITS = {"adapter": 1e-3, "merged": 3e-2, "gguf-f16": 3e-3, "gguf-q8_0": 6e-2}
CARDS_PATH = "/v1/agent-trainer/cards"
PROBE = (
    "def add(first, second):\n    return first + second\n\n\nclass Reader:\n    def read(self):\n"
)


@dataclass(frozen=True)
class Options:
    """What is exported, and to whom it is announced."""

    run: str = "var/finetune/run"
    out: str = ""  # default: RUN/export
    formats: str = ",".join(FORMATS)
    models_url: str = ""  # address of the room that owns models
    token_file: str = ""
    name: str = "code assistant"
    download: bool = False


def main(options: Options) -> dict[str, Any]:
    """Write every format asked for, check it, perhaps announce it; return export.json."""
    run, wanted = Path(options.run), options.formats.split(",")
    if unknown := set(wanted) - set(FORMATS):
        raise SystemExit(f"unknown formats {sorted(unknown)}; known: {', '.join(FORMATS)}")
    out = Path(options.out or run / "export")
    out.mkdir(parents=True, exist_ok=True)
    place, adapter = infer.find_run(run)
    cpu = torch.device("cpu")
    model, tokenizer = infer.load(place, adapter, cpu, torch.float32, options.download)
    ids = torch.tensor([tokenizer(PROBE, add_special_tokens=False)["input_ids"]])
    want = logits(model, ids)
    errors = {}
    for kind in wanted:
        if kind == "adapter" and adapter is None:
            log.info("a full fine-tuning has no adapter")
            continue
        target = out / (kind if not kind.startswith("gguf") else f"model-{kind[5:]}.gguf")
        if kind == "adapter":
            again = written_adapter(adapter, place, target, options.download)
        elif kind == "merged":
            again = written_merged(model, tokenizer, target)
        else:
            write_gguf(model, tokenizer, target, kind)
            again = reloaded_gguf(target)
        errors[kind] = relative_error(logits(again, ids), want)
        del again
        if not errors[kind] <= LIMITS[kind]:
            raise SystemExit(f"{target}: its logits are off by {errors[kind]:.1e}; not usable")
        log.info("%s: relative error of the logits %.1e", target, errors[kind])
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.name != "export.json")
    told = {
        "run": run.name,
        "logit_errors": errors,
        "files": {path.relative_to(out).as_posix(): sha256(path) for path in files},
    }
    write_atomically(out / "export.json", json.dumps(told, indent=2) + "\n")
    if options.models_url:
        announce(card(run, out, adapter, options), options)
    return told


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return a model's logits on the probe, float32."""
    with torch.inference_mode():
        return model(ids).logits.float()


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """Return the norm of the difference over the norm."""
    return ((got - want).norm() / want.norm()).item()


def written_adapter(adapter: Path, base: str, target: Path, download: bool) -> Any:
    """Copy the adapter and return the base with it, loaded by PEFT as others would."""
    from peft import PeftModel

    folder = beside(target)
    shutil.copytree(adapter, folder, dirs_exist_ok=True)
    replace_folder(target, folder)
    model, _ = load_base(base, torch.float32, download)
    return PeftModel.from_pretrained(model, str(target)).eval()


def written_merged(model: Any, tokenizer: Any, target: Path) -> Any:
    """Save the merged weights in bfloat16 and return them reloaded."""
    folder = beside(target)
    state = {name: t.to(torch.bfloat16) for name, t in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=state)
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save_pretrained(folder)
    replace_folder(target, folder)
    return AutoModelForCausalLM.from_pretrained(
        target, dtype=torch.float32, local_files_only=True
    ).eval()


# --- GGUF -----------------------------------------------------------------------------------------


def write_gguf(model: Any, tokenizer: Any, target: Path, kind: str) -> None:
    """Write a GGUF file; matrices in F16 or Q8_0, vectors in F32.

    Raises SystemExit for families and tokenizers this writer does not know.
    """
    config = model.config
    family = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2}.get(config.model_type)
    rope = config.rope_parameters
    if family is None or rope.get("rope_type", "default") != "default":
        raise SystemExit(f"GGUF is written for llama and qwen2 only, not {config.model_type}")
    arch = gguf.MODEL_ARCH_NAMES[family]
    quantised = kind == "gguf-q8_0"
    temporary = target.with_name(f".{target.name}.partial")
    writer = gguf.GGUFWriter(temporary, arch)
    head_size = (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    writer.add_name(target.stem)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(head_size)
    writer.add_vocab_size(config.vocab_size)
    file_type = gguf.LlamaFileType.MOSTLY_Q8_0 if quantised else gguf.LlamaFileType.MOSTLY_F16
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_tokenizer(writer, tokenizer, config.vocab_size)
    names = gguf.get_tensor_name_map(family, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        there = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if there is None:
            raise SystemExit(f"{name} has no place in a {arch} GGUF file")
        array = tensor.float().numpy()
        if family == gguf.MODEL_ARCH.LLAMA and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            array = interleaved(array, heads)
        if array.ndim == 1:
            writer.add_tensor(there, array)
        elif quantised and array.shape[1] % 32 == 0:
            kind_id = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(there, gguf.quants.quantize(array, kind_id), raw_dtype=kind_id)
        else:
            writer.add_tensor(there, array.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    temporary.replace(target)


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder rows from halves to pairs: the rotary layout llama.cpp uses for this family."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any, vocab_size: int) -> None:
    """Write a byte-level BPE tokenizer with its special tokens and chat template."""
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    if core["model"]["type"] != "BPE":
        raise SystemExit(f"GGUF is written for BPE tokenizers, not {core['model']['type']}")
    special = {one["id"] for one in core["added_tokens"] if one["special"]}
    known = {i: token for token, i in tokenizer.get_vocab().items()}
    kinds = gguf.TokenType
    tokens = [known.get(i, f"[UNUSED{i}]") for i in range(vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer_name(core))
    writer.add_token_list(tokens)
    writer.add_token_types(
        [
            kinds.CONTROL if i in special else kinds.NORMAL if i in known else kinds.UNUSED
            for i in range(vocab_size)
        ]
    )
    merges = core["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    for name, add in (
        ("bos_token_id", writer.add_bos_token_id),
        ("eos_token_id", writer.add_eos_token_id),
        ("pad_token_id", writer.add_pad_token_id),
        ("unk_token_id", writer.add_unk_token_id),
    ):
        if getattr(tokenizer, name, None) is not None:
            add(getattr(tokenizer, name))
    writer.add_add_bos_token(bool(tokenizer("")["input_ids"]))
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
    try:
        sentinels = fim_sentinels(tokenizer)
    except ValueError:
        return
    for name, value in zip(("pre", "suf", "mid"), sentinels, strict=True):
        writer.add_uint32(f"tokenizer.ggml.fim_{name}_token_id", value)


def pre_tokenizer_name(core: dict[str, Any]) -> str:
    """Return llama.cpp's name for how this tokenizer splits text before BPE.

    Raises SystemExit for a split it has no name for.
    """
    text = json.dumps(core["pre_tokenizer"] or {})
    if '"Digits"' in text:
        return "smollm"
    if r"\\p{N}{1,3}" in text:
        return "llama-bpe"
    if r"\\p{N}" in text:
        return "qwen2"
    if '"ByteLevel"' in text:
        return "gpt-2"
    raise SystemExit("this tokenizer splits text in a way GGUF has no name for")


def reloaded_gguf(path: Path) -> Any:
    """Return a GGUF file's model, every weight as stored, in float32."""
    with quick_reading():
        return AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, local_files_only=True
        ).eval()


# --- announcing -----------------------------------------------------------------------------------


def card(run: Path, out: Path, adapter: Path | None, options: Options) -> dict[str, Any]:
    """Return the ModelCard of an adapter; its id derives from its weights.

    Raises SystemExit for a full fine-tuning, which is a model and no adapter.
    """
    if adapter is None:
        raise SystemExit("only an adapter is announced; --method full makes a whole model")
    trained = json.loads((run / "options.json").read_text())
    result = json.loads((run / "result.json").read_text())
    weights = out / "adapter" / "adapter_model.safetensors"
    if not weights.is_file():
        raise SystemExit("--models_url needs the adapter among --formats")
    digest = sha256(weights)
    metrics = {
        "held_out_bits_per_byte_before": result["before"]["valid"],
        "held_out_bits_per_byte": result["best"]["valid"],
        "guard_bits_per_byte_before": result["before"]["guard"],
        "guard_bits_per_byte": result["best"]["guard"],
        "tokens": float(result["tokens"]),
    }
    report = run / "report" / "report.json"
    if report.is_file():
        measured = json.loads(report.read_text())
        for when in ("before", "after"):
            for name, value in measured[when].items():
                if isinstance(value, float):
                    metrics[f"test_{name}_{when}"] = value
    subject = f"adapter-{digest[:16]}"
    return {
        "schema_version": 1,
        "id": hashlib.sha256(f"{subject} ready".encode()).hexdigest()[:32],
        "time_ms": time.time_ns() // 1_000_000,
        "kind": "adapter",
        "subject_id": subject,
        "name": options.name,
        "status": "ready",
        "artifact": digest,
        "size_bytes": weights.stat().st_size,
        "base": trained["base"],
        "options": {
            name: trained[name]
            for name in ("method", "rank", "fim_rate", "seq_len", "epochs", "lr")
        },
        "data_digest": trained["data_digest"],
        "git_revision": trained["git_revision"] or None,
        "seed": trained["seed"],
        "metrics": metrics,
        "curves": {name: [line[name] for line in result["history"]] for name in ("valid", "guard")},
    }


def announce(told: dict[str, Any], options: Options) -> None:
    """Post a ModelCard to the owner of `models`.

    Raises SystemExit where it is not accepted.
    """
    headers = {}
    if options.token_file:
        token = Path(options.token_file).read_text().strip()
        headers["Authorization"] = f"Bearer {token}"
    address = options.models_url.rstrip("/") + CARDS_PATH
    try:
        answer = httpx.post(address, json=told, headers=headers, timeout=30)
    except httpx.HTTPError as error:
        raise SystemExit(f"{address}: {error}; the export itself is complete") from error
    if answer.is_error:
        raise SystemExit(f"{address} answered {answer.status_code}: {answer.text[:300]}")
    log.info("announced %s", told["subject_id"])


def sha256(path: Path) -> str:
    """Return a file's digest."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def parse(arguments: list[str] | None = None) -> Options:
    """Read the command line; one flag per field of Options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in asdict(Options()).items():
        if isinstance(default, bool):
            parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=default)
        else:
            parser.add_argument(f"--{name}", type=type(default), default=default)
    return Options(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
    main(parse())
