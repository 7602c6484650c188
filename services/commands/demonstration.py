"""`wat demo`: the whole pipeline, from watching to doing, on an application that comes along."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["demo"]


def demo(
    seed: Annotated[int, typer.Option(min=0, help="Other records, layout, pauses.")] = 0,
    headed: Annotated[bool, typer.Option("--headed", help="Show the browsers' windows.")] = False,
    pace: Annotated[
        float, typer.Option(min=0, help="How slowly the person works; 1 is a person's pace.")
    ] = 0.03,
    recorded: Annotated[
        bool, typer.Option("--recorded", help="Replay a recorded log; needs no browser.")
    ] = False,
    folder: Annotated[
        Path | None, typer.Option(help="Where all of it is kept; an earlier one is replaced.")
    ] = None,
) -> None:
    """Watch a scripted person do a chore, train an agent, and let it do 5 new records."""
    import asyncio

    from demo.run import main
    from demo.stack import StackError
    from shared.errors import WatError
    from shared.settings import CommonSettings, load

    where = folder or load(CommonSettings).data_dir.parent / "wasmagenttrainer-demo"
    try:
        held, _ = asyncio.run(
            main(seed=seed, folder=where, headed=headed, pace=pace, recorded=recorded)
        )
    except StackError as error:
        raise WatError(str(error)) from error
    if not held:
        raise typer.Exit(1)
