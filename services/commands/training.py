"""`wat train`: ask for a training and follow it to its end."""

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.commands.naming import short
from services.commands.routines import find_routine
from services.commands.terminal import AsJson, console, show_json, took, write_line
from shared.errors import TrainingError
from shared.topics import Room

if TYPE_CHECKING:
    from services.client import RoomClient

__all__ = ["in_words", "train"]

_ASKED_S = 30.0
"""How long the wish may take from the learner to the trainer."""


def train(
    routine: Annotated[str, typer.Argument(help="Id, the beginning of one, or name.")],
    as_json: AsJson = False,
) -> None:
    """Train a routine's agent and follow it to its end."""
    from services.client import Rooms

    with Rooms() as rooms:
        learner = rooms.ask(Room.TASK_LEARNER)
        routine_id = find_routine(learner, routine)["routine_id"]
        wanted = learner.post(f"routines/{routine_id}/train")
        trainer = rooms.ask(Room.AGENT_TRAINER, works=True)
        training = _training(trainer, routine_id, wanted["revision"])
        lines = trainer.follow(f"trainings/{training['id']}/events")
        _follow(wanted["name"], lines, quiet=as_json)
        training = trainer.get(f"trainings/{training['id']}")
        if training["state"] != "done":
            raise TrainingError(
                f"training {short(training['id'])} {training['state']}: {training['reason']}"
            )
        card = trainer.get(f"models/{routine_id}")
    if as_json:
        show_json(card)
        return
    write_line(
        f"agent {short(card['id'])} is {card['status']} after "
        f"{took(training['ended_ms'] - training['started_ms'])}: {card['size_bytes']} bytes, "
        f"{card['precision']}; `wat models show {short(card['id'])}`"
    )


def _training(trainer: "RoomClient", routine_id: str, revision: int) -> Mapping[str, Any]:
    """Return the training of this revision once the trainer knows of it. Raises TrainingError."""
    deadline = time.monotonic() + _ASKED_S
    while time.monotonic() < deadline:
        for training in trainer.all("trainings", limit=100):
            if (training["routine_id"], training["revision"]) == (routine_id, revision):
                return training
        time.sleep(0.1)
    raise TrainingError(
        f"the trainer has not begun with routine {short(routine_id)}: is it running on this bus "
        "(wat doctor)?"
    )


def _follow(name: str, lines: Iterator[dict[str, Any]], *, quiet: bool) -> None:
    """Show each progress line as it arrives."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    shown = console(stderr=quiet)
    columns = (
        SpinnerColumn(), TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24), TimeElapsedColumn(),
    )  # fmt: skip
    is_live = shown.is_terminal and not quiet
    with Progress(*columns, console=shown, transient=True, disable=not is_live) as progress:
        task = progress.add_task(f"{name}: waiting for the trainer", total=None)
        for line in lines:
            told = in_words(line)
            if line.get("num_epochs"):
                progress.update(task, total=int(line["num_epochs"]), completed=0)
            if line.get("event") == "epoch":
                progress.update(task, completed=int(line["epoch"]))
            progress.update(task, description=f"{name}: {told}")
            if not quiet and not is_live:
                write_line(told)


def in_words(line: Mapping[str, Any]) -> str:
    """Say one progress line: what happens, then its figures."""
    figures = ", ".join(
        f"{key.replace('_', ' ')} {value:g}" if isinstance(value, float) else
        f"{key.replace('_', ' ')} {value}"
        for key, value in line.items()
        if key not in ("event", "sha256") and isinstance(value, str | int | float)
    )  # fmt: skip
    return f"{line.get('event', 'progress')}: {figures}" if figures else str(line.get("event"))
