"""`wat run`, `runs`, `approve`, `reject`, `stop`: let an agent work, and look on."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.commands.naming import pick, short
from services.commands.routines import find_routine
from services.commands.terminal import (
    AsJson,
    WatGroup,
    ago,
    ask,
    console,
    ended_by_signals,
    show_json,
    show_table,
    took,
    write_line,
)  # fmt: skip
from shared.errors import ConfigError, NotFound
from shared.topics import Room

if TYPE_CHECKING:
    from services.client import RoomClient, Rooms

__all__ = ["app", "approve", "reject", "run", "stop"]

app = typer.Typer(cls=WatGroup, help="List runs, and show one with every step of its evidence.")

_ENDED = ("done", "stopped", "failed", "cancelled", "in-doubt")
_LOOK_S = 0.25

RunNamed = Annotated[str, typer.Argument(metavar="RUN", help="Id, or the beginning of one.")]


def run(
    routine: Annotated[str, typer.Argument(help="Id, the beginning of one, or name.")],
    records: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="One record a line; its header names parameters."),
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A value of a single record.")
    ] = None,
    from_screen: Annotated[
        bool, typer.Option("--from-screen", help="Read what is not given from the first page.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Work on the first N records only.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Decide and write down; links are followed, nothing else is done."
        ),
    ] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Go on after a record that did not end well.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Approve what it needs, for this run.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Let an agent do its routine; ends with 0 only if every record is done."""
    from services.client import Rooms

    body = {
        **_values(records, param, from_screen=from_screen),
        "from_screen": from_screen,
        "limit": limit,
        "dry_run": dry_run,
        "keep_going": keep_going,
    }
    with Rooms() as rooms, ended_by_signals():
        runner = rooms.ask(Room.AGENT_RUNNER, works=True)
        agent = pick(runner.all("models"), routine, "agent", ("routine_id",), "name")
        asked = runner.post("runs", {"routine_id": agent["routine_id"], **body})
        with _stopped_unless_followed(runner, asked):
            if asked["state"] == "waiting":
                _decide(runner, asked, yes=yes)
            ended = _follow(runner, asked, quiet=as_json)
    _show_outcome(ended, as_json=as_json)


@contextmanager
def _stopped_unless_followed(runner: "RoomClient", asked: Mapping[str, Any]) -> Iterator[None]:
    """Stop the run where it is followed no more: nothing goes on that nobody looks at."""
    try:
        yield
    except BaseException:  # Ctrl-C too
        runner.post(f"runs/{asked['run_id']}/stop")
        raise


def _values(records: Path | None, param: list[str] | None, *, from_screen: bool) -> dict[str, Any]:
    """Return the part of the request that carries values."""
    if records is not None and param:
        raise typer.BadParameter("give a file or single values, not both", param_hint="--param")
    if records is not None:
        try:
            return {"csv": records.read_text(encoding="utf-8-sig")}
        except OSError as error:
            raise ConfigError(f"{records} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{records} is not UTF-8: save it as UTF-8") from error
    if param:
        pairs = [text.partition("=") for text in param]
        wrong = next((name for name, sign, _ in pairs if not sign or not name), None)
        if wrong is not None:
            raise typer.BadParameter(f"write {wrong or 'NAME'}=VALUE", param_hint="--param")
        return {"params": {name.strip(): value for name, _, value in pairs}}
    if from_screen:
        return {}
    raise typer.BadParameter(
        "say what to work on: --records FILE.csv, --param NAME=VALUE or --from-screen",
        param_hint="--records",
    )


def _decide(runner: "RoomClient", asked: Mapping[str, Any], *, yes: bool) -> None:
    """Ask a person for what the run lacks; reject it where they say no."""
    shown = console(stderr=True)
    shown.print(f"The agent for {asked['name']} asks to", asked["lacks"], markup=False, sep=" ")
    shown.print(
        f"It would work on {_records(asked['num_records'])} now. Only that, and only this run.",
        markup=False,
    )
    if yes or ask("Let it?"):
        runner.post(f"runs/{asked['run_id']}/approve", {"scope": "once"})
        return
    runner.post(f"runs/{asked['run_id']}/reject")
    write_line(f"run {short(asked['run_id'])} was rejected: say yes in a terminal, or give --yes")
    raise typer.Exit(1)


