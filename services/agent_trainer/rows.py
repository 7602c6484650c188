"""The room's tables: routines seen, trainings asked for, models published, ranges forgotten.

Reads through the store, writes through Effects. Holds no logic of its own.
"""

import json
from collections.abc import Sequence
from typing import Any

from shared.bus.base import Effects
from shared.errors import NotFound
from shared.schemas import ForgetRange, Frozen, ModelCard, Routine
from shared.store import Store

__all__ = [
    "TABLES",
    "Trained",
    "Training",
    "ask_training",
    "delete_model",
    "delete_trainings",
    "end_training",
    "forgets",
    "get_training",
    "list_models",
    "list_trainings",
    "progress",
    "save_forget",
    "save_model",
    "save_trained",
    "set_state",
    "trained",
    "unfinished",
]

TABLES = """
CREATE TABLE IF NOT EXISTS trained (
  routine_id TEXT PRIMARY KEY, user_id TEXT NOT NULL, training_id TEXT NOT NULL,
  support INTEGER NOT NULL, train INTEGER NOT NULL, traces TEXT NOT NULL,
  num_forgotten INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS trainings (
  id TEXT PRIMARY KEY, routine_id TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL,
  state TEXT NOT NULL, reason TEXT, asked_ms INTEGER NOT NULL, started_ms INTEGER,
  ended_ms INTEGER, progress TEXT NOT NULL DEFAULT '[]');
CREATE INDEX IF NOT EXISTS trainings_asked ON trainings (asked_ms, id);
CREATE TABLE IF NOT EXISTS models (
  subject_id TEXT PRIMARY KEY, id TEXT NOT NULL, time_ms INTEGER NOT NULL, card TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS models_time ON models (time_ms, subject_id);
CREATE TABLE IF NOT EXISTS forgotten (
  id TEXT PRIMARY KEY, user_id TEXT NOT NULL, session TEXT, time_ms INTEGER NOT NULL);
"""

_TRAINING = "id, routine_id, name, revision, state, reason, asked_ms, started_ms, ended_ms"


class Training(Frozen):
    """One training as REST shows it."""

    id: str
    routine_id: str
    name: str
    revision: int
    state: str  # asked, running, done, failed, cancelled
    reason: str | None
    asked_ms: int
    started_ms: int | None
    ended_ms: int | None


class Trained(Frozen):
    """What a routine's newest training was asked on."""

    routine_id: str
    user_id: str
    training_id: str
    support: int
    train: int
    traces: tuple[tuple[str, int], ...]  # (session, start in ms)
    num_forgotten: int = 0  # traces that the routine had had to forget by then


def trained(store: Store) -> dict[str, Trained]:
    """Return what was trained, by routine."""
    rows = store.query(
        "SELECT routine_id, user_id, training_id, support, train, traces, num_forgotten "
        "FROM trained"
    )
    return {
        row[0]: Trained(
            routine_id=row[0],
            user_id=row[1],
            training_id=row[2],
            support=row[3],
            train=row[4],
            traces=json.loads(row[5]),
            num_forgotten=row[6],
        )
        for row in rows
    }


def unfinished(store: Store) -> set[str]:
    """Return the routines whose newest training has not made a model."""
    rows = store.query(
        "SELECT t.routine_id FROM trained t JOIN trainings s ON s.id = t.training_id "
        "WHERE s.state != 'done'"
    )
    return {routine_id for (routine_id,) in rows}


def save_trained(entry: Trained, effects: Effects) -> None:
    """Write what a routine's training was asked on."""
    effects.write(
        "INSERT OR REPLACE INTO trained VALUES (?,?,?,?,?,?,?)",
        (
            entry.routine_id, entry.user_id, entry.training_id, entry.support, entry.train,
            json.dumps(entry.traces), entry.num_forgotten,
        ),
    )  # fmt: skip


def ask_training(
    training_id: str, routine: Routine, time_ms: int, redo: bool, effects: Effects
) -> None:
    """Write a training that is asked for; one that failed or was cancelled begins anew.

    With `redo` one that is done does too: its model is there no more.
    """
    effects.write(
        "INSERT INTO trainings(id, routine_id, name, revision, state, asked_ms) "
        "VALUES (?,?,?,?,'asked',?) ON CONFLICT(id) DO UPDATE SET state = 'asked', reason = NULL, "
        "asked_ms = excluded.asked_ms, started_ms = NULL, ended_ms = NULL, progress = '[]' "
        "WHERE state IN ('failed', 'cancelled') OR (? AND state = 'done')",
        (training_id, routine.routine_id, routine.name, routine.revision, time_ms, int(redo)),
    )


