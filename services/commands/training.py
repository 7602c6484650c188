"""`wat routines train` and `wat trainings`: ask for one, follow, cancel and look back on it."""

import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.commands.naming import pick, short
from services.commands.routines import find_routine
from services.commands.terminal import (
    AsJson,
    WatGroup,
    ago,
    console,
    show_json,
    show_table,
    took,
    write_line,
)
from shared.errors import ConfigError, TrainingError
from shared.topics import Room

if TYPE_CHECKING:
    from services.client import RoomClient

__all__ = ["app", "in_words", "train"]

app = typer.Typer(cls=WatGroup, help="List, follow and cancel trainings; write their logs.")

Named = Annotated[
    str,
    typer.Argument(metavar="TRAINING", help="Its id, a beginning of it, or its routine's name."),
]

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


@app.callback(invoke_without_command=True)
def trainings(context: typer.Context, as_json: AsJson = False) -> None:
    """List trainings, the newest first."""
    from services.client import Rooms

    if context.invoked_subcommand is not None:
        return
    with Rooms() as rooms:
        found = rooms.ask(Room.AGENT_TRAINER).all("trainings")
    if as_json:
        show_json(found)
        return
    show_table(
        ("id", "routine", "revision", "state", "asked", "why"),
        (
            (short(t["id"]), t["name"], t["revision"], t["state"], ago(t["asked_ms"]), t["reason"])
            for t in found
        ),
        "no training yet: approve a routine (wat routines approve ROUTINE)",
    )


@app.command()
def follow(training: Named) -> None:
    """Follow a training to its end, wherever it was asked for."""
    from services.client import Rooms

    with Rooms() as rooms:
        trainer = rooms.ask(Room.AGENT_TRAINER, works=True)
        found = _find(trainer, training)
        _follow(found["name"], trainer.follow(f"trainings/{found['id']}/events"), quiet=False)


@app.command()
def cancel(training: Named) -> None:
    """End a training; the model before it stays, and `wat routines train` goes on with it."""
    from services.client import Rooms

    with Rooms() as rooms:
        trainer = rooms.ask(Room.AGENT_TRAINER)
        found = _find(trainer, training)
        trainer.post(f"trainings/{found['id']}/cancel")
    write_line(f"training {short(found['id'])} of {found['name']} ends")


@app.command()
def logs(
    folder: Annotated[Path, typer.Argument(help="Where to write them, one folder a training.")],
) -> None:
    """Write the figures of all trainings for TensorBoard (tensorboard --logdir FOLDER)."""
    from services.client import Rooms

    with Rooms() as rooms:
        trainer = rooms.ask(Room.AGENT_TRAINER)
        found = trainer.all("trainings")
        for training in found:
            name = re.sub(r"[^\w-]+", "-", training["name"]).strip("-")[:60]
            path = folder / f"{name}-{short(training['id'])}"
            data = trainer.download(f"trainings/{training['id']}/tensorboard")
            try:
                path.mkdir(parents=True, exist_ok=True)
                file = path / f"events.out.tfevents.{training['asked_ms'] // 1000}.wat"
                file.write_bytes(data)
            except OSError as error:
                raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    write_line(f"{folder}: {len(found)} trainings; tensorboard --logdir {folder}")


def _find(trainer: "RoomClient", wanted: str) -> Mapping[str, Any]:
    return pick(trainer.all("trainings"), wanted, "training", ("id", "routine_id"), "name")


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
        if key not in ("event", "sha256", "time_ms") and isinstance(value, str | int | float)
    )  # fmt: skip
    return f"{line.get('event', 'progress')}: {figures}" if figures else str(line.get("event"))