def _records(count: int) -> str:
    return "1 record" if count == 1 else f"{count} records"


def _follow(runner: "RoomClient", asked: Mapping[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Show a run's progress until it has ended; return it with all its records."""
    from rich.progress import Progress

    path = f"runs/{asked['run_id']}"
    with Progress(console=console(stderr=True), transient=True, disable=quiet) as progress:
        task = progress.add_task(f"{short(asked['run_id'])} asked", total=asked["num_records"])
        while True:
            now = runner.get(path, limit=1)
            ended = sum(now["num_by_state"].get(state, 0) for state in _ENDED)
            progress.update(
                task, completed=ended, total=now["num_records"],
                description=f"{short(now['run_id'])} {now['state']}",
            )  # fmt: skip
            if now["state"] in _ENDED:
                return _whole(runner, now["run_id"])
            time.sleep(_LOOK_S)


def _whole(runner: "RoomClient", run_id: str) -> dict[str, Any]:
    """Return a run with every record and step, as one object."""
    found = dict(runner.get(f"runs/{run_id}", limit=200))
    page = found.pop("records")
    records = page["items"]
    while page.get("next"):
        page = runner.get(f"runs/{run_id}", limit=200, cursor=page["next"])["records"]
        records += page["items"]
    return {**found, "records": records}


def _show_outcome(ended: Mapping[str, Any], *, as_json: bool) -> None:
    """Show each record's outcome; exit with 1 unless all are done."""
    if as_json:
        show_json(ended)
    else:
        _show_records(ended)
        if ended["dry_run"]:
            for record in ended["records"]:
                _show_steps(record)
        write_line(_summary(ended))
    records = ended["records"]
    if ended["state"] != "done" or any(record["state"] != "done" for record in records):
        raise typer.Exit(1)


def _summary(found: Mapping[str, Any]) -> str:
    done = found["num_by_state"].get("done", 0)
    why = f": {found['reason']}" if found["reason"] else ""
    dry = ", dry run: nothing was changed" if found["dry_run"] else ""
    return (
        f"run {short(found['run_id'])} {found['state']}{why}; "
        f"{done} of {_records(found['num_records'])} done{dry}"
    )


def _show_records(found: Mapping[str, Any]) -> None:
    show_table(
        ("record", "outcome", "steps", "took", "values", "why"),
        (
            (
                record["record_index"] + 1, record["state"], record["num_steps"],
                _duration(record),
                ", ".join(f"{k}={v}" for k, v in record["parameters"].items()),
                record["reason"],
            )
            for record in found["records"]
        ),
        "it has no record",
    )  # fmt: skip


def _duration(timed: Mapping[str, Any]) -> str:
    if timed["started_ms"] is None or timed["ended_ms"] is None:
        return ""
    return took(timed["ended_ms"] - timed["started_ms"])


def _show_steps(record: Mapping[str, Any]) -> None:
    write_line(f"record {record['record_index'] + 1}")
    show_table(
        ("", "decided", "step", "value of", "sure by", "came", "note"),
        (
            (
                step["step_index"] + 1, step["status"],
                " ".join(filter(None, (step["op"], step["key"], step["role"], step["label"]))),
                step["slot"], "" if step["margin"] is None else f"{step['margin']:.2f}",
                step["came"], step["note"],
            )
            for step in record["steps"]
        ),
        "it took no step",
    )  # fmt: skip


@app.callback(invoke_without_command=True)
def runs(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="The newest N.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List runs, the newest first."""
    if context.invoked_subcommand is None:
        _list(limit, as_json)


@app.command("list")
def list_runs(
    limit: Annotated[int, typer.Option(min=1, help="The newest N.")] = 20, as_json: AsJson = False
) -> None:
    """List runs, the newest first."""
    _list(limit, as_json)


def _list(limit: int, as_json: bool) -> None:
    from services.client import Rooms

    with Rooms() as rooms:
        found = rooms.ask(Room.AGENT_RUNNER).all("runs", limit)
    if as_json:
        show_json(found)
        return
    show_table(
        ("id", "routine", "state", "done", "of", "dry", "asked", "took", "why"),
        (
            (
                short(line["run_id"]), line["name"], line["state"],
                line["num_by_state"].get("done", 0), line["num_records"],
                "yes" if line["dry_run"] else "", ago(line["asked_ms"]), _duration(line),
                line["lacks"] or line["reason"],
            )
            for line in found
        ),
        "no run yet: wat run ROUTINE --records FILE.csv --dry-run",
    )  # fmt: skip


@app.command()
def show(run_id: RunNamed, as_json: AsJson = False) -> None:
    """Show a run: each record, and each step with what the agent saw, decided and did."""
    from services.client import Rooms

    with Rooms() as rooms:
        runner = rooms.ask(Room.AGENT_RUNNER)
        found = _whole(runner, _find(runner, run_id)["run_id"])
    if as_json:
        show_json(found)
        return
    write_line(f"{found['name']}, asked {ago(found['asked_ms'])}, agent {short(found['model_id'])}")
    write_line(f"may {', '.join(found['ops'])} on {', '.join(found['origins'])}")
    if found["lacks"]:
        write_line(f"waits for your approval to {found['lacks']}")
    for record in found["records"]:
        _show_steps(record)
    _show_records(found)
    write_line(_summary(found))


def _find(runner: "RoomClient", wanted: str) -> Mapping[str, Any]:
    return pick(runner.all("runs"), wanted, "run", ("run_id",))


def approve(
    what: Annotated[
        str, typer.Argument(metavar="RUN|ROUTINE", help="A run that waits, or a routine.")
    ],
    always: Annotated[
        bool, typer.Option("--always", help="Of a run: let its agent do this until revoked.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Let a waiting run begin, or have an agent trained for a routine."""
    from services.client import Rooms

    with Rooms() as rooms, ended_by_signals():
        runner = rooms.ask(Room.AGENT_RUNNER, works=True)
        try:
            asked = _find(runner, what)
        except NotFound:
            _approve_routine(rooms, what)
            return
        scope = "always" if always else "once"
        asked = runner.post(f"runs/{asked['run_id']}/approve", {"scope": scope})
        if Room.AGENT_RUNNER not in rooms.started:
            write_line(f"run {short(asked['run_id'])} of {asked['name']} begins")
            return
        with _stopped_unless_followed(runner, asked):  # it lives no longer than we do
            ended = _follow(runner, asked, quiet=as_json)
    _show_outcome(ended, as_json=as_json)


def _approve_routine(rooms: "Rooms", what: str) -> None:
    learner = rooms.ask(Room.TASK_LEARNER)
    try:
        routine_id = find_routine(learner, what)["routine_id"]
    except NotFound as error:
        raise NotFound(f"there is neither a run nor a routine {what}: `wat runs`, `wat routines`"
                       ) from error  # fmt: skip
    found = learner.post(f"routines/{routine_id}/approve")
    write_line(f"{found['name']} ({short(routine_id)}) is {found['status']}: an agent is trained")


def reject(run_id: RunNamed) -> None:
    """End a run that waits for approval."""
    from services.client import Rooms

    with Rooms() as rooms:
        runner = rooms.ask(Room.AGENT_RUNNER)
        found = runner.post(f"runs/{_find(runner, run_id)['run_id']}/reject")
    write_line(f"run {short(found['run_id'])} of {found['name']} is {found['state']}")


def stop(
    run_id: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Which run; none given: every run.")
    ] = None,
) -> None:
    """Stop a run, or all of them at once; when this has answered they do nothing any more."""
    from services.client import Rooms

    with Rooms() as rooms:
        runner = rooms.ask(Room.AGENT_RUNNER)
        if run_id is None:
            stopped = runner.post("stop")["run_ids"]
        else:
            stopped = [runner.post(f"runs/{_find(runner, run_id)['run_id']}/stop")["run_id"]]
    write_line(f"stopped: {', '.join(map(short, stopped))}" if stopped else "nothing was running")
