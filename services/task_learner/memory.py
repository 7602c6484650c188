"""One user's recent actions: bounded, and all of it in the room's tables.

Takes events in order and keeps the actions they come to; knows which actions still wait for the
screen that follows them, and which belong to a demonstration. Writes go to the effects of the
handling, so memory and tables say the same after each commit.

Does not cover: which events may be looked at (marks, forgotten ranges): the caller decides that.
"""

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable

from services.task_learner.actions import (
    Collapse,
    UserAction,
    collapse,
    needs_place,
    normalise,
    target_key,
)
from services.task_learner.segment import Vocabulary
from shared.bus.base import Effects
from shared.schemas import ForgetRange, UiEvent
from shared.store import Store

__all__ = ["MEMORY_TABLES", "Demonstration", "Memory"]

MEMORY_TABLES = """
CREATE TABLE IF NOT EXISTS actions(
  user_id TEXT NOT NULL, position INTEGER NOT NULL, event BLOB NOT NULL, place TEXT,
  after TEXT, after_place TEXT, showing TEXT, PRIMARY KEY(user_id, position)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS streams(user_id TEXT PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS users(
  user_id TEXT PRIMARY KEY, mined INTEGER NOT NULL, controls TEXT NOT NULL,
  showing TEXT) WITHOUT ROWID;
"""

PlaceOf = Callable[[UiEvent], str | None]


class Demonstration:
    """One showing of a routine that the user teaches."""

    def __init__(self, key: str, name: str) -> None:
        self.key = key
        self.name = name
        self.actions: list[UserAction] = []
        self.is_open = True


