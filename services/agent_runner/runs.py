"""Runs, their records and their steps as rows: the journal that makes every act at most once.

Reads and writes the room's tables `runs`, `records` and `steps`, and publishes RunOutcomes. A step
is committed as an intent before it is done and again with what came of it; after a crash, an
intent without an outcome is a step in doubt. Does not act: that is `work.py`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from services.agent_runner.evidence import Came, RecordEvidence, StepEvidence
from shared.artifacts import Artifacts
from shared.bus.base import Effects, Message
from shared.errors import NotFound
from shared.schemas import Frozen, RunOutcome, RunState, derive_id
from shared.store import Store

__all__ = [
    "ENDED",
    "TABLES",
    "RecordRow",
    "RunRow",
    "delete_run",
    "end_record",
    "ended_run_ids",
    "evidence_of",
    "evidence_steps",
    "fill_record",
    "first_not_done",
    "forget_steps",
    "get_record",
    "get_run",
    "gone_runs",
    "is_outcome",
    "last_begun_ms",
    "list_records",
    "list_runs",
    "new_run",
    "note_erased",
    "note_gone",
    "records_by_state",
    "run_ids",
    "set_run_state",
    "start_record",
    "steps_of",
    "write_intent",
    "write_outcome",
]

TABLES = """
CREATE TABLE IF NOT EXISTS runs (
  run_id TEXT PRIMARY KEY, user_id TEXT NOT NULL, routine_id TEXT NOT NULL, name TEXT NOT NULL,
  model_id TEXT NOT NULL, module TEXT NOT NULL, dry_run INTEGER NOT NULL,
  from_screen INTEGER NOT NULL, keep_going INTEGER NOT NULL, ops TEXT NOT NULL,
  origins TEXT NOT NULL, num_records INTEGER NOT NULL,
  state TEXT NOT NULL, reason TEXT, asked_ms INTEGER NOT NULL, started_ms INTEGER, ended_ms INTEGER
);
CREATE INDEX IF NOT EXISTS runs_asked ON runs (asked_ms, run_id);
CREATE TABLE IF NOT EXISTS records_worked (
  run_id TEXT NOT NULL, record_index INTEGER NOT NULL, parameters TEXT NOT NULL,
  state TEXT NOT NULL, reason TEXT, num_steps INTEGER NOT NULL DEFAULT 0,
  started_ms INTEGER, ended_ms INTEGER, evidence TEXT,
  PRIMARY KEY (run_id, record_index)
);
CREATE TABLE IF NOT EXISTS steps (
  run_id TEXT NOT NULL, record_index INTEGER NOT NULL, step_index INTEGER NOT NULL,
  evidence TEXT NOT NULL,
  PRIMARY KEY (run_id, record_index, step_index)
);
CREATE TABLE IF NOT EXISTS gone_runs (run_id TEXT PRIMARY KEY) WITHOUT ROWID;
"""

ENDED = frozenset(
    (RunState.DONE, RunState.STOPPED, RunState.FAILED, RunState.CANCELLED, RunState.IN_DOUBT)
)

_RUN_COLUMNS = (
    "run_id, user_id, routine_id, name, model_id, module, dry_run, from_screen, keep_going, "
    "ops, origins, num_records, state, reason, asked_ms, started_ms, ended_ms"
)
_RECORD_COLUMNS = (
    "record_index, parameters, state, reason, num_steps, started_ms, ended_ms, evidence"
)


class RunRow(Frozen):
    """One run as its row holds it and REST shows it."""

    run_id: str
    user_id: str
    routine_id: str
    name: str
    model_id: str
    module: str
    dry_run: bool
    from_screen: bool
    keep_going: bool
    ops: tuple[str, ...]  # what the agent needs to be granted, on each of `origins`
    origins: tuple[str, ...]
    num_records: int
    state: RunState
    reason: str | None
    asked_ms: int
    started_ms: int | None
    ended_ms: int | None

    @property
    def ended(self) -> bool:
        """Tell whether nothing will happen in this run any more."""
        return self.state in ENDED


class RecordRow(Frozen):
    """One record of a run as its row holds it and REST shows it."""

    record_index: int
    parameters: dict[str, str]
    state: RunState
    reason: str | None
    num_steps: int
    started_ms: int | None
    ended_ms: int | None
    evidence: str | None


def new_run(run: RunRow, records: Sequence[Mapping[str, str]], effects: Effects) -> None:
    """Write a run and its records."""
    row = run.model_dump(mode="json")
    row |= {"ops": json.dumps(run.ops), "origins": json.dumps(run.origins)}
    names = _RUN_COLUMNS.split(", ")
    effects.write(
        f"INSERT INTO runs ({_RUN_COLUMNS}) VALUES ({','.join('?' * len(names))})",  # noqa: S608
        tuple(row[name] for name in names),
    )
    for index, values in enumerate(records):
        effects.write(
            "INSERT INTO records_worked (run_id, record_index, parameters, state) VALUES (?,?,?,?)",
            (run.run_id, index, json.dumps(dict(values)), RunState.ASKED.value),
        )


def _run(row: Sequence[Any]) -> RunRow:
    fields = dict(zip(_RUN_COLUMNS.split(", "), row, strict=True))
    lists = {"ops": json.loads(fields["ops"]), "origins": json.loads(fields["origins"])}
    return RunRow.model_validate({**fields, **lists})


def _record(row: Sequence[Any]) -> RecordRow:
    fields = dict(zip(_RECORD_COLUMNS.split(", "), row, strict=True))
    return RecordRow.model_validate({**fields, "parameters": json.loads(fields["parameters"])})


def get_run(store: Store, run_id: str) -> RunRow:
    """Return a run. Raises NotFound."""
    sql = f"SELECT {_RUN_COLUMNS} FROM runs WHERE run_id = ?"  # noqa: S608
    rows = store.query(sql, (run_id,))
    if not rows:
        raise NotFound(f"there is no run {run_id}: GET /v1/agent-runner/runs lists them")
    return _run(rows[0])


def list_runs(store: Store, before: tuple[int, str] | None, limit: int) -> list[RunRow]:
    """Return runs, the newest first, those asked for before the given (asked_ms, run_id)."""
    sql = (
        f"SELECT {_RUN_COLUMNS} FROM runs WHERE (asked_ms, run_id) < (?, ?) "  # noqa: S608
        "ORDER BY asked_ms DESC, run_id DESC LIMIT ?"
    )
    return [_run(row) for row in store.query(sql, (*(before or (2**62, "")), limit))]


def run_ids(
    store: Store, *, open_only: bool = False, routine_id: str | None = None,
    asked_before_ms: int | None = None, asked_since_ms: int | None = None,
) -> list[str]:  # fmt: skip
    """Return ids of runs, narrowed down by what is given."""
    ended = ",".join(f"'{state.value}'" for state in sorted(ENDED))
    sql = f"SELECT run_id FROM runs WHERE (? = 0 OR state NOT IN ({ended}))"  # noqa: S608
    sql += " AND (? IS NULL OR routine_id = ?) AND (? IS NULL OR asked_ms <= ?)"
    sql += " AND (? IS NULL OR asked_ms >= ?)"
    params = (
        int(open_only), routine_id, routine_id, asked_before_ms, asked_before_ms,
        asked_since_ms, asked_since_ms,
    )  # fmt: skip
    return [row[0] for row in store.query(sql, params)]


def ended_run_ids(store: Store, before_ms: int) -> list[str]:
    """Return ids of runs that ended before `before_ms`."""
    return [
        row[0] for row in store.query("SELECT run_id FROM runs WHERE ended_ms < ?", (before_ms,))
    ]


def evidence_of(store: Store, run_id: str) -> list[str]:
    """Return the digests of a run's evidence artifacts."""
    sql = "SELECT evidence FROM records_worked WHERE run_id = ? AND evidence IS NOT NULL"
    return [row[0] for row in store.query(sql, (run_id,))]