def set_state(training_id: str, state: str, time_ms: int, effects: Effects) -> None:
    """Move a training to `running`."""
    effects.write(
        "UPDATE trainings SET state = ?, started_ms = ? WHERE id = ?",
        (state, time_ms, training_id),
    )


def end_training(
    training_id: str, state: str, reason: str | None, lines: Sequence[Any], time_ms: int,
    effects: Effects,
) -> None:  # fmt: skip
    """Write how a training ended, with its progress."""
    effects.write(
        "UPDATE trainings SET state = ?, reason = ?, ended_ms = ?, progress = ? WHERE id = ?",
        (state, reason, time_ms, json.dumps(list(lines)), training_id),
    )


def delete_trainings(routine_id: str, effects: Effects) -> None:
    """Delete a routine's trainings and their jobs: they hold its words and its progress."""
    effects.write(
        "DELETE FROM jobs WHERE id IN (SELECT id FROM trainings WHERE routine_id = ?)",
        (routine_id,),
    )
    effects.write("DELETE FROM trainings WHERE routine_id = ?", (routine_id,))


def get_training(store: Store, training_id: str) -> Training:
    """Return a training. Raises NotFound."""
    rows = store.query(
        f"SELECT {_TRAINING} FROM trainings WHERE id = ?",  # noqa: S608
        (training_id,),
    )
    if not rows:
        raise NotFound(f"there is no training {training_id}: GET trainings lists them")
    return _training(rows[0])


def list_trainings(store: Store, before: tuple[int, str], limit: int) -> list[Training]:
    """Return trainings asked for before (asked_ms, id), the newest first."""
    rows = store.query(
        f"SELECT {_TRAINING} FROM trainings WHERE (asked_ms, id) < (?, ?) "  # noqa: S608
        "ORDER BY asked_ms DESC, id DESC LIMIT ?",
        (*before, limit),
    )
    return [_training(row) for row in rows]


def progress(store: Store, training_id: str) -> list[dict[str, Any]]:
    """Return the progress lines of a training that has ended."""
    rows = store.query("SELECT progress FROM trainings WHERE id = ?", (training_id,))
    return list(json.loads(rows[0][0])) if rows else []


def _training(row: Sequence[Any]) -> Training:
    return Training.model_validate(dict(zip(_TRAINING.split(", "), row, strict=True)))


def save_model(card: ModelCard, effects: Effects) -> None:
    """Write a card and publish it."""
    effects.write(
        "INSERT OR REPLACE INTO models VALUES (?,?,?,?)",
        (card.subject_id, card.id, card.time_ms, card.model_dump_json(exclude_none=True)),
    )
    effects.publish(card)


def delete_model(card: ModelCard, effects: Effects) -> None:
    """Publish a card that says `deleted`, then nothing: the key goes with the next compaction."""
    effects.write("DELETE FROM models WHERE subject_id = ?", (card.subject_id,))
    effects.publish(card)


def list_models(store: Store, before: tuple[int, str], limit: int) -> list[ModelCard]:
    """Return cards older than (time_ms, subject_id), the newest first."""
    rows = store.query(
        "SELECT card FROM models WHERE (time_ms, subject_id) < (?, ?) "
        "ORDER BY time_ms DESC, subject_id DESC LIMIT ?",
        (*before, limit),
    )
    return [ModelCard.model_validate_json(row[0]) for row in rows]


def save_forget(record: ForgetRange, effects: Effects) -> None:
    """Remember a forgotten range: a routine that is older than it must not be trained on."""
    effects.write(
        "INSERT OR IGNORE INTO forgotten VALUES (?,?,?,?)",
        (record.id, record.user_id, record.session, record.time_ms),
    )


def forgets(store: Store) -> list[tuple[str, str | None, int]]:
    """Return (user, session or None for all, time in ms) of forgotten ranges."""
    return [tuple(row) for row in store.query("SELECT user_id, session, time_ms FROM forgotten")]
