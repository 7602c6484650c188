"""`wat models`: trained agents and adapters, their cards and their files."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.commands.naming import pick, short
from services.commands.terminal import (
    AsJson,
    WatGroup,
    ago,
    ask,
    show_json,
    show_table,
    write_line,
)  # fmt: skip
from shared.errors import ConfigError
from shared.topics import Room

if TYPE_CHECKING:
    from services.client import RoomClient

__all__ = ["app"]

app = typer.Typer(cls=WatGroup, help="List, show, export, import and delete trained models.")

_EXPORTS = {".wasm": "module", ".safetensors": "weights", ".onnx": "onnx", ".json": "config"}

Named = Annotated[
    str, typer.Argument(metavar="MODEL", help="Its id or its routine's, a beginning, or name.")
]


def _find(trainer: "RoomClient", wanted: str) -> Mapping[str, Any]:
    return pick(trainer.all("models"), wanted, "model", ("id", "subject_id"), "name")


@app.callback(invoke_without_command=True)
def models(context: typer.Context, as_json: AsJson = False) -> None:
    """List models, the newest first."""
    if context.invoked_subcommand is None:
        _list(as_json)


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List models, the newest first."""
    _list(as_json)


def _list(as_json: bool) -> None:
    from services.client import Rooms

    with Rooms() as rooms:
        cards = rooms.ask(Room.AGENT_TRAINER).all("models")
    if as_json:
        show_json(cards)
        return
    show_table(
        ("id", "kind", "name", "status", "made", "size", "why"),
        (
            (
                short(card["id"]), card["kind"], card["name"], card["status"],
                ago(card["time_ms"]), _size(card.get("size_bytes")), card.get("reason"),
            )
            for card in cards
        ),
        "no model yet: approve a routine (wat routines approve ROUTINE)",
    )  # fmt: skip


@app.command()
def show(model: Named, as_json: AsJson = False) -> None:
    """Show a model's card: what it was made from, and how well it does."""
    from services.client import Rooms

    with Rooms() as rooms:
        card = _find(rooms.ask(Room.AGENT_TRAINER), model)
    if as_json:
        show_json(card)
        return
    plain = {k: v for k, v in card.items() if k not in ("metrics", "curves", "options")}
    shown = {k: ", ".join(v) if isinstance(v, list) else v for k, v in plain.items()}
    show_table(("card", ""), shown.items(), "the card is empty")
    figures = {k: f"{v:g}" for k, v in card.get("metrics", {}).items()}
    show_table(("measured", ""), figures.items(), "nothing was measured")


@app.command("export")
def export_model(
    model: Named,
    file: Annotated[
        Path, typer.Argument(help="Where to write it: .wasm, .safetensors, .onnx or .json.")
    ],
) -> None:
    """Write a model to a file; its ending says as what.

    `.wasm` is the signed module, `.safetensors` the weights with what they mean in a `.json` of
    the same name beside them, `.onnx` the network for other tools, `.json` the meaning alone.
    """
    from services.client import Rooms

    if file.suffix not in _EXPORTS:
        raise ConfigError(f"{file} ends in none of {', '.join(_EXPORTS)}: name the format by it")
    with Rooms() as rooms:
        trainer = rooms.ask(Room.AGENT_TRAINER)
        card = _find(trainer, model)
        files = {file: trainer.download(f"models/{card['id']}/{_EXPORTS[file.suffix]}")}
        if file.suffix == ".safetensors":
            files[file.with_suffix(".json")] = trainer.download(f"models/{card['id']}/config")
    for path, data in files.items():
        try:
            path.write_bytes(data)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
        write_line(f"{path}: {_size(len(data))}, agent {card['name']}")


@app.command("import")
def import_model(
    file: Annotated[Path, typer.Argument(help="A module that was exported.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the model that the routine has.")
    ] = False,
) -> None:
    """Take in a module that was made elsewhere; it is checked, and its signer is asked about."""
    from services.client import Rooms

    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    with Rooms() as rooms:
        trainer = rooms.ask(Room.AGENT_TRAINER)
        card = trainer.upload("models/import", data, replace=str(replace).lower())
    write_line(f"agent {card['name']} ({short(card['id'])}) is {card['status']}")
    if card.get("signer"):
        write_line(
            f"signed by {card['signer']}; if that key is not yours the agent runs only after "
            f"`wat models trust {card['signer']} --name WHOSE`"
        )


@app.command()
def trust(
    public_key: Annotated[str, typer.Argument(metavar="KEY", help="The signer's public key.")],
    name: Annotated[str, typer.Option(help="Whose it is.")],
) -> None:
    """Let modules run that this key signed; each still asks before it acts."""
    from services.client import Rooms

    with Rooms() as rooms:
        key = rooms.ask(Room.AGENT_RUNNER).post(
            "trusted-keys", {"public_key": public_key, "name": name}
        )
    write_line(f"modules signed by {key['name']} ({short(key['public_key'])}) may run")


@app.command()
def distrust(
    public_key: Annotated[str, typer.Argument(metavar="KEY", help="Its public key.")],
) -> None:
    """Let modules that this key signed run no more."""
    from services.client import Rooms

    with Rooms() as rooms:
        rooms.ask(Room.AGENT_RUNNER).delete(f"trusted-keys/{public_key}")
    write_line(f"modules signed by {short(public_key)} run no more")


@app.command()
def delete(
    model: Named, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False
) -> None:
    """Delete a model and its files."""
    from services.client import Rooms

    with Rooms() as rooms:
        trainer = rooms.ask(Room.AGENT_TRAINER)
        card = _find(trainer, model)
        if not yes and not ask(f"delete the model of {card['name']} ({short(card['id'])})?"):
            write_line("nothing was deleted: say yes, or give --yes")
            raise typer.Exit(1)
        trainer.delete(f"models/{card['id']}")
    write_line(f"deleted {card['name']} ({short(card['id'])})")


def _size(num_bytes: int | None) -> str:
    return "" if num_bytes is None else f"{num_bytes / 1024:.0f} KiB"
