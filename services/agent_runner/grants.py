"""What an agent may do: operations on origins, granted by the user, dated and revocable.

Reads and writes the room's `grants` rows. A grant belongs to one module's bytes (its digest) and
either stands until revoked or serves one run. A run's needs follow from the module's manifest.
Does not cover whether the module is what it claims (`shared.module.verify`), nor which elements it
may touch: within an origin, all that a person could.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

from shared import texts
from shared.bus.base import Effects
from shared.errors import GrantDenied
from shared.manifest import Manifest
from shared.schemas import Frozen, derive_id
from shared.store import Store
from shared.texts import split_url

__all__ = [
    "TABLES",
    "Grant",
    "Powers",
    "check_granted",
    "forget",
    "get_grants",
    "in_words",
    "list_grants",
    "origin_of",
    "origins_of",
    "revoke",
]

TABLES = """
CREATE TABLE IF NOT EXISTS grants (
  grant_id TEXT PRIMARY KEY, module TEXT NOT NULL, routine_id TEXT NOT NULL, run_id TEXT,
  ops TEXT NOT NULL, origins TEXT NOT NULL, granted_ms INTEGER NOT NULL, revoked_ms INTEGER
);
CREATE INDEX IF NOT EXISTS grants_module ON grants (module);
"""

Pair = tuple[str, str]  # operation, origin


def origin_of(document: str | None) -> str:
    """Return scheme, host and port of a document's address, or "" where it has none."""
    parts = split_url(document or "")
    return texts.origin_of(parts) if parts is not None and parts.hostname else ""


class Grant(Frozen):
    """One grant as REST shows it."""

    grant_id: str
    module: str
    routine_id: str
    run_id: str | None  # None: stands until revoked
    ops: tuple[str, ...]
    origins: tuple[str, ...]
    granted_ms: int
    revoked_ms: int | None

    @property
    def pairs(self) -> frozenset[Pair]:
        """Return what it allows."""
        return frozenset(product(self.ops, self.origins))

    @classmethod
    def of_row(cls, row: tuple[Any, ...]) -> "Grant":
        """Build from a `SELECT *` row."""
        names = (
            "grant_id", "module", "routine_id", "run_id", "ops", "origins",
            "granted_ms", "revoked_ms",
        )  # fmt: skip
        fields = dict(zip(names, row, strict=True))
        return cls(**{**fields, "ops": json.loads(row[4]), "origins": json.loads(row[5])})

    @classmethod
    def make(
        cls,
        *,
        module: str,
        routine_id: str,
        run_id: str | None,
        ops: Iterable[str],
        origins: Iterable[str],
        time_ms: int,
    ) -> "Grant":
        """Return a new grant; the same one given again at another time is another one."""
        ops, origins = tuple(sorted(set(ops))), tuple(sorted(set(origins)))
        return cls(
            grant_id=derive_id(module, run_id or "", *ops, *origins, time_ms),
            module=module,
            routine_id=routine_id,
            run_id=run_id,
            ops=ops,
            origins=origins,
            granted_ms=time_ms,
            revoked_ms=None,
        )

    def write(self, effects: Effects) -> None:
        """Add the row to `effects`."""
        effects.write(
            "INSERT OR IGNORE INTO grants VALUES (?,?,?,?,?,?,?,?)",
            (
                self.grant_id, self.module, self.routine_id, self.run_id,
                json.dumps(self.ops), json.dumps(self.origins), self.granted_ms, self.revoked_ms,
            ),
        )  # fmt: skip


@dataclass(frozen=True)
class Powers:
    """What the grants of one module allow in one run, as they stand at this moment."""

    pairs: frozenset[Pair]

    @classmethod
    def now(cls, store: Store, module: str, run_id: str | None) -> "Powers":
        """Read the standing grants of a module and those of this run alone."""
        rows = store.query(
            "SELECT * FROM grants WHERE module = ? AND revoked_ms IS NULL "
            "AND (run_id IS NULL OR run_id = ?) LIMIT 1000",
            (module, run_id or ""),
        )
        granted = (Grant.of_row(row).pairs for row in rows)
        return cls(frozenset[Pair]().union(*granted))

    def lacking(self, ops: Iterable[str], origins: Iterable[str]) -> list[Pair]:
        """Return which of the needed pairs are not granted, sorted."""
        return sorted(set(product(ops, origins)) - self.pairs)

    def allow(self, op: str, origin: str) -> bool:
        """Tell whether this operation may be done on this origin."""
        return (op, origin) in self.pairs


def origins_of(manifest: Manifest) -> tuple[str, ...]:
    """Return the origins of the documents that an agent's screens were learned from."""
    documents = manifest.screen_schema.get("documents")
    found = {origin_of(document) for document in documents} if isinstance(documents, dict) else ()
    start = origin_of(str(manifest.screen_schema.get("start_url", "")))
    return tuple(sorted({*found, start} - {""}))


def get_grants(store: Store, grant_id: str) -> list[Grant]:
    """Return the grant of this id, if there is one."""
    rows = store.query("SELECT * FROM grants WHERE grant_id = ?", (grant_id,))
    return [Grant.of_row(row) for row in rows]


def list_grants(store: Store, before: tuple[int, str] | None, limit: int) -> list[Grant]:
    """Return grants, revoked ones too, the newest first, before the given (granted_ms, id)."""
    rows = store.query(
        "SELECT * FROM grants WHERE (granted_ms, grant_id) < (?, ?) "
        "ORDER BY granted_ms DESC, grant_id DESC LIMIT ?",
        (*(before or (2**62, "")), limit),
    )
    return [Grant.of_row(row) for row in rows]


def forget(routine_id: str, effects: Effects) -> None:
    """Delete all grants of a routine's agents: they name where it was done."""
    effects.write("DELETE FROM grants WHERE routine_id = ?", (routine_id,))


def revoke(grant_id: str, time_ms: int, effects: Effects) -> None:
    """Take a grant back; a second time changes nothing."""
    effects.write(
        "UPDATE grants SET revoked_ms = ? WHERE grant_id = ? AND revoked_ms IS NULL",
        (time_ms, grant_id),
    )


def in_words(pairs: Iterable[Pair]) -> str:
    """Say pairs as a person reads them: operations by origin."""
    by_origin: dict[str, list[str]] = {}
    for op, origin in sorted(pairs):
        by_origin.setdefault(origin or "a page without an address", []).append(op)
    return "; ".join(f"{', '.join(ops)} on {origin}" for origin, ops in by_origin.items())


def check_granted(powers: Powers, op: str, origin: str, *, run_id: str) -> None:
    """Raise GrantDenied, naming the power and how to grant it, unless this may be done now."""
    if not powers.allow(op, origin):
        raise GrantDenied(
            f"the agent may not {op} on {origin or 'a page without an address'}: grant it with "
            f"`wat approve {run_id}` or POST /v1/agent-runner/grants, then run it again"
        )
