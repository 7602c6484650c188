"""A routine drawn: Mermaid text, and SVG or PNG laid out by Graphviz.

`graphviz-pure` is a program that its package puts beside the interpreter; it reads a graph from
standard input, never a file of ours. A step that may be left out has a dashed way round it.
"""

import subprocess  # a program of our own environment, without a shell
import sysconfig
from itertools import pairwise
from pathlib import Path
from typing import Literal

from services.task_learner.exports.words import OFTEN, step_in_words
from shared.errors import MiningError
from shared.schemas import Routine

__all__ = ["to_mermaid", "to_picture"]

_DRAW_S = 30


def to_mermaid(routine: Routine) -> str:
    """Return the routine as a Mermaid flowchart."""
    lines = ["flowchart TD", "  start((start))"]
    lines += [f'  s{n}["{_plain(text)}"]' for n, text in enumerate(_texts(routine))]
    lines += ["  stop((end))"]
    lines += [f"  {a} {'-.->' if skips else '-->'} {b}" for a, b, skips in _edges(routine)]
    return "\n".join(lines) + "\n"


def to_picture(routine: Routine, form: Literal["svg", "png"]) -> bytes:
    """Return the routine drawn. Raises MiningError where it cannot be drawn."""
    program = Path(sysconfig.get_path("scripts")) / "graphviz-pure"
    try:
        done = subprocess.run(  # noqa: S603
            [program, f"-T{form}"], input=_dot(routine).encode(), capture_output=True,
            timeout=_DRAW_S, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise MiningError(
            f"the picture cannot be drawn ({type(error).__name__}): ask for mermaid, or install "
            "the room with its extra `learner`"
        ) from error
    return done.stdout


def _dot(routine: Routine) -> str:
    """Return the routine in Graphviz's language."""
    lines = [
        "digraph routine {",
        '  graph [rankdir=TB, fontname="Arimo", labelloc=t,',
        f"    label={_quoted(routine.name)}];",
        '  node [shape=box, style="rounded,filled", fillcolor="#f4f6fb", fontname="Arimo"];',
        '  start [shape=circle, label="", width=0.25, fillcolor="#2b6cb0"];',
        '  stop [shape=doublecircle, label="", width=0.2, fillcolor="#2b6cb0"];',
    ]
    lines += [f"  s{n} [label={_quoted(text)}];" for n, text in enumerate(_texts(routine))]
    lines += [
        f"  {a} -> {b}{' [style=dashed]' if skips else ''};" for a, b, skips in _edges(routine)
    ]
    return "\n".join([*lines, "}"])


def _texts(routine: Routine) -> list[str]:
    return [
        step_in_words(s) if s.coverage >= OFTEN else f"{step_in_words(s)} ({s.coverage:.0%})"
        for s in routine.steps
    ]


def _edges(routine: Routine) -> list[tuple[str, str, bool]]:
    """Return what follows what, and whether it passes over a step that may be left out."""
    names = ["start", *(f"s{n}" for n in range(len(routine.steps))), "stop"]
    edges = [(a, b, False) for a, b in pairwise(names)]
    for n, step in enumerate(routine.steps):
        if step.coverage < OFTEN:
            edges.append((names[n], names[n + 2], True))
    return edges


def _plain(text: str) -> str:
    """Return a text for Mermaid, in which quotes and angles are entities."""
    entities = {"&": "#amp;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "#": "#35;"}
    return "".join(entities.get(c, c) for c in " ".join(text.split()))


def _quoted(text: str) -> str:
    escaped = " ".join(text.split()).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
