"""What every command says to a terminal or a script: tables, JSON, and errors in one line.

Loads rich only when something is shown.
"""

import json
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from shared.errors import WatError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "AsJson",
    "WatGroup",
    "ago",
    "ask",
    "console",
    "ended_by_signals",
    "say_error",
    "show_json",
    "show_table",
    "took",
    "write_line",
]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a script.")]

_INTERRUPTED = 128 + signal.SIGINT


class WatGroup(TyperGroup):
    """Commands in the order they are written; errors become one line and an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Keep the order of registration."""
        return list(self.commands)

    def invoke(self, ctx: Any) -> Any:
        """Run the command: 1 for an error that says what to do, 130 for Ctrl-C."""
        try:
            return super().invoke(ctx)
        except WatError as error:
            say_error(error)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(_INTERRUPTED) from error
        except BrokenPipeError as error:  # the reader of our output went away: `| head`
            sys.stderr.close()
            raise typer.Exit(1) from error


def console(*, stderr: bool = False) -> "Console":
    """Return a console on standard output, or on standard error."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def say_error(error: BaseException) -> None:
    """Show an error on standard error: one line, without markup."""
    typer.echo(f"wat: {' '.join(str(error).split())}", err=True)


def write_line(text: str) -> None:
    """Write a line to standard output as it is."""
    typer.echo(text)


def show_json(value: Any) -> None:
    """Write a value as indented JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Show rows under their columns, or `empty` where there are none; cells are plain text."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = [[Text("" if cell is None else str(cell)) for cell in row] for row in rows]
    if not shown:
        typer.echo(empty)
        return
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in shown:
        table.add_row(*row)
    console().print(table)


def ask(question: str) -> bool:
    """Ask a person yes or no; no where nobody can answer."""
    if not sys.stdin.isatty():
        return False
    return typer.confirm(question, default=False)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM, and SIGHUP of a closed terminal, end what is under way as Ctrl-C does."""
    signals = (signal.SIGTERM, signal.SIGHUP)

    def interrupt(_: int, __: FrameType | None) -> NoReturn:
        for name in signals:  # a second one must not cut off the ending
            signal.signal(name, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {name: signal.signal(name, interrupt) for name in signals}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def took(duration_ms: float) -> str:
    """Return a duration as a person says it."""
    seconds = duration_ms / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def ago(time_ms: int | None) -> str:
    """Return how long ago a moment (epoch, ms) was; nothing where there was none."""
    return "" if time_ms is None else f"{took(max(0.0, time.time() * 1000 - time_ms))} ago"
