"""The sources of this environment as a corpus: large, local, under licences that allow it.

    python installed.py --out DIR [--avoid SOURCE]...

Writes a folder like prepare_dataset.py's: train, valid (other files of the same packages), an empty
replay, guard, and manifest.json with the distributions taken. What goes in: `.py` files of
distributions whose metadata names permissive licences only, and of the standard library but for the
packages forgetting is measured on. Left out: tests, what prepare_dataset.py filters, copies, every
folder named like a SOURCE, and every file that shares a block of code with a SOURCE or with those
packages. Published sources are searched for private keys, not for passwords.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from datasketch import LeanMinHash

import prepare_dataset as dataset
from library import ROOT, library_files, packages
from syntax import cut_spans

UNUSED = {"test", "tests", "testing", "idle_test", "site-packages", "dist-packages"}
PERMISSIVE = dataset.PERMISSIVE | {"bsl-1.0", "mit-cmu", "cnri-python"}
TROVE = re.compile(
    r"MIT|BSD|Apache|ISC|Python Software Foundation|Mozilla Public License 2|zlib|Unlicense"
)
SHORT = re.compile(r"(the )?(new |modified |3-clause |2-clause )*(mit|bsd|apache|isc|psf)\b", re.I)
OTHER = re.compile(r"GPL|General Public|proprietary|commercial", re.I)
BLOCK_LINES, BLOCK_CHARS = 5, 120  # of code: shorter runs of lines are anybody's
VALID_FILES = 60
MOST_BYTES = 180_000_000
AVOIDED: set[int] = set()  # in a process that reads: the blocks no file may have


def permissive(distribution: Distribution) -> bool:
    """Say whether a distribution's metadata names permissive licences and no other."""
    told = distribution.metadata
    if expression := told.get("License-Expression"):
        names = re.split(r"\s+(?:OR|AND)\s+|\s+WITH\s+[\w.-]+|[()]", expression)
        return all(n.strip().lower() in PERMISSIVE for n in names if n.strip())
    trove = [
        c for c in told.get_all("Classifier", []) if c.startswith("License :: OSI Approved ::")
    ]
    if trove:
        return all(TROVE.search(one) for one in trove)
    text = (told.get("License") or "").strip()
    return bool(SHORT.match(text)) and not OTHER.search(text)


def installed_files(dropped: Counter[str]) -> tuple[dict[str, Path], list[str]]:
    """Return the source files of this environment by name, and the distributions they are of."""
    files, names = {}, []
    for one in sorted(distributions(), key=lambda d: d.name.lower()):
        if not permissive(one):
            dropped["distributions of other or unnamed licences"] += 1
            continue
        found = [p for p in one.files or () if p.suffix == ".py" and ".." not in p.parts]
        files |= {path.as_posix(): Path(str(path.locate())) for path in found}
        if found:
            names.append(f"{one.name} {one.version}")
    kept_back = set(library_files(("guard", "measured")))
    for path in ROOT.rglob("*.py"):
        if path not in kept_back and "site-packages" not in path.parts:
            files[f"python/{path.relative_to(ROOT).as_posix()}"] = path
    return {n: p for n, p in files.items() if not UNUSED & set(Path(n).parts[:-1])}, names


def blocks(text: str) -> Iterator[int]:
    """Yield a hash of every run of BLOCK_LINES lines of code, white space and comments apart."""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    for at in range(len(lines) - BLOCK_LINES + 1):
        block = "\n".join(lines[at : at + BLOCK_LINES])
        if len(block) >= BLOCK_CHARS:
            yield int.from_bytes(hashlib.blake2b(block.encode(), digest_size=8).digest())


def avoided_blocks(sources: Iterable[Path]) -> set[int]:
    """Return the blocks of what is measured: the kept-back library and the sources."""
    texts = [path.read_text("utf-8", "replace") for path in library_files(("guard", "measured"))]
    for source in sources:
        tracked = dataset.git(source, "rev-parse", "HEAD", check=False)
        tree = dataset.read_tree(source, "HEAD") if tracked else dataset.read_folder(source)
        texts += [data.decode("utf-8", "replace") for n, data in tree.items() if n.endswith(".py")]
    return {block for text in texts for block in blocks(text)}


def avoid(blocks_to_avoid: set[int]) -> None:
    """Note in a process that reads what no file may share."""
    AVOIDED.clear()
    AVOIDED.update(blocks_to_avoid)


def read(item: tuple[str, Path]) -> tuple[str, dataset.Document, Any]:
    """Return (why a file is no use, the document with its cuts, its MinHash)."""
    name, path = item
    nothing = dataset.Document(name, "python", "")
    try:
        reason, text = dataset.judge(name, path.read_bytes(), dataset.Options())
    except OSError:
        return "unreadable", nothing, None
    if not reason and dataset.secret_block(text):
        reason = "private key"
    if not reason and not AVOIDED.isdisjoint(blocks(text)):
        reason = "shares code with what is measured"
    if reason:
        return reason, nothing, None
    document = dataset.Document(name, "python", text, cut_spans(text, "python", 0))
    return "", document, LeanMinHash(dataset.signature.__wrapped__(text))


def gather(out: Path, sources: list[Path], workers: int, most_bytes: int) -> dict[str, Any]:
    """Write a dataset folder of this environment's sources; return its manifest."""
    dropped: Counter[str] = Counter()
    files, names = installed_files(dropped)
    projects = {source.resolve().name.lower() for source in sources}
    named = {n for n in files if projects & {part.lower() for part in Path(n).parts[:-1]}}
    dropped["named like what is measured"] = len(named)
    items = sorted((name, path) for name, path in files.items() if name not in named)
    random.Random(0).shuffle(items)  # noqa: S311 - an order, not a secret
    documents, signed, room = [], {}, most_bytes
    known = (avoided_blocks(sources),)
    with multiprocessing.get_context("spawn").Pool(workers, avoid, known) as pool:
        for reason, document, made in pool.imap(read, items, 16):
            if reason:
                dropped[reason] += 1
                continue
            documents.append(document)
            signed[document.text] = made
            room -= len(document.text)
            if room <= 0:
                break
    jaccard = dataset.Options().duplicate_jaccard
    kept = dataset.without_duplicates(documents, jaccard, dropped, signed.__getitem__)
    held = min(VALID_FILES, len(kept) // 10)
    sets = {"train": kept[held:], "valid": kept[:held], "replay": []}
    sets["guard"] = dataset.standard_library(dataset.Options())["guard"]
    out.mkdir(parents=True, exist_ok=True)
    manifest = {
        "sets": {n: dataset.write_jsonl(out / f"{n}.jsonl", some) for n, some in sets.items()},
        "dropped": dict(sorted(dropped.items())),
        "avoided": sorted(projects),
        "distributions": names,
        "stdlib_packages_kept_back": [*packages()["guard"], *packages()["measured"]],
    }
    joined = "".join(one["sha256"] for one in manifest["sets"].values())
    manifest["digest"] = hashlib.sha256(joined.encode()).hexdigest()
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Gather from the command line; return the manifest."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--avoid", type=Path, action="append", default=[], metavar="SOURCE")
    parser.add_argument("--most_bytes", type=int, default=MOST_BYTES, help="of sources read")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="that read sources")
    options = parser.parse_args(arguments)
    return gather(options.out, options.avoid, options.workers, options.most_bytes)


if __name__ == "__main__":
    told = main()
    print(json.dumps({"dropped": told["dropped"], "train": told["sets"]["train"]}, indent=2))
