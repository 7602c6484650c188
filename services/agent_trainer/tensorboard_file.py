"""A training's progress as an event file of TensorBoard; the only file that names tensorboard.

Written when it is asked for, from the lines that the room keeps anyway: nothing more has to be
forgotten, and a training that failed has one too. TensorBoard's own writer is used; the writers of
torch and of tensorboardX import torch, which this process does without.
"""

import io
from collections.abc import Iterable, Mapping
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

__all__ = ["write_events"]

_FILE_VERSION = "brain.Event:2"


def write_events(lines: Iterable[Mapping[str, Any]]) -> bytes:
    """Return the event file of some progress lines: one scalar a figure and epoch.

    The fit that is judged by held-out demonstrations is `trial/`, that on all of them `final/`.
    """
    file, fit = io.BytesIO(), "trial"
    writer = RecordWriter(file)
    writer.write(Event(file_version=_FILE_VERSION).SerializeToString())
    for line in lines:
        if line.get("event") == "fitting":
            fit = "final"
        if line.get("event") != "epoch":
            continue
        figures = [
            Summary.Value(tag=f"{fit}/{key}", simple_value=value)
            for key, value in line.items()
            if isinstance(value, float)
        ]
        event = Event(
            wall_time=line.get("time_ms", 0) / 1000,
            step=line["epoch"],
            summary=Summary(value=figures),
        )
        writer.write(event.SerializeToString())
    return file.getvalue()
