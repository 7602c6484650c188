"""Holds filtered events while the broker is away, in order, in the room's own store.

Reads and writes: the table `spool`. What enters it has passed the privacy filter.
"""

import json
from collections.abc import Callable, Iterable

import apsw

from shared.bus import Effects, Outgoing
from shared.store import Store

__all__ = ["TABLES", "Spool"]

TABLES = """
CREATE TABLE IF NOT EXISTS spool(n INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL,
  key BLOB NOT NULL, value BLOB NOT NULL, headers TEXT NOT NULL, consent TEXT NOT NULL);
"""

_INSERT = "INSERT INTO spool(topic, key, value, headers, consent) VALUES (?, ?, ?, ?, ?)"


class Spool:
    """The events that wait for the broker."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.num_events: int = store.query("SELECT count(*) FROM spool")[0][0]

    async def append(self, effects: Effects, consents: Iterable[str]) -> None:
        """Keep `effects` here instead; `consents` names the consent of each record, in order.

        Raises BusUnavailable where the disk refuses.
        """
        rows = [
            (
                out.topic,
                out.key,
                out.value,
                json.dumps([(name, value.decode("latin-1")) for name, value in out.headers]),
                consent,
            )
            for out, consent in zip(effects.outgoing, consents, strict=True)
        ]

        def change(writer: apsw.Connection) -> None:
            writer.executemany(_INSERT, rows)
            for sql, params in effects.writes:
                writer.execute(sql, params)

        await self._store.write(change)
        self.num_events += len(rows)

    def oldest(self, effects: Effects, limit: int) -> int:
        """Add the oldest events, and their removal from here, to `effects`; return how many."""
        rows = self._store.query(
            "SELECT n, topic, key, value, headers FROM spool ORDER BY n LIMIT ?", (limit,)
        )
        for _, topic, key, value, headers in rows:
            named = tuple((name, text.encode("latin-1")) for name, text in json.loads(headers))
            effects.outgoing.append(Outgoing(topic, key, value, named))
        if rows:
            effects.write("DELETE FROM spool WHERE n <= ?", (rows[-1][0],))
        return len(rows)

    async def drop(self, refused: Callable[[str, bytes], bool]) -> int:
        """Delete the events whose consent id and value are `refused`; return how many."""
        last, numbers = 0, []
        while rows := self._store.query(
            "SELECT n, consent, value FROM spool WHERE n > ? ORDER BY n LIMIT 1000", (last,)
        ):
            numbers += [(n,) for n, consent, value in rows if refused(consent, value)]
            last = rows[-1][0]
        if numbers:
            await self._store.write(
                lambda writer: writer.executemany("DELETE FROM spool WHERE n = ?", numbers)
            )
        self.num_events -= len(numbers)
        return len(numbers)
