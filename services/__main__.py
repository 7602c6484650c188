"""`wat`, the command line: names the commands and loads each only when it is called."""

import typer

from services.commands import serving
from services.commands.terminal import WatGroup

__all__ = ["app"]

app = typer.Typer(
    name="wat",
    cls=WatGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Watches with consent, finds chores that repeat, trains a small agent for each, runs it.",
)

app.command()(serving.up)
app.command()(serving.serve)

if __name__ == "__main__":
    app()