class Memory:
    """The window of one user's actions, the oldest first."""

    def __init__(self, user_id: str, num_kept: int, wait_ms: int, place_of: PlaceOf) -> None:
        self.user_id = user_id
        self.actions: list[UserAction] = []
        self.showings: dict[str, Demonstration] = {}
        self.vocabulary = Vocabulary()
        self.mined = 0  # position at the newest anchor of its stream
        self.now_ms = 0
        self._num_kept = num_kept
        self._wait_ms = wait_ms
        self._place_of = place_of
        self._next = 0
        self._showing: str | None = None
        self._waiting: dict[str, list[UserAction]] = defaultdict(list)  # by target
        self._last: UserAction | None = None

    def take(self, event: UiEvent, raw: bytes, effects: Effects) -> UserAction | None:
        """Take in the next event; return the action that it adds, if it adds one."""
        self.now_ms = max(self.now_ms, event.time_ms)
        if event.snapshot is not None:
            self._follow(event, effects)
        self._expire()
        showing = self._shown_in(event, effects)
        place = self._place_of(event) if needs_place(event) else None
        normal = normalise(event, place)
        if normal is None:
            return None
        token, text = normal
        last = self._last
        if last is not None and _shown(last.event) == _shown(event):
            verdict = collapse(last, event, token)
            if verdict is Collapse.DROP:
                return None
            if verdict is Collapse.REPLACE:
                self.remove([last], effects)
        action = UserAction(self._next, event, token, text)
        self._next += 1
        effects.write(
            "INSERT INTO actions VALUES (?, ?, ?, ?, NULL, NULL, ?)",
            (self.user_id, action.position, raw, place, showing),
        )
        self._keep(action, showing)
        if len(self.actions) > self._num_kept + self._num_kept // 10:
            self._trim(effects)
        return action

    def index_of(self, action: UserAction) -> int:
        """Return the action's index in the window."""
        return bisect_left(self.actions, action.position, key=lambda a: a.position)

    def is_settled(self, action: UserAction) -> bool:
        """Tell whether it is known what the screen showed after the action, or never will be."""
        if action.after is not None or action.settled:
            return True
        return self.now_ms - action.event.time_ms > self._wait_ms

    def finish_showings(self) -> None:
        """End the demonstrations that have fallen silent; what comes later reopens them."""
        for showing in self.showings.values():
            showing.is_open = False
            for action in showing.actions[-1:]:
                action.settled = True

    def remove(self, gone: Iterable[UserAction], effects: Effects) -> None:
        """Drop actions: replaced, trimmed or forgotten."""
        positions = {action.position for action in gone}
        for position in positions:
            effects.write(
                "DELETE FROM actions WHERE user_id = ? AND position = ?", (self.user_id, position)
            )
        if self.actions and self.actions[-1].position in positions and len(positions) == 1:
            self.actions.pop()
        else:
            self.actions = [a for a in self.actions if a.position not in positions]
        for showing in self.showings.values():
            showing.actions = [a for a in showing.actions if a.position not in positions]
        for waiting in self._waiting.values():
            waiting[:] = [a for a in waiting if a.position not in positions]
        if self._last is not None and self._last.position in positions:
            self._last = None

    def forget(self, gone: Iterable[UserAction], forget: ForgetRange, effects: Effects) -> None:
        """Drop actions, and the screens that forgotten events saw after the others."""
        self.remove(gone, effects)
        for action in self.all_actions():
            if any(forget.names(*place) for place in action.after_place):
                action.after, action.after_place, action.settled = None, (), True
                effects.write(
                    "UPDATE actions SET after = NULL, after_place = NULL "
                    "WHERE user_id = ? AND position = ?",
                    (self.user_id, action.position),
                )
        for key in [key for key, showing in self.showings.items() if not showing.actions]:
            del self.showings[key]
            if self._showing == key:
                self._showing = None
        self._save(effects)

    def all_actions(self) -> list[UserAction]:
        """Return everything in memory, demonstrations too."""
        return [*self.actions, *(a for s in self.showings.values() for a in s.actions)]

    def note_mined(self, vocabulary: Vocabulary, effects: Effects) -> None:
        """Remember how far the window has been searched, and with which vocabulary."""
        self.vocabulary = vocabulary
        self.mined = self._next
        self._save(effects)

    def load(self, store: Store) -> None:
        """Read the window back."""
        for mined, controls, showing in store.query(
            "SELECT mined, controls, showing FROM users WHERE user_id = ?",
            (self.user_id,),
        ):
            self.mined, self.vocabulary = mined, Vocabulary.load(controls)
            self._showing = showing
        for position, raw, place, after, after_place, showing in store.query(
            "SELECT position, event, place, after, after_place, showing FROM actions "
            "WHERE user_id = ? ORDER BY position",
            (self.user_id,),
        ):
            event = UiEvent.model_validate_json(raw)
            normal = normalise(event, place)
            if normal is None:
                continue
            action = UserAction(position, event, normal[0], normal[1], after)
            if after_place is not None:
                action.after_place = (tuple(json.loads(after_place)),)
            self._keep(action, showing)
            self._next = position + 1
            self.now_ms = max(self.now_ms, event.time_ms)
        self._next = max(self._next, self.mined)
        for showing in self.showings.values():
            showing.is_open = showing.key == self._showing

    def _keep(self, action: UserAction, showing: str | None) -> None:
        if showing is None:
            self.actions.append(action)
        else:
            name = str(action.event.demonstration)
            shown = self.showings.setdefault(showing, Demonstration(showing, name))
            shown.actions.append(action)
            shown.is_open = True
        if action.after is None:
            self._waiting[target_key(action.event.target)].append(action)
        self._last = action

    def _follow(self, event: UiEvent, effects: Effects) -> None:
        """Give the actions that wait on this target the screen that they led to."""
        for action in self._waiting.pop(target_key(event.target), ()):
            if event.time_ms - action.event.time_ms <= self._wait_ms:
                place = (event.source.value, event.session, event.seq)
                action.after, action.after_place = event.snapshot, (place,)
                effects.write(
                    "UPDATE actions SET after = ?, after_place = ? "
                    "WHERE user_id = ? AND position = ?",
                    (event.snapshot, json.dumps(place), self.user_id, action.position),
                )

    def _expire(self) -> None:
        for target in list(self._waiting):
            waiting = self._waiting[target]
            while waiting and self.now_ms - waiting[0].event.time_ms > self._wait_ms:
                waiting.pop(0)
            if not waiting:
                del self._waiting[target]

    def _shown_in(self, event: UiEvent, effects: Effects) -> str | None:
        """Return the key of the demonstration that the event is part of."""
        shown = _shown(event)
        if shown is None:
            self._close_showing(effects)
            return None
        if (self._showing or "").rpartition("\n")[0] != shown:
            self._close_showing(effects)
            self._showing = f"{shown}\n{event.id}"
            self._save(effects)
        return self._showing

    def _close_showing(self, effects: Effects) -> None:
        if self._showing is None:
            return
        shown = self.showings.get(self._showing)
        if shown is not None:
            shown.is_open = False
        self._showing = None
        self._save(effects)

    def _trim(self, effects: Effects) -> None:
        """Forget the oldest tenth in one go."""
        first = self.actions[len(self.actions) - self._num_kept].position
        self.actions = self.actions[-self._num_kept :]
        for key in [k for k, s in self.showings.items() if not s.is_open]:
            if all(a.position < first for a in self.showings[key].actions):
                del self.showings[key]
        effects.write(
            "DELETE FROM actions WHERE user_id = ? AND position < ? AND showing IS NULL",
            (self.user_id, first),
        )
        kept = [s.key for s in self.showings.values()]
        marks = ",".join("?" * len(kept))
        effects.write(
            "DELETE FROM actions WHERE user_id = ? AND position < ? "  # noqa: S608  marks only
            f"AND showing IS NOT NULL AND showing NOT IN ({marks})",
            (self.user_id, first, *kept),
        )

    def _save(self, effects: Effects) -> None:
        effects.write(
            "INSERT OR REPLACE INTO users VALUES (?, ?, ?, ?)",
            (self.user_id, self.mined, self.vocabulary.dump(), self._showing),
        )


def _shown(event: UiEvent) -> str | None:
    """Return which demonstration the event is part of: what it shows, and the how manieth."""
    if event.demonstration is None:
        return None
    return f"{event.demonstration}\n{event.showing or 0}"
