"""Which moments belong to a demonstration that the user gives on purpose. Pure."""

from collections import Counter
from typing import Annotated

from pydantic import Field

from shared.errors import ConflictError
from shared.schemas import Frozen

__all__ = ["Lesson", "Teaching"]

_REMEMBERED = 8
"""Ended lessons that late captures can still belong to."""


class Lesson(Frozen):
    """One demonstration: what it shows, the how manieth it is, and when."""

    name: Annotated[str, Field(min_length=1, max_length=120)]
    showing: int
    start_ms: int
    end_ms: int | None = None


class Teaching(Frozen):
    """All demonstrations that still matter."""

    lessons: tuple[Lesson, ...] = ()
    showings: dict[str, int] = Field(default_factory=dict)

    @classmethod
    def load(cls, stored: str | None) -> "Teaching":
        """Read what `dump` wrote."""
        return cls.model_validate_json(stored) if stored else cls()

    def dump(self) -> str:
        """Return it as JSON."""
        return self.model_dump_json()

    @property
    def open(self) -> Lesson | None:
        """Return the demonstration being given."""
        last = self.lessons[-1] if self.lessons else None
        return last if last is not None and last.end_ms is None else None

    def begin(self, name: str, now_ms: int) -> "Teaching":
        """Open a demonstration. Raises ConflictError where one is open."""
        if self.open is not None:
            raise ConflictError(
                f"demonstration {self.open.showing} of {self.open.name!r} is open: stop it first"
            )
        showings = Counter(self.showings)
        showings[name] += 1
        lesson = Lesson(name=name, showing=showings[name], start_ms=now_ms)
        return Teaching(lessons=(*self.lessons[-_REMEMBERED:], lesson), showings=dict(showings))

    def end(self, now_ms: int) -> tuple["Teaching", Lesson]:
        """Close the open demonstration. Raises ConflictError where none is."""
        if self.open is None:
            raise ConflictError("no demonstration is open: start one first")
        lesson = self.open.model_copy(update={"end_ms": now_ms})
        return self.model_copy(update={"lessons": (*self.lessons[:-1], lesson)}), lesson

    def at(self, time_ms: int) -> Lesson | None:
        """Return the demonstration that a moment belongs to."""
        for lesson in reversed(self.lessons):
            if lesson.start_ms <= time_ms and (lesson.end_ms is None or time_ms <= lesson.end_ms):
                return lesson
        return None