def get_record(store: Store, run_id: str, index: int) -> RecordRow:
    """Return one record of a run. Raises NotFound."""
    found = list_records(store, run_id, index - 1, 1)
    if not found or found[0].record_index != index:
        raise NotFound(f"run {run_id} has no record {index}")
    return found[0]


def last_begun_ms(store: Store, run_id: str) -> int | None:
    """Return when the run began its newest record, or None where it began none."""
    rows = store.query("SELECT max(started_ms) FROM records_worked WHERE run_id = ?", (run_id,))
    last: int | None = rows[0][0]
    return last


def list_records(store: Store, run_id: str, after: int, limit: int) -> list[RecordRow]:
    """Return records of a run behind index `after`, in order."""
    sql = (
        f"SELECT {_RECORD_COLUMNS} FROM records_worked "  # noqa: S608
        "WHERE run_id = ? AND record_index > ? ORDER BY record_index LIMIT ?"
    )
    return [_record(row) for row in store.query(sql, (run_id, after, limit))]


def records_by_state(store: Store, run_id: str) -> dict[str, int]:
    """Count a run's records by state."""
    return dict(
        store.query(
            "SELECT state, count(*) FROM records_worked WHERE run_id = ? GROUP BY state", (run_id,)
        )
    )


def first_not_done(store: Store, run_id: str) -> RecordRow | None:
    """Return the first record that ended otherwise than done."""
    sql = (
        f"SELECT {_RECORD_COLUMNS} FROM records_worked "  # noqa: S608
        "WHERE run_id = ? AND state NOT IN ('done', 'asked') ORDER BY record_index LIMIT 1"
    )
    rows = store.query(sql, (run_id,))
    return _record(rows[0]) if rows else None


