"""The whole way in one command: source, training, report, export; what `make finetune` runs.

    walk.py SOURCE --data DIR --run DIR [--base smollm2] [--formats adapter] [-- flags of main.py]

The parts are processes forked from one that has loaded the libraries and converted the base while
the data was prepared. Where there is a GPU the base is measured while it is trained, and the result
is measured while it is exported: each of these leaves most of a GPU idle. Writes RUN/walk.json with
the seconds.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import multiprocessing
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

# Loaded once; a process of its own for each part would load them for ten seconds each time.
LIBRARIES = ["main", "evaluate", "export", "peft", "tree_sitter", "matplotlib.pyplot"]


def part(name: str, flags: list[str]) -> None:
    """Run one of the programs with its flags, in this process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    module: Any = importlib.import_module(name)
    module.main(module.parse(flags) if name in ("main", "evaluate", "export") else flags)


def run(context: Any, programs: list[list[str]], beside: bool) -> None:
    """Run programs one after the other, or side by side.

    Raises SystemExit where one fails; those beside it are ended.
    """
    running = [context.Process(target=part, args=(name, flags)) for name, *flags in programs]
    try:
        for process in running:
            process.start()
            if not beside:
                process.join()
                if process.exitcode:
                    break
        for (name, *_), process in zip(programs, running, strict=True):
            process.join()
            if process.exitcode:
                raise SystemExit(f"{name} failed (exit code {process.exitcode})")
    finally:
        for process in running:
            if process.is_alive():
                process.terminate()
                process.join()


def main(arguments: list[str]) -> dict:
    """Walk; return the seconds of each part and of all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("--data", default="var/finetune/dataset")
    parser.add_argument("--run", default="var/finetune/run")
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--eval_flags", default="", help="flags of evaluate.py, one string")
    parser.add_argument("--formats", default="adapter", help="of export.py; others cost minutes")
    more = arguments.index("--") if "--" in arguments else len(arguments)
    given = parser.parse_args(arguments[:more])
    began = time.monotonic()
    light = multiprocessing.get_context("spawn")
    data = light.Process(target=part, args=("prepare_dataset", [given.source, "--out", given.data]))
    data.start()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    forkserver.ensure_running()
    import torch

    beside = torch.cuda.is_available()
    run(context, [["convert_base", given.base]], beside)
    data.join()
    if data.exitcode:
        raise SystemExit("prepare_dataset failed")
    seconds = {"data and base": round(time.monotonic() - began, 1)}
    measure = ["evaluate", "--run", given.run, *given.eval_flags.split()]
    train = ["main", "--dataset_path", given.data, "--out", given.run, "--base", given.base]
    train += arguments[more + 1 :]
    parts = {
        "training": [train, [*measure, "--base", given.base, "--dataset_path", given.data]],
        "report and export": [["export", "--run", given.run, "--formats", given.formats], measure],
    }
    for name, programs in parts.items():
        at = time.monotonic()
        run(context, programs, beside)
        seconds[name] = round(time.monotonic() - at, 1)
    seconds["all"] = round(time.monotonic() - began, 1)
    (Path(given.run) / "walk.json").write_text(json.dumps(seconds, indent=2) + "\n")
    print(", ".join(f"{name} {s} s" for name, s in seconds.items()))
    return seconds


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
