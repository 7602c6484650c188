"""BM25 over a repository: which passages belong beside a question.

Reads a source tree the way prepare_dataset.py does, so what is vendored, secret or foreign never
reaches a prompt. A passage is a run of lines; names are also matched by their parts.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from prepare_dataset import Options, git, read_folder, read_tree, select

PASSAGE_LINES, OVERLAP_LINES = 40, 10
PASSAGES = 2  # shown beside a gap
QUERY_CHARS = 600  # before a gap, and half as many after it, choose the passages shown


@dataclass(frozen=True)
class Passage:
    """Some lines of a file."""

    path: str
    first_line: int
    text: str


class Index:
    """Passages of some texts, ranked by BM25."""

    @classmethod
    def of_tree(cls, source: Path) -> Index:
        """Read and index a folder; with git, what its last commit holds."""
        tracked = git(source, "rev-parse", "HEAD", check=False)
        tree = read_tree(source, "HEAD") if tracked else read_folder(source)
        return cls((one.path, one.text) for one in select(tree, Options(), Counter()))

    def __init__(self, documents: Iterable[tuple[str, str]]) -> None:
        """Index documents, given as paths and texts."""
        self.passages = [
            Passage(path, at + 1, "\n".join(lines[at : at + PASSAGE_LINES]))
            for path, text in documents
            for lines in [text.splitlines()]
            for at in range(0, max(1, len(lines) - OVERLAP_LINES), PASSAGE_LINES - OVERLAP_LINES)
        ]
        # Where JAX is installed bm25s starts it on import, and JAX takes most of a GPU's memory.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        import bm25s

        self.ranker = bm25s.BM25()
        if self.passages:
            corpus = [words(f"{one.path}\n{one.text}") for one in self.passages]
            self.ranker.index(corpus, show_progress=False)

    def search(self, query: str, num: int) -> list[Passage]:
        """Return the best passages, best first; none that shares no word with the query."""
        num, asked = min(num, len(self.passages)), words(query)
        known = [word for word in asked if word in getattr(self.ranker, "vocab_dict", {})]
        if not num or not known:
            return []
        found, scores = self.ranker.retrieve(
            [known], k=num, show_progress=False, backend_selection="numpy"
        )
        return [self.passages[i] for i, score in zip(found[0], scores[0], strict=True) if score > 0]


def as_text(passages: list[Passage]) -> str:
    """Return passages as they stand in a prompt."""
    return "\n\n".join(f"# {one.path}, line {one.first_line}\n{one.text}" for one in passages)


def words(text: str) -> list[str]:
    """Return lower-case words, and the parts of compound names beside the names."""
    found = []
    for name in re.findall(r"\w+", text):
        parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
        found.append(name.lower())
        found += [part.lower() for part in parts if part.lower() != name.lower()]
    return found
