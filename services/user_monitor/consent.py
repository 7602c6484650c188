"""What the user allowed, since when, and what is excluded; nothing is captured without it. Pure.

Reads: the rows of `TABLES`. Writes: statements for them. Nothing is ever erased here: a revoked
consent keeps its dates, so it can be shown what was allowed when.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from functools import lru_cache
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from shared.schemas import Frozen, Level, Source
from shared.secret_kinds import KEEPABLE
from shared.store import Statement

__all__ = [
    "TABLES",
    "Allowance",
    "Consent",
    "ConsentAsked",
    "Consents",
    "Exclusion",
    "ExclusionAsked",
    "Place",
]

TABLES = """
CREATE TABLE IF NOT EXISTS consents(id TEXT PRIMARY KEY, since_ms INTEGER NOT NULL,
  revoked_ms INTEGER, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS exclusions(id TEXT PRIMARY KEY, since_ms INTEGER NOT NULL,
  body TEXT NOT NULL);
"""

Pattern = Annotated[str, Field(min_length=1, max_length=300)]


class ConsentAsked(Frozen):
    """What a person allows. A misspelled field is refused: without it more would be allowed."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "anyOf": [
                {"properties": {"attach_url": {"type": "null"}}},
                {"properties": {"source": {"const": Source.BROWSER}}, "required": ["source"]},
            ]
        },
    )

    application: Annotated[
        Pattern, Field(description="the application's name, or * for every one")
    ] = "*"
    source: Annotated[Source | None, Field(description="None: every source")] = None
    level: Level = Level.STRUCTURE
    url: Annotated[
        Pattern | None, Field(description="only at URLs like this; * and ? stand for anything")
    ] = None
    keep: Annotated[
        tuple[str, ...],
        Field(
            description="kinds of personal data to keep",
            json_schema_extra={"items": {"enum": sorted(KEEPABLE)}},
        ),
    ] = ()
    attach_url: Annotated[
        str | None,
        Field(
            description="debugging port that may be attached to, for example http://127.0.0.1:9222"
        ),
    ] = None

    @field_validator("keep")
    @classmethod
    def _keepable(cls, keep: tuple[str, ...]) -> tuple[str, ...]:
        wrong = sorted(set(keep) - KEEPABLE)
        if wrong:
            raise ValueError(
                f"{', '.join(wrong)} cannot be kept: choose from {', '.join(sorted(KEEPABLE))}"
            )
        return tuple(sorted(set(keep)))

    @model_validator(mode="after")
    def _attach_is_browser(self) -> Self:
        if self.attach_url is not None and self.source is not Source.BROWSER:
            raise ValueError("attach_url belongs to a consent with source browser")
        return self


class Consent(ConsentAsked):
    """A stored statement; it holds until it is revoked."""

    model_config = ConfigDict(extra="ignore")

    id: str
    since_ms: int
    revoked_ms: int | None = None

    def insert(self) -> Statement:
        """Return the statement that stores it."""
        return (
            "INSERT INTO consents(id, since_ms, revoked_ms, body) VALUES (?, ?, ?, ?)",
            (self.id, self.since_ms, self.revoked_ms, self.model_dump_json()),
        )

    def revoke(self, now_ms: int) -> tuple["Consent", Statement]:
        """Return it as revoked, and the statement that stores that."""
        revoked = self.model_copy(update={"revoked_ms": now_ms})
        return revoked, (
            "UPDATE consents SET revoked_ms = ?, body = ? WHERE id = ?",
            (now_ms, revoked.model_dump_json(), self.id),
        )


