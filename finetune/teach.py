"""Teach a base without trained sentinels to fill gaps, once, on the sources installed here.

A small project holds a few hundred gaps, too few to learn what a sentinel means; the packages of a
Python environment and its standard library hold hundreds of thousands. This has installed.py gather
them, trains every weight on them with main.py (one process a GPU) and keeps the result as a base
like any other:

    python teach.py [--base smollm2] [--avoid SOURCE]... [-- flags of main.py]
    python main.py --base smollm2-taught --dataset_path DIR

Writes OUT (default: the cache, where `BASE-taught` finds it): weights, tokenizer and taught.json,
which says of which base it was made, in which order it is asked, and on which packages. Name each
SOURCE the taught base will be measured on: nothing that shares code with it is learned.

Not covered: prose. A base forgets some of its English by this.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

import installed
from convert_base import TAUGHT, cache_folder, replacing, resolve, teach_fim
from examples import fim_sentinels

log = logging.getLogger("finetune.teach")
HERE = Path(__file__).resolve().parent
ROW_TOKENS = 32_768
# What these were measured with: docs/log.md, "Infilling taught".
SETTINGS: dict[str, Any] = {
    "method": "full",
    "lr": 8e-4,
    "fim_rate": 0.8,
    "replay": 0.0,
    "epochs": 1000.0,
    "most_tokens": 200_000_000,
    "row_tokens": ROW_TOKENS,
    "eval_tokens": 65_536,
    "evals_per_epoch": 0.5,
    "patience": 1000,
    "save_every": 1_000_000,
}


def with_sentinels(base: str, folder: Path) -> str:
    """Return a base whose tokenizer has sentinels: the one given, or a copy that got some."""
    place = resolve(base)
    try:
        fim_sentinels(AutoTokenizer.from_pretrained(place, local_files_only=True))
    except ValueError:
        teach_fim(place, folder)
        return str(folder)
    return base


def require_avoided(sources: list[Path], corpus: dict[str, Any], folder: Path) -> None:
    """Raise SystemExit where a corpus made earlier did not leave out one of the sources."""
    missing = {source.resolve().name.lower() for source in sources} - {*corpus.get("avoided", ())}
    if missing:
        names = ", ".join(sorted(missing))
        raise SystemExit(f"{folder} was made without --avoid {names}: delete it to make it anew")


def train(base: str, data: Path, run: Path, flags: list[str]) -> None:
    """Run main.py, one process a GPU; called again after an interruption, it goes on.

    Raises SystemExit where it fails or was interrupted.
    """
    launch, gpus = [sys.executable], torch.cuda.device_count()
    if gpus > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}"]
    settings = SETTINGS | {"step_tokens": max(4, gpus) * ROW_TOKENS}
    told = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    told += ["--base", base, "--dataset_path", str(data), "--out", str(run), "--resume", "auto"]
    ended = subprocess.run([*launch, str(HERE / "main.py"), *told, *flags], check=False)
    if ended.returncode or not (run / "model").is_dir():
        raise SystemExit("main.py did not come to its end; the same command goes on from there")


def main(arguments: list[str] | None = None) -> Path:
    """Teach one base from the command line; return its folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", default="smollm2", help="as for main.py")
    parser.add_argument("--out", type=Path, help="folder to write; default: the cache")
    parser.add_argument("--avoid", type=Path, action="append", default=[], metavar="SOURCE")
    parser.add_argument("--most_bytes", type=int, default=installed.MOST_BYTES, help="of sources")
    given = list(sys.argv[1:] if arguments is None else arguments)
    more = given.index("--") if "--" in given else len(given)
    options = parser.parse_args(given[:more])
    out = options.out or cache_folder() / f"{Path(options.base).name}-taught"
    if (out / TAUGHT).is_file():
        require_avoided(options.avoid, json.loads((out / TAUGHT).read_text())["corpus"], out)
        log.info("%s is there already", out)
        return out
    work = out.with_name(f".{out.name}-work")
    data, run = work / "corpus", work / "run"
    if not (data / "manifest.json").is_file():
        sources = [word for source in options.avoid for word in ("--avoid", str(source))]
        size = ["--most_bytes", str(options.most_bytes)]
        gather = [sys.executable, str(HERE / "installed.py"), "--out", str(data), *size, *sources]
        subprocess.run(gather, check=True)
    manifest = json.loads((data / "manifest.json").read_text())
    require_avoided(options.avoid, manifest, work)
    log.info("corpus: %s; left out: %s", manifest["sets"]["train"], manifest["dropped"])
    train(with_sentinels(options.base, work / "base"), data, run, given[more + 1 :])
    trained = json.loads((run / "options.json").read_text())
    result = json.loads((run / "result.json").read_text())
    told = {
        "base": options.base,
        "fim_order": trained["fim_order"],
        "corpus": manifest,
        "options": trained,
        "result": {name: result[name] for name in ("steps", "tokens", "before", "best")},
    }
    with replacing(out) as folder:
        shutil.copytree(run / "model", folder, dirs_exist_ok=True)
        (folder / TAUGHT).write_text(json.dumps(told, indent=2) + "\n")
    shutil.rmtree(work)
    return out


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    print(main())
