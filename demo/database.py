"""Keep what the order desk saved, in a SQLite database of its own."""

import sqlite3
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from demo.layout import ALL_FIELDS

_KEYS = tuple(field.key for field in ALL_FIELDS)
_LABELS = {field.key: field.label for field in ALL_FIELDS}
_SCHEMA = f"""
CREATE TABLE orders (id INTEGER PRIMARY KEY, saved_at TEXT NOT NULL, button TEXT NOT NULL,
                     request INTEGER, {", ".join(f"{key} TEXT" for key in _KEYS)});
CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT NOT NULL);
"""
_FIRST_ORDER = 1041


class Database:
    """Orders and notes; one connection, guarded, for the server's thread and the caller's."""

    def __init__(self, path: Path | None = None) -> None:
        """Create the tables in a new file, or in memory when no path is given."""
        self._connection = sqlite3.connect(path or ":memory:", check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        self._lock = threading.Lock()
        with self._lock, self._connection:
            self._connection.executescript(_SCHEMA)

    def add_order(self, values: Mapping[str, str], button: str, request: int | None) -> int:
        """Store the values by field key exactly as they came; return the order's number."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._lock, self._connection:
            (last,) = self._connection.execute("SELECT max(id) FROM orders").fetchone()
            number = _FIRST_ORDER if last is None else last + 1
            row = [number, now, button, request, *(values.get(key) for key in _KEYS)]
            marks = ", ".join("?" * len(row))
            self._connection.execute(f"INSERT INTO orders VALUES ({marks})", row)  # noqa: S608
        return number

    def add_note(self, body: str) -> None:
        """Store a note."""
        with self._lock, self._connection:
            self._connection.execute("INSERT INTO notes (body) VALUES (?)", (body,))

    def notes(self) -> list[str]:
        """Return the notes, newest first."""
        with self._lock:
            rows = self._connection.execute("SELECT body FROM notes ORDER BY id DESC").fetchall()
        return [row["body"] for row in rows]

    def rows(self) -> list[dict[str, object]]:
        """Return the orders as stored, oldest first."""
        with self._lock:
            rows = self._connection.execute("SELECT * FROM orders ORDER BY id").fetchall()
        return [dict(row) for row in rows]

    def orders(self) -> list[dict[str, str]]:
        """Return what each order says, by the labels the form had, and the button pressed."""
        return [
            {_LABELS[key]: str(row[key]) for key in _KEYS if row[key] is not None}
            | {"Button": str(row["button"])}
            for row in self.rows()
        ]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()
