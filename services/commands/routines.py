"""`wat routines`: what was found or taught, and what a person decides about it."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from services.commands.naming import pick, short
from services.commands.terminal import AsJson, WatGroup, show_json, show_table, took, write_line
from shared.errors import ConfigError
from shared.topics import Room

if TYPE_CHECKING:
    from services.client import RoomClient

__all__ = ["app", "find_routine", "left_out"]

app = typer.Typer(
    cls=WatGroup,
    help="List and show routines; approve, ignore, rename, merge, split, train, export.",
)

Named = Annotated[str, typer.Argument(metavar="ROUTINE", help="Id, the beginning of one, or name.")]


def find_routine(learner: "RoomClient", wanted: str) -> Mapping[str, Any]:
    """Return the line of the routine that a person means. Raises NotFound, ConflictError."""
    return pick(learner.all("routines"), wanted, "routine", ("routine_id",), "name")


@app.callback(invoke_without_command=True)
def routines(context: typer.Context, as_json: AsJson = False) -> None:
    """List routines, those first that would save most time."""
    if context.invoked_subcommand is None:
        _list(as_json)


@app.command("list")
def list_routines(as_json: AsJson = False) -> None:
    """List routines, those first that would save most time."""
    _list(as_json)


def _list(as_json: bool) -> None:
    from services.client import Rooms

    with Rooms() as rooms:
        found = rooms.ask(Room.TASK_LEARNER).all("routines")
    if as_json:
        show_json(found)
        return
    show_table(
        ("id", "name", "status", "origin", "seen", "steps", "takes", "saves", "parameters"),
        (
            (
                short(line["routine_id"]), line["name"], line["status"], line["origin"],
                f"{line['support']} times", line["num_steps"], took(line["median_ms"]),
                f"{took(line['saves_ms_a_week'])} a week" if line["saves_ms_a_week"] else "",
                ", ".join(line["parameters"]),
            )
            for line in found
        ),
        "no routine yet: record some work (wat record), or teach one (wat record --teach NAME)",
    )  # fmt: skip
    if found and not any(line["status"] in ("proposed", "approved") for line in found):
        write_line("nothing is worth an agent yet; `wat routines show ROUTINE` says why")


@app.command()
def show(
    routine: Named,
    trace: Annotated[
        str | None, typer.Option(metavar="ID", help="Show every event of this trace.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a routine: its steps, its parameters and its traces."""
    from services.client import Rooms

    with Rooms() as rooms:
        learner = rooms.ask(Room.TASK_LEARNER)
        routine_id = find_routine(learner, routine)["routine_id"]
        found = learner.get(f"routines/{routine_id}")
        if trace is not None:
            trace_id = pick(found["traces"], trace, "trace", ("trace_id",))["trace_id"]
            found = learner.get(f"routines/{routine_id}/traces/{trace_id}")
    if as_json:
        show_json(found)
    elif trace is not None:
        _show_trace(found)
    else:
        _show_routine(found)


def _show_routine(found: Mapping[str, Any]) -> None:
    write_line(f"{found['name']}  ({found['routine_id']}, revision {found['revision']})")
    write_line(
        f"{found['status']}, {found['origin']}, seen {found['support']} times, about "
        f"{took(found['median_ms'])} each, level {found['level']}, "
        f"in {', '.join(found['applications'])}"
    )
    show_table(
        ("", "step", "on", "named", "with", "in"),
        (
            (
                number, step["action"], step.get("role"), step.get("label"), _value_of(step),
                f"{step['coverage']:.0%}",
            )
            for number, step in enumerate(found["steps"], start=1)
        ),
        "it has no step",
    )  # fmt: skip
    for line in left_out(found):
        write_line(line)
    if found.get("not_proposed"):
        write_line(f"not proposed: {found['not_proposed']}")
    if (figures := found.get("automatability")) is not None:
        _show_automatability(figures)
    show_table(
        ("parameter", "from", "kind", "labelled", "read at"),
        (
            (p["name"], _origin_of(p), p["value_class"], p.get("label"), p.get("document"))
            for p in found["parameters"]
        ),
        "it has no parameter",
    )
    show_table(
        ("trace", "session", "took"),
        (
            (short(t["trace_id"]), short(t["session"]), took(t["ended_ms"] - t["started_ms"]))
            for t in found["traces"]
        ),
        "it has no trace",
    )