class ExclusionAsked(Frozen):
    """What is never captured. A pattern without * or ? may stand anywhere in the text."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["application", "title", "url"]
    pattern: Pattern


class Exclusion(ExclusionAsked):
    """A stored exclusion."""

    model_config = ConfigDict(extra="ignore")

    id: str
    since_ms: int

    def insert(self) -> Statement:
        """Return the statement that stores it."""
        return (
            "INSERT INTO exclusions(id, since_ms, body) VALUES (?, ?, ?)",
            (self.id, self.since_ms, self.model_dump_json()),
        )

    def delete(self) -> Statement:
        """Return the statement that removes it."""
        return "DELETE FROM exclusions WHERE id = ?", (self.id,)


@dataclass(frozen=True)
class Place:
    """Where something happened, as far as its source can tell."""

    source: Source
    untrusted_application: str
    untrusted_title: str | None = None
    untrusted_url: str | None = None


@dataclass(frozen=True)
class Allowance:
    """What may be kept of an event."""

    level: Level
    keep: frozenset[str]
    consent_id: str = ""


@lru_cache(maxsize=512)
def _glob(pattern: str, *, anywhere: bool) -> re.Pattern[str]:
    folded = pattern.casefold()
    if anywhere and not set("*?[") & set(folded):
        return re.compile(re.escape(folded))
    return re.compile(rf"\A{translate(folded)}")


def _like(text: str | None, pattern: str, *, anywhere: bool = False) -> bool:
    return text is not None and bool(_glob(pattern, anywhere=anywhere).search(text.casefold()))


def _specificity(consent: Consent) -> tuple[bool, bool, bool, int]:
    named = consent.application != "*"
    return consent.url is not None, named, consent.source is not None, consent.since_ms


@dataclass
class Consents:
    """All statements; `allowance` is the only way from a place to a permission."""

    consents: dict[str, Consent] = field(default_factory=dict)
    exclusions: dict[str, Exclusion] = field(default_factory=dict)
    num_decisions: int = 0
    """Grows with every change, so that work done under older statements can be told."""

    @classmethod
    def load(
        cls, consent_rows: Iterable[Sequence[str]], exclusion_rows: Iterable[Sequence[str]]
    ) -> "Consents":
        """Read the bodies stored in both tables."""
        consents = [Consent.model_validate_json(row[0]) for row in consent_rows]
        exclusions = [Exclusion.model_validate_json(row[0]) for row in exclusion_rows]
        return cls({c.id: c for c in consents}, {e.id: e for e in exclusions})

    def put(self, given: Consent) -> None:
        """Let a consent hold, or its revocation."""
        self.consents[given.id] = given
        self.num_decisions += 1

    def exclude(self, exclusion: Exclusion) -> None:
        """Let an exclusion hold."""
        self.exclusions[exclusion.id] = exclusion
        self.num_decisions += 1

    def include(self, exclusion_id: str) -> None:
        """Let an exclusion no longer hold."""
        del self.exclusions[exclusion_id]
        self.num_decisions += 1

    def live(self, source: Source) -> list[Consent]:
        """Return the unrevoked consents that cover `source`."""
        return [
            c for c in self.consents.values() if c.revoked_ms is None and c.source in (None, source)
        ]

    def may_attach(self, attach_url: str) -> bool:
        """Say whether a consent names this debugging port."""
        wanted = attach_url.rstrip("/")
        named = (c.attach_url for c in self.live(Source.BROWSER) if c.attach_url is not None)
        return any(url.rstrip("/") == wanted for url in named)

    def excluded(self, place: Place) -> bool:
        """Say whether an exclusion matches."""
        texts = {
            "application": place.untrusted_application,
            "title": place.untrusted_title,
            "url": place.untrusted_url,
        }
        return any(_like(texts[e.kind], e.pattern, anywhere=True) for e in self.exclusions.values())

    def allowance(self, place: Place) -> Allowance | None:
        """Return what may be kept of an event at `place`; None: nothing, it is not captured.

        The most specific consent decides (URL, then application, then source), then the newest.
        """
        if self.excluded(place):
            return None
        fitting = [
            c
            for c in self.live(place.source)
            if (c.application == "*" or _like(place.untrusted_application, c.application))
            and (c.url is None or _like(place.untrusted_url, c.url))
        ]
        if not fitting:
            return None
        best = max(fitting, key=_specificity)
        return Allowance(best.level, frozenset(best.keep), best.id)
