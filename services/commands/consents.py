"""`wat consent`: what may be captured, since when, and what never is."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from services.commands.naming import pick, short
from services.commands.terminal import (
    AsJson,
    WatGroup,
    ago,
    ask,
    console,
    show_json,
    show_table,
    write_line,
)  # fmt: skip
from shared.errors import ConsentMissing
from shared.topics import Room

if TYPE_CHECKING:
    from services.client import RoomClient

__all__ = ["ExclusionKind", "Level", "Source", "app", "ask_for_consent"]

app = typer.Typer(cls=WatGroup, help="What may be captured, since when, and what never is.")

Level = Literal["structure", "values"]
Source = Literal["input", "window", "browser", "replay"]
ExclusionKind = Literal["application", "title", "url"]

_CAPTURED: dict[str, str] = {
    "input": "mouse clicks and scrolling, navigation keys and hot-keys, how many keys are typed; "
    "never which characters",
    "window": "which application's window is active, and its title",
    "browser": "what you do in the tabs of the browser that is watched: clicks, fields you fill "
    "in, choices, copying and pasting, addresses, and the visible elements before each act",
    "replay": "the events of the log you give",
}
_LEVELS: dict[Level, str] = {
    "structure": "names of controls (buttons, menus, tabs, columns, field labels) in clear; "
    "titles, texts, addresses beyond their start, and values only as a kind and a keyed hash; "
    "an agent cannot be trained on this",
    "values": "also titles, texts, addresses and the values you enter, in clear, on this machine; "
    "needed to train an agent",
}
_NEVER = "Never kept: passwords and other secret fields, card numbers, keys and tokens."


@app.callback(invoke_without_command=True)
def consent(context: typer.Context, as_json: AsJson = False) -> None:
    """List what is allowed and what is excluded."""
    if context.invoked_subcommand is None:
        _list(revoked=False, as_json=as_json)


@app.command("list")
def list_consents(
    revoked: Annotated[bool, typer.Option("--revoked", help="Also what no longer holds.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what is allowed and what is excluded."""
    _list(revoked=revoked, as_json=as_json)


def _list(*, revoked: bool, as_json: bool) -> None:
    from services.client import Rooms

    with Rooms() as rooms:
        monitor = rooms.ask(Room.USER_MONITOR)
        given = monitor.all("consents", revoked=str(revoked).lower())
        excluded = monitor.all("exclusions")
    if as_json:
        show_json({"consents": given, "exclusions": excluded})
        return
    show_table(
        ("id", "application", "source", "level", "address", "keeps", "attach to", "since", "until"),
        (
            (
                short(c["id"]), c["application"], c["source"] or "every", c["level"], c["url"],
                ", ".join(c["keep"]), c["attach_url"], ago(c["since_ms"]), ago(c["revoked_ms"]),
            )
            for c in given
        ),
        "nothing is allowed, so nothing is captured: wat consent give",
    )  # fmt: skip
    show_table(
        ("id", "never captured", "pattern", "since"),
        ((short(e["id"]), e["kind"], e["pattern"], ago(e["since_ms"])) for e in excluded),
        "nothing is excluded",
    )


@app.command()
def give(
    application: Annotated[
        str, typer.Option(help="The application's name (a browser's: the page's origin), or *.")
    ] = "*",
    source: Annotated[Source | None, typer.Option(help="Only this source.")] = None,
    level: Annotated[Level, typer.Option(help="How much is kept of texts.")] = "structure",
    url: Annotated[
        str | None, typer.Option(help="Only at addresses like this; * and ? stand for anything.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="email|phone|iban", help="Personal data to keep in clear; may be repeated."
        ),
    ] = None,
    attach: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A debugging port that may be attached to, by name."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Allow capture from now on, until it is revoked."""
    from services.client import Rooms

    body = {
        "application": application, "source": "browser" if attach else source, "level": level,
        "url": url, "keep": keep or [], "attach_url": attach,
    }  # fmt: skip
    with Rooms() as rooms:
        given = rooms.ask(Room.USER_MONITOR).post("consents", body)
    if as_json:
        show_json(given)
        return
    _say_what(given["source"], given["level"])
    write_line(f"consent {short(given['id'])} holds; `wat consent revoke {short(given['id'])}`")


@app.command()
def revoke(
    consent_id: Annotated[str, typer.Argument(metavar="ID", help="Id, or its beginning.")],
) -> None:
    """Take a consent back; what rests on it and is not yet published is dropped."""
    _drop("consent", consent_id)


@app.command()
def exclude(
    kind: Annotated[ExclusionKind, typer.Argument(help="What the pattern is compared with.")],
    pattern: Annotated[str, typer.Argument(help="A part of it, or with * and ? all of it.")],
) -> None:
    """Never capture what fits, whatever is allowed."""
    from services.client import Rooms

    with Rooms() as rooms:
        body = {"kind": kind, "pattern": pattern}
        found = rooms.ask(Room.USER_MONITOR).post("exclusions", body)
    write_line(f"exclusion {short(found['id'])} holds: {kind} like {pattern}")


@app.command()
def include(
    exclusion_id: Annotated[str, typer.Argument(metavar="ID", help="Id, or its beginning.")],
) -> None:
    """Drop an exclusion, so that consents decide again."""
    _drop("exclusion", exclusion_id)


def _drop(noun: str, begin: str) -> None:
    """Delete the consent or exclusion whose id begins so."""
    from services.client import Rooms

    with Rooms() as rooms:
        monitor = rooms.ask(Room.USER_MONITOR)
        found = pick(monitor.all(f"{noun}s"), begin, noun, ("id",))
        monitor.delete(f"{noun}s/{found['id']}")
    write_line(f"{noun} {short(found['id'])} holds no more")


def ask_for_consent(
    monitor: "RoomClient", source: str, level: Level, attach_url: str | None = None
) -> None:
    """Where no consent covers `source`, ask a person for one, by name. Raises ConsentMissing."""
    given_levels = {
        given["level"] for given in monitor.all("consents") if _covers(given, source, attach_url)
    }
    if given_levels:
        if level == "values" and level not in given_levels:
            console(stderr=True).print(
                f"Note: what you allowed of source {source} keeps structure only; no agent can be "
                f"trained on it. `wat consent give --source {source} --level values` allows more.",
                markup=False,
            )
        return
    _say_what(source, level)
    if attach_url is not None:
        console(stderr=True).print(
            f"It attaches to the debugging port {attach_url}; while that port is open, any "
            "program on this machine can drive that browser.",
            markup=False,
        )
    if not ask(f"Allow source {source} at level {level}, until you revoke it?"):
        more = f" --attach {attach_url}" if attach_url else ""
        raise ConsentMissing(
            f"no consent covers source {source}: "
            f"`wat consent give --source {source} --level {level}{more}` gives one"
        )
    body = {"source": source, "level": level, "attach_url": attach_url}
    given = monitor.post("consents", body)
    write_line(f"consent {short(given['id'])} holds; `wat consent revoke {short(given['id'])}`")


def _covers(given: Mapping[str, Any], source: str, attach_url: str | None) -> bool:
    if attach_url is not None:
        return bool(given["attach_url"] == attach_url)
    return given["source"] in (None, source)


def _say_what(source: str | None, level: Level) -> None:
    """Say exactly what is captured, and at which level."""
    shown = console(stderr=True)
    for name in (source,) if source else _CAPTURED:
        shown.print(f"Source {name} captures {_CAPTURED[name]}.", markup=False)
    shown.print(f"Level {level} keeps {_LEVELS[level]}.", markup=False)
    shown.print(_NEVER, markup=False)
