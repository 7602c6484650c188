"""What the room does when events are to be forgotten: drop what it derived, and look again.

Reads ForgetRange; deletes actions, traces and routines through the parts that keep them.

Does not cover: events that are still to come (`admission`), files and receipts (`shared.forget`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from services.task_learner.catalogue import Catalogue
from services.task_learner.finder import Finder
from services.task_learner.memory import Memory
from services.task_learner.traces import TraceKeeper
from shared.bus.base import Effects
from shared.forget import count_forgotten
from shared.schemas import ForgetRange, UiEvent

__all__ = ["Place", "Unlearning", "places_of_events"]

Place = tuple[str, str, str, int]
"""User, source, session and seq of an event."""


class Unlearning:
    """Takes out of the learner what came of events that are forgotten."""

    def __init__(
        self, catalogue: Catalogue, traces: TraceKeeper, finder: Finder,
        memory_of: Callable[[str], Memory],
    ) -> None:  # fmt: skip
        self._catalogue = catalogue
        self._traces = traces
        self._finder = finder
        self._memory_of = memory_of
        self._to_search: set[str] = set()  # users whose words may have come from what is forgotten

    def forget(self, forget: ForgetRange, effects: Effects) -> None:
        """Delete what was derived from these events; all that is kept here came before."""
        memory = self._memory_of(forget.user_id)
        gone = [a for a in memory.all_actions() if forget.covers(a.event, 0)]
        touched = {a.position for a in gone}
        for showing in memory.showings.values():  # a demonstration with a hole shows nothing
            if any(a.position in touched for a in showing.actions):
                gone += [a for a in showing.actions if a.position not in touched]
        memory.forget(gone, forget, effects)
        count_forgotten(effects, "actions", len({a.position for a in gone}))
        self._traces.forget_screens()
        for known in self._catalogue.of_user(forget.user_id):
            self._catalogue.forget_traces(known, forget, effects)
        self._finder.forget(forget.user_id, effects)
        self._to_search.add(forget.user_id)

    def search_again(self, effects: Effects) -> None:
        """Search the windows anew from which actions were forgotten.

        Traces that are written again by this leave no file behind for whoever reads by the record
        before: what forgot something says so once more, and nobody waits for those files.
        """
        if not self._to_search:
            return
        routines = self._catalogue.routines.values()
        touched = [k for k in routines if k.num_forgotten and k.is_live]
        before = {k.routine_id: {t.digest for t in k.traces.values()} for k in touched}
        for user_id in sorted(self._to_search):
            self._finder.begin_anew(self._memory_of(user_id), effects)
        self._to_search.clear()
        for known in touched:
            written = {t.digest for t in known.traces.values()}
            if known.is_live and not before[known.routine_id] <= written:
                known.num_forgotten += 1
                self._catalogue.publish(known, effects)

    def finish(self, ranges: Sequence[ForgetRange], effects: Effects) -> None:
        """Search anew once for all ranges: each search takes a while.

        A record that is older than a range of its sessions says nothing to its readers: it is
        published again where it still holds.
        """
        newest_ms = {(r.user_id, r.session): r.time_ms for r in ranges}
        for known in self._catalogue.routines.values():
            record = known.record
            if (
                record is not None
                and known.is_live
                and any(
                    record.time_ms <= newest_ms.get((known.user_id, t.session), -1)
                    for t in known.traces.values()
                )
            ):
                self._catalogue.publish(known, effects)
        self._to_search.update(forget.user_id for forget in ranges)
        self.search_again(effects)


def places_of_events(
    events: Iterable[UiEvent], application: str | None, since_ms: int | None
) -> Iterator[Place]:
    """Yield the places of the events that fit, in no order."""
    wanted = application.casefold() if application is not None else None
    for event in events:
        if (wanted is None or event.application.casefold() == wanted) and (
            since_ms is None or event.time_ms >= since_ms
        ):
            yield (event.user_id, event.source.value, event.session, event.seq)