def left_out(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each step that only some demonstrations of a routine have."""
    for step in found.get("left_out") or ():
        what = " ".join(filter(None, (step["action"], step.get("role"), step.get("label"))))
        yield (
            f"left out: {what}, in {step['coverage']:.0%} of the demonstrations; 80% are needed: "
            "if it is a step, show it again"
        )


def _show_automatability(figures: Mapping[str, Any]) -> None:
    write_line(
        f"an agent would have got {figures['step_rate']:.0%} of the steps right and done "
        f"{figures['run_rate']:.0%} of the newest {figures['num_held_out']} to the end (80 % "
        f"interval {figures['run_low']:.0%} to {figures['run_high']:.0%}), which saves about "
        f"{took(figures['saves_ms_a_week'])} a week"
    )
    write_line(
        f"next step {figures['branching']:.0%}, values {figures['values']:.0%}, named elements "
        f"{figures['selectors']:.0%}, usual beginning {figures['trigger']:.0%}, "
        f"{figures['num_side_effects']} steps change what is stored"
    )


def _origin_of(parameter: Mapping[str, Any]) -> str:
    if parameter.get("programme") is None:
        return str(parameter["source"])
    from shared.schemas import Programme
    from shared.transforms import describe

    return describe(Programme.model_validate(parameter["programme"]))


def _value_of(step: Mapping[str, Any]) -> str:
    if step.get("parameter"):
        return f"<{step['parameter']}>"
    return "" if step.get("constant") is None else repr(step["constant"])


def _show_trace(found: Mapping[str, Any]) -> None:
    for name, value in found["parameters"].items():
        write_line(f"{name} = {value}")
    show_table(
        ("", "action", "on", "named", "value"),
        (
            (
                event["seq"], event["action"], _part(event, "role"),
                _part(event, "label") or _text(_part(event, "name")), _text(event.get("value")),
            )
            for event in found["events"]
        ),
        "it has no event",
    )  # fmt: skip


def _part(event: Mapping[str, Any], name: str) -> Any:
    return (event.get("element") or {}).get(name)


def _text(text: Mapping[str, Any] | None) -> str:
    """Return a Text as it was kept: clear, or only its class."""
    if text is None:
        return ""
    clear = text.get("clear")
    return f"({text.get('cls')})" if clear is None else str(clear)


def _decide(routine: str, decision: str, body: object = None) -> None:
    from services.client import Rooms

    with Rooms() as rooms:
        learner = rooms.ask(Room.TASK_LEARNER)
        routine_id = find_routine(learner, routine)["routine_id"]
        found = learner.post(f"routines/{routine_id}/{decision}", body)
    write_line(f"{found['name']} ({short(routine_id)}) is {found['status']}")


@app.command()
def export(
    routine: Named,
    form: Annotated[
        Literal["mermaid", "svg", "png", "bpmn", "xes", "ocel"],
        typer.Option("--format", help="A picture, a process, or the traces as an event log."),
    ] = "mermaid",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Without it, to standard output.")
    ] = None,
) -> None:
    """Draw a routine, or hand its process or traces to other tools."""
    from services.client import Rooms

    with Rooms() as rooms:
        learner = rooms.ask(Room.TASK_LEARNER)
        routine_id = find_routine(learner, routine)["routine_id"]
        data = learner.download(f"routines/{routine_id}/export?form={form}")
    if out is None:
        sys.stdout.buffer.write(data)
        return
    try:
        out.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror}") from error
    write_line(f"{out}: {len(data):,} bytes")


@app.command()
def approve(routine: Named) -> None:
    """Approve a routine: an agent is trained for it."""
    _decide(routine, "approve")


@app.command()
def ignore(routine: Named) -> None:
    """Never propose this routine again."""
    _decide(routine, "ignore")


@app.command()
def rename(routine: Named, name: Annotated[str, typer.Argument(help="Its new name.")]) -> None:
    """Give a routine another name."""
    _decide(routine, "rename", {"name": name})


@app.command()
def merge(
    routine: Named, into: Annotated[str, typer.Argument(help="The routine that it really is.")]
) -> None:
    """Say that a routine is the same as another, which gets its executions from now on."""
    from services.client import Rooms

    with Rooms() as rooms:
        learner = rooms.ask(Room.TASK_LEARNER)
        routine_id = find_routine(learner, routine)["routine_id"]
        target_id = find_routine(learner, into)["routine_id"]
        found = learner.post(f"routines/{routine_id}/merge", {"into": target_id})
    write_line(f"{found['name']} ({short(target_id)}) was seen {found['support']} times")


@app.command()
def split(
    routine: Named,
    step: Annotated[int, typer.Argument(min=1, help="A step that only some executions have.")],
) -> None:
    """Make two routines of one: executions that have a step, and those that have not."""
    from services.client import Rooms

    with Rooms() as rooms:
        learner = rooms.ask(Room.TASK_LEARNER)
        routine_id = find_routine(learner, routine)["routine_id"]
        for found in learner.post(f"routines/{routine_id}/split", {"step": step}):
            write_line(
                f"{found['name']} ({short(found['routine_id'])}) was seen {found['support']} times"
            )


@app.command()
def restore(routine: Named) -> None:
    """Undo a merge or a split of this routine; it is to be approved anew."""
    _decide(routine, "restore")


@app.command()
def train(routine: Named) -> None:
    """Train an agent on the traces there are now, and follow it."""
    from services.commands.training import train as train_now

    train_now(routine)