def set_run_state(
    run_id: str, state: RunState, reason: str | None, time_ms: int, effects: Effects
) -> None:
    """Move a run on; its records that were not begun end with it."""
    ended_ms = time_ms if state in ENDED else None
    effects.write(
        "UPDATE runs SET state = ?, reason = ?, ended_ms = ?, started_ms = "
        "CASE WHEN ? = 'running' THEN coalesce(started_ms, ?) ELSE started_ms END "
        "WHERE run_id = ?",
        (state.value, reason, ended_ms, state.value, time_ms, run_id),
    )
    if ended_ms is not None:
        _cancel_not_begun(run_id, ended_ms, effects)


def cancel_run(run_id: str, reason: str, time_ms: int, effects: Effects) -> None:
    """End a run that has not ended, with the records that were not begun."""
    effects.write(
        "UPDATE runs SET state = ?, reason = ?, ended_ms = ? WHERE run_id = ? AND ended_ms IS NULL",
        (RunState.CANCELLED.value, reason, time_ms, run_id),
    )
    _cancel_not_begun(run_id, time_ms, effects)


def _cancel_not_begun(run_id: str, time_ms: int, effects: Effects) -> None:
    effects.write(
        "UPDATE records_worked SET state = ?, reason = ?, ended_ms = ? "
        "WHERE run_id = ? AND state = ?",
        (
            RunState.CANCELLED.value, "not begun: the run ended before it", time_ms,
            run_id, RunState.ASKED.value,
        ),
    )  # fmt: skip


def start_record(run_id: str, index: int, time_ms: int, effects: Effects) -> None:
    """Say that a record is being worked on."""
    effects.write(
        "UPDATE records_worked SET state = ?, started_ms = ? WHERE run_id = ? AND record_index = ?",
        (RunState.RUNNING.value, time_ms, run_id, index),
    )


def fill_record(run_id: str, index: int, values: Mapping[str, str], effects: Effects) -> None:
    """Keep the values that were read from the screen."""
    effects.write(
        "UPDATE records_worked SET parameters = ? WHERE run_id = ? AND record_index = ?",
        (json.dumps(dict(values)), run_id, index),
    )


def forget_steps(run_id: str, index: int, effects: Effects) -> None:
    """Delete the steps of a record that is begun anew because none of them did anything."""
    effects.write("DELETE FROM steps WHERE run_id = ? AND record_index = ?", (run_id, index))


def write_intent(run_id: str, index: int, step: StepEvidence, effects: Effects) -> None:
    """Write a step that is about to be done. The same one twice is refused by the store."""
    effects.write(
        "INSERT INTO steps VALUES (?,?,?,?)",
        (run_id, index, step.step_index, step.model_dump_json(exclude_none=True)),
    )


