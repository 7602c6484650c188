"""Show a demonstration as it happens: what is done, what is seen, what came of it.

Takes plain words and numbers and knows nobody it shows. On a terminal it redraws one picture;
elsewhere (a pipe, a log) it writes a line whenever something began or ended.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

State = Literal["waiting", "running", "done", "failed"]
_MARKS: dict[State, tuple[str, str]] = {
    "waiting": ("·", "dim"),
    "running": ("…", "cyan"),
    "done": ("✔", "green"),
    "failed": ("✘", "bold red"),
}
_NUM_EVENTS_SHOWN = 8
_TALL_LINES = 32
_VALUE_CELLS = 22


@dataclass(slots=True)
class _Stage:
    title: str
    state: State = "waiting"
    said: str = ""
    share: float | None = None
    start_s: float = 0.0
    took_s: float = 0.0


@dataclass(slots=True)
class _Row:
    values: tuple[str, ...]
    state: State = "waiting"
    said: str = ""


@dataclass(slots=True)
class _Routine:
    title: str = ""
    steps: list[str] = field(default_factory=list)


class View:
    """Stages from top to bottom, events as they arrive, the routine, and the agent's records."""

    def __init__(
        self, title: str, stages: Mapping[str, str], console: Console | None = None
    ) -> None:
        """Show these stages, name → title, in this order."""
        self._title = title
        self._console = console or Console()
        self._stages = {name: _Stage(text) for name, text in stages.items()}
        self._events: deque[tuple[str, str, str]] = deque(maxlen=_NUM_EVENTS_SHOWN)
        self._num_events = 0
        self._routine = _Routine()
        self._columns: tuple[str, ...] = ()
        self._rows: list[_Row] = []
        self._spinner = Spinner("dots", style="cyan")
        self._start_s = time.monotonic()
        self._live = Live(
            get_renderable=self._draw,
            console=self._console,
            refresh_per_second=6,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        """Start drawing."""
        self._start_s = time.monotonic()
        if self._console.is_terminal:
            self._live.start()
        else:
            self._console.print(self._title)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the last picture standing; what was still running is shown as failed."""
        if error is not None:
            for name, stage in self._stages.items():
                if stage.state == "running":
                    self.end(name, "interrupted", ok=False)
        if self._console.is_terminal:
            self._live.stop()

    def begin(self, name: str, said: str = "") -> None:
        """Say that a stage begins."""
        stage = self._stages[name]
        stage.state, stage.said, stage.start_s = "running", said, time.monotonic()
        self._line("running", stage.title, said)

    def update(self, name: str, said: str, share: float | None = None) -> None:
        """Say how far a stage is; `share` is 0 to 1 where that is known."""
        stage = self._stages[name]
        stage.said, stage.share = said, share

    def end(self, name: str, said: str, *, ok: bool = True) -> None:
        """Say how a stage ended."""
        stage = self._stages[name]
        stage.state, stage.said, stage.share = ("done" if ok else "failed"), said, None
        stage.took_s = time.monotonic() - stage.start_s
        self._line(stage.state, stage.title, f"{said} ({stage.took_s:.1f} s)")

    def event(self, action: str, target: str, value: str = "") -> None:
        """Show an event that arrived."""
        self._num_events += 1
        self._events.append((action, target, value))

    def routine(self, title: str, steps: Sequence[str]) -> None:
        """Show the routine that was found, step by step."""
        self._routine = _Routine(title, list(steps))
        if not self._console.is_terminal:
            for step in steps:
                self._console.print(f"    {step}", markup=False, highlight=False)

    def records(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show the records the agent is to work through."""
        self._columns = tuple(columns)
        self._rows = [_Row(tuple(row)) for row in rows]

    def record(self, number: int, state: State, said: str = "") -> None:
        """Say how it went with one record, counted from 0."""
        row = self._rows[number]
        row.state, row.said = state, said
        if state in ("done", "failed"):
            self._line(state, row.values[0], said)

    def summary(
        self, figures: Sequence[tuple[str, str]], closer: Sequence[tuple[str, str]]
    ) -> None:
        """Write the figures measured, and how to look closer; call it after the last stage."""
        for title, pairs in (("Measured", figures), ("Look closer", closer)):
            table = Table.grid(padding=(0, 3))
            table.add_column(style="dim")
            # A command or an address that is cut cannot be copied.
            table.add_column(overflow="fold")
            for name, value in pairs:
                table.add_row(Text(name), Text(value))
            self._console.print(Rule(title, align="left", style="dim"), table, "")

    def _line(self, state: State, title: str, said: str) -> None:
        if not self._console.is_terminal:
            line = f"{_MARKS[state][0]} {title}" + (f": {said}" if said else "")
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _draw(self) -> RenderableType:
        parts: list[RenderableType] = [self._draw_stages()]
        # On a low screen the records need the room.
        roomy = not self._rows or self._console.height >= _TALL_LINES
        if roomy and (self._events or self._routine.steps):
            beside = Table.grid(expand=True, padding=(0, 1))
            beside.add_column(ratio=1)
            beside.add_column(ratio=1)
            beside.add_row(self._draw_events(), self._draw_routine())
            parts.append(beside)
        if self._rows:
            parts.append(self._draw_records())
        took_s = int(time.monotonic() - self._start_s)
        clock = f"{took_s // 60}:{took_s % 60:02}"
        return Panel(
            Group(*parts),
            title=Text(self._title, style="bold"),
            title_align="left",
            subtitle=Text(clock, style="dim"),
            subtitle_align="right",
            border_style="cyan",
            padding=(1, 2),
        )

    def _draw_stages(self) -> Table:
        table = Table.grid(expand=True, padding=(0, 1))
        table.add_column(width=2)
        table.add_column(no_wrap=True)
        table.add_column(ratio=1, no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        for stage in self._stages.values():
            mark, style = _MARKS[stage.state]
            running = stage.state == "running"
            took_s = time.monotonic() - stage.start_s if running else stage.took_s
            said: RenderableType = Text(stage.said, style="" if running else style)
            if stage.share is not None:
                bar = ProgressBar(total=1.0, completed=stage.share, width=22)
                said = Table.grid(padding=(0, 2))
                said.add_row(bar, Text(stage.said))
            table.add_row(
                self._spinner if running else Text(mark, style=style),
                Text(stage.title, style="dim" if stage.state == "waiting" else "bold"),
                said,
                Text("" if stage.state == "waiting" else f"{took_s:.1f} s", style="dim"),
            )
        return table

    def _draw_events(self) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        table.add_column(style="cyan", no_wrap=True, min_width=8)
        table.add_column(no_wrap=True, overflow="ellipsis")
        table.add_column(style="yellow", no_wrap=True, overflow="ellipsis")
        for action, target, value in list(self._events):  # copied: events arrive while this draws
            table.add_row(Text(action), Text(target), Text(_short(value)))
        head = Text(f"\nEvents seen: {self._num_events:,}", style="dim")
        return Group(head, table)

    def _draw_routine(self) -> RenderableType:
        if not self._routine.steps:
            return Text("")
        table = Table.grid(padding=(0, 1))
        table.add_column(style="dim", justify="right")
        table.add_column(no_wrap=True, overflow="ellipsis")
        for number, step in enumerate(self._routine.steps, 1):
            table.add_row(str(number), Text(step))
        return Group(Text(f"\n{self._routine.title}", style="dim"), table)

    def _draw_records(self) -> RenderableType:
        table = Table(box=None, expand=True, padding=(0, 1), header_style="dim")
        table.add_column(width=1)
        for column in self._columns:
            table.add_column(Text(column), no_wrap=True, overflow="ellipsis")
        table.add_column("")
        for row in self._rows:
            mark, style = _MARKS[row.state]
            first = self._spinner if row.state == "running" else Text(mark, style=style)
            cells = [Text(_short(value)) for value in row.values]
            table.add_row(first, *cells, Text(row.said, style=style))
        return Group(Text(""), table)


def _short(value: str) -> str:
    return value if len(value) <= _VALUE_CELLS else f"{value[: _VALUE_CELLS - 1]}…"
