"""The whole way in one command: source, training, report, export; what `make finetune` runs.

    walk.py SOURCE --data DIR --run DIR [--base smollm2] [-- flags of main.py]

Where there is a GPU the base is measured while it is trained, and the result is measured while it
is exported: each of these leaves most of a GPU idle. Writes RUN/walk.json with the seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from state import write_atomically

HERE = Path(__file__).resolve().parent


def run(programs: list[list[str]], beside: bool) -> None:
    """Run programs one after the other, or side by side.

    Raises SystemExit where one fails; those beside it are ended.
    """
    running: list[subprocess.Popen] = []
    try:
        for name, *flags in programs:
            running.append(subprocess.Popen([sys.executable, str(HERE / f"{name}.py"), *flags]))
            if not beside and running[-1].wait():
                raise SystemExit(f"{name} failed")
        for (name, *_), process in zip(programs, running, strict=True):
            if process.wait():
                raise SystemExit(f"{name} failed")
    finally:
        for process in running:
            process.terminate()
            process.wait()


def main(arguments: list[str]) -> dict:
    """Walk; return the seconds of each part and of all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("--data", default="var/finetune/dataset")
    parser.add_argument("--run", default="var/finetune/run")
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--eval_flags", default="", help="flags of evaluate.py, one string")
    more = arguments.index("--") if "--" in arguments else len(arguments)
    given = parser.parse_args(arguments[:more])
    beside = torch.cuda.is_available()
    measure = ["evaluate", "--run", given.run, *given.eval_flags.split()]
    train = ["main", "--dataset_path", given.data, "--out", given.run, "--base", given.base]
    train += arguments[more + 1 :]
    parts = {
        "data": [["prepare_dataset", given.source, "--out", given.data]],
        "training": [train, [*measure, "--base", given.base, "--dataset_path", given.data]],
        "report and export": [["export", "--run", given.run], measure],
    }
    seconds, began = {}, time.monotonic()
    for part, programs in parts.items():
        at = time.monotonic()
        run(programs, beside)
        seconds[part] = round(time.monotonic() - at, 1)
    seconds["all"] = round(time.monotonic() - began, 1)
    write_atomically(Path(given.run) / "walk.json", json.dumps(seconds, indent=2) + "\n")
    print(", ".join(f"{part} {s} s" for part, s in seconds.items()))
    return seconds


if __name__ == "__main__":
    main(sys.argv[1:])
