"""`wat`, the command line: names the commands and loads each only when it is called."""

import typer

from services.commands import (
    asking,
    consents,
    demonstration,
    doctor,
    forget,
    models,
    recording,
    routines,
    runs,
    serving,
    topics,
    training,
)
from services.commands.terminal import WatGroup

__all__ = ["app"]

app = typer.Typer(
    name="wat",
    cls=WatGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Watches with consent, finds chores that repeat, trains a small agent for each, runs it.",
)

app.command()(demonstration.demo)
app.command()(serving.up)
app.command()(recording.record)
app.command()(recording.replay)
app.add_typer(routines.app, name="routines")
app.command()(training.train)
app.add_typer(training.app, name="trainings")
app.add_typer(models.app, name="models")
app.command()(runs.run)
app.add_typer(runs.app, name="runs")
app.command()(runs.approve)
app.command()(runs.reject)
app.command()(runs.stop)
app.add_typer(consents.app, name="consent")
app.command()(recording.pause)
app.command()(recording.resume)
app.command()(forget.forget)
app.command()(topics.tail)
app.command()(asking.ask)
app.command()(doctor.doctor)
app.command()(serving.serve)

if __name__ == "__main__":
    app()