def write_outcome(run_id: str, index: int, step: StepEvidence, effects: Effects) -> None:
    """Write what came of a step."""
    effects.write(
        "UPDATE steps SET evidence = ? WHERE run_id = ? AND record_index = ? AND step_index = ?",
        (step.model_dump_json(exclude_none=True), run_id, index, step.step_index),
    )


def steps_of(store: Store, run_id: str, index: int) -> list[StepEvidence]:
    """Return the steps of one record, in order; those in doubt have no outcome."""
    rows = store.query(
        "SELECT evidence FROM steps WHERE run_id = ? AND record_index = ? ORDER BY step_index",
        (run_id, index),
    )
    return [StepEvidence.model_validate_json(row[0]) for row in rows]


def evidence_steps(
    store: Store, artifacts: Artifacts, run_id: str, record: RecordRow
) -> list[StepEvidence]:
    """Return the steps of a record: its evidence once it has ended, until then its journal.

    Raises ArtifactError, DigestMismatch.
    """
    if record.evidence is None:
        return steps_of(store, run_id, record.record_index)
    return list(RecordEvidence.model_validate_json(artifacts.get(record.evidence)).steps)


def end_record(
    run: RunRow, record: RecordRow, *, state: RunState, reason: str | None,
    steps: Sequence[StepEvidence], time_ms: int, artifacts: Artifacts, effects: Effects,
) -> None:  # fmt: skip
    """Write how a record ended: its row, its evidence and its RunOutcome."""
    evidence = RecordEvidence(
        run_id=run.run_id, record_index=record.record_index, routine_id=run.routine_id,
        model_id=run.model_id, module=run.module, dry_run=run.dry_run, state=state,
        reason=reason, steps=tuple(steps),
    )  # fmt: skip
    digest = artifacts.put(evidence.model_dump_json().encode(), effects, holder=run.run_id)
    num_steps = sum(step.came in (Came.DONE, Came.UNVERIFIED) for step in steps)
    effects.write(
        "UPDATE records_worked SET state = ?, reason = ?, num_steps = ?, ended_ms = ?, "
        "evidence = ? WHERE run_id = ? AND record_index = ?",
        (state.value, reason, num_steps, time_ms, digest, run.run_id, record.record_index),
    )
    effects.publish(
        RunOutcome(
            id=derive_id(run.run_id, record.record_index),
            time_ms=time_ms,
            user_id=run.user_id,
            run_id=run.run_id,
            record_index=record.record_index,
            routine_id=run.routine_id,
            model_id=run.model_id,
            state=state,
            reason=reason,
            dry_run=run.dry_run,
            num_steps=num_steps,
            started_ms=record.started_ms or time_ms,
            ended_ms=time_ms,
            evidence=digest,
        )
    )


def delete_run(run_id: str, artifacts: Artifacts, effects: Effects) -> None:
    """Delete what a run left: rows, values, evidence. Its marks stay: they outlive raw events."""
    for table in ("runs", "records_worked", "steps", "grants"):
        effects.write(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))  # noqa: S608
    effects.write("DELETE FROM jobs WHERE id = ?", (run_id,))
    artifacts.drop(run_id, effects)


def note_gone(run_id: str, effects: Effects) -> None:
    """Remember that a run was forgotten until its outcomes are off the topic."""
    effects.write("INSERT OR IGNORE INTO gone_runs VALUES (?)", (run_id,))


def gone_runs(store: Store) -> frozenset[str]:
    """Return the forgotten runs whose outcomes may still be on the topic."""
    return frozenset(run_id for (run_id,) in store.query("SELECT run_id FROM gone_runs"))


def note_erased(run_ids: Iterable[str], effects: Effects) -> None:
    """Say that these runs' outcomes are off the topic."""
    for run_id in sorted(run_ids):
        effects.write("DELETE FROM gone_runs WHERE run_id = ?", (run_id,))


def is_outcome(message: Message, run_ids: frozenset[str]) -> bool:
    """Tell whether a record of `runs` says how one of these runs ended; marks stay."""
    try:
        return RunOutcome.model_validate_json(message.value).run_id in run_ids
    except ValueError:
        return False
