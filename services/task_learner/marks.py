"""Run marks: which events are an agent's own, which must wait for that to be known.

Reads RunMarks and events, writes nothing. Held events are the caller's to keep.

Does not cover: events without a target or a boot time, which no run can have caused through an
actuator; they flow.
"""

from enum import StrEnum

from shared.schemas import RunMark, UiEvent, derive_id

__all__ = ["GRACE_MS", "Marks", "Verdict"]

GRACE_MS = 500
"""An event may be captured this long after the action that caused it."""

_KEPT = 2_000  # finished marks; a hold lasts a run, so far fewer are ever asked for


class Verdict(StrEnum):
    """What a mark says about an event."""

    FREE = "free"
    HELD = "held"
    OWN = "own"


class Marks:
    """The newest state of each mark, looked up by target; a run may mark several."""

    def __init__(self) -> None:
        self._marks: dict[str, RunMark] = {}
        self._by_target: dict[tuple[str, str, str], dict[str, RunMark]] = {}

    def add(self, mark: RunMark) -> tuple[str, RunMark, list[str]]:
        """Take in a mark, later states over earlier ones.

        Return its key, its present state and the keys of marks that are no longer kept.
        """
        key = derive_id(mark.run_id, *_place(mark), mark.start_boottime_ms)
        known = self._marks.pop(key, None)
        if known is not None and (
            known.end_boottime_ms is not None
            or (
                mark.end_boottime_ms is None
                and known.renewed_boottime_ms > mark.renewed_boottime_ms
            )
        ):
            mark = known
        self._marks[key] = mark
        self._by_target.setdefault(_place(mark), {})[key] = mark
        dropped = list(self._marks)[: max(0, len(self._marks) - _KEPT)]
        for old in dropped:
            del self._by_target[_place(self._marks.pop(old))][old]
        return key, mark, dropped

    def judge(self, event: UiEvent, now_boottime_ms: int | None = None) -> Verdict:
        """Return whether the event is an agent's own, may yet turn out to be, or is a person's.

        `now_boottime_ms` is a later instant of the same boot, where the caller knows one: with it
        an open mark whose lease has run out counts as ended.
        """
        if event.target is None or event.boottime_ms is None or event.boot_id is None:
            return Verdict.FREE
        place = (event.boot_id, event.target.endpoint, event.target.surface)
        verdict = Verdict.FREE
        moment = event.boottime_ms
        for mark in self._by_target.get(place, {}).values():
            end = mark.end_boottime_ms
            lease_end = mark.renewed_boottime_ms + mark.lease_ms
            if moment < mark.start_boottime_ms:
                continue
            if end is not None:
                if moment <= end + GRACE_MS:
                    return Verdict.OWN
            elif moment <= lease_end:
                if now_boottime_ms is not None and now_boottime_ms > lease_end + GRACE_MS:
                    return Verdict.OWN
                verdict = Verdict.HELD
        return verdict


def _place(mark: RunMark) -> tuple[str, str, str]:
    return (mark.boot_id, mark.target.endpoint, mark.target.surface)
