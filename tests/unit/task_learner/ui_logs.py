"""Synthetic UI logs with known routines: other work, detours, typos, pauses, reorderings between.

`person(seed)` yields events as a browser source would publish them. The chores are a claims desk
(a list, a claimant's card, a form) and a mail room (an inbox row, a status, a note).
"""

import hashlib
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from shared.schemas import (
    Action,
    Element,
    Level,
    Snapshot,
    SnapshotElement,
    Source,
    Target,
    Text,
    UiEvent,
    event_id,
)

BOOT = "test-boot"
FIRST = [
    "Ada", "Bo", "Cleo", "Dov", "Eli", "Fay", "Gus", "Hal", "Ida", "Jon", "Kay", "Leo", "Mia",
    "Ned", "Ora", "Pia", "Quin", "Ray", "Sam", "Tia",
]  # fmt: skip
LAST = [
    "Abel", "Born", "Cole", "Dahl", "Eads", "Finn", "Gray", "Hill", "Ives", "Jung", "Kent",
    "Lund", "Moss", "Nash", "Ott", "Pike",
]  # fmt: skip
TOWNS = [
    "Bern", "Oslo", "Kiel", "Graz", "Lyon", "Turku", "Porto", "Gent", "Riga", "Brno",
]  # fmt: skip


@dataclass
class Log:
    """Collects events of one person in one browser session."""

    rng: random.Random
    user: str = "ada"
    session: str = "s1"
    level: Level = Level.VALUES
    now_ms: int = 1_700_000_000_000
    surface: str = "tab-1"
    demonstration: str | None = None
    showing: int | None = None
    events: list[UiEvent] = field(default_factory=list)
    chores: list[tuple[str, dict[str, str], int]] = field(default_factory=list)
    snapshots: dict[str, bytes] = field(default_factory=dict)
    screen: Snapshot | None = None

    def pause(self, low_s: float, high_s: float) -> None:
        self.now_ms += int(self.rng.uniform(low_s, high_s) * 1000)

    def text(self, value: str, cls: str = "text") -> Text:
        if self.level is Level.VALUES:
            return Text(cls=cls, clear=value)
        hashed = hashlib.sha256(value.encode()).hexdigest()[:16] if len(value) >= 6 else None
        return Text(cls=cls, hash=hashed)

    def show(self, document: str, elements: Iterable[tuple[str, str | None, str]]) -> None:
        """Set the screen: (role, label, text) of what stands on it."""
        self.screen = Snapshot(
            application="https://desk.test", level=self.level, document=document,
            elements=tuple(
                SnapshotElement(index=i, role=r, label=label, text=self.text(t) if t else None)
                for i, (r, label, t) in enumerate(elements)
            ),
        )  # fmt: skip

    def add(
        self, action: Action, document: str, role: str, *, label: str | None = None,
        name: str | None = None, selector: str | None = None, value: str | None = None,
        keys: str | None = None, cls: str = "text",
    ) -> None:  # fmt: skip
        digest = None
        if self.screen is not None:
            data = self.screen.model_dump_json(exclude_none=True).encode()
            digest = hashlib.sha256(data).hexdigest()
            self.snapshots[digest] = data
        data_role = role in ("link", "cell", "row")
        seq = len(self.events)
        clear = None if name is None else (self.text(name) if data_role else Text(clear=name))
        self.events.append(
            UiEvent(
                id=event_id(self.user, Source.BROWSER, self.session, seq), time_ms=self.now_ms,
                user_id=self.user, source=Source.BROWSER, session=self.session, seq=seq,
                boot_id=BOOT, boottime_ms=self.now_ms - 1_699_000_000_000, action=action,
                application="https://desk.test", level=self.level, document=document,
                target=Target(endpoint="b1", surface=self.surface),
                element=Element(role=role, label=label, name=clear, selector=selector)
                if role else None,
                value=None if value is None else self.text(value, cls), keys=keys,
                snapshot=digest, demonstration=self.demonstration, showing=self.showing,
            )
        )  # fmt: skip
        self.pause(0.4, 2.5)

    def link(self, document: str, name: str, selector: str) -> None:
        self.add(Action.CLICK, document, "link", name=name, selector=selector)
        self.pause(0.2, 0.5)
        self.add(Action.NAVIGATE, document + "/next", "")

    def edit(self, document: str, label: str, value: str, role: str = "textbox") -> None:
        if self.rng.random() < 0.5:
            self.add(Action.FOCUS, document, role, label=label)
        if self.rng.random() < 0.15:
            self.add(Action.EDIT, document, role, label=label, value=value + "x")
        self.add(Action.EDIT, document, role, label=label, value=value)

    def button(self, document: str, name: str) -> None:
        self.add(Action.CLICK, document, "button", name=name)


def person_name(rng: random.Random) -> str:
    return f"{rng.choice(FIRST)} {rng.choice(LAST)}"


def peek(log: Log) -> None:
    """Look at something else and come back."""
    kind = log.rng.randrange(4)
    if kind == 0:
        log.link("desk/news", f"Story about {log.rng.choice(TOWNS)}", "main>list>link[3]")
    elif kind == 1:
        log.edit("desk/search", "Search", log.rng.choice(TOWNS).lower(), "searchbox")
        log.add(Action.KEY, "desk/search", "searchbox", label="Search", keys="Enter")
    elif kind == 2:
        log.link("desk/claims", person_name(log.rng), "main>table>row[2]>link")
        log.add(Action.NAVIGATE, "desk/claims", "")
    else:
        log.add(Action.SCROLL, "desk/news", "", keys=None)
        log.add(Action.HOT_KEY, "desk/news", "", keys="Control+C")


def other_work(log: Log, num: int) -> None:
    """Do things that are no routine."""
    for _ in range(num):
        kind = log.rng.randrange(6)
        if kind < 3:
            peek(log)
        elif kind == 3:
            log.edit("desk/notes", "Note", f"call {person_name(log.rng)}")
        elif kind == 4:
            log.button("desk/calendar", log.rng.choice(["Today", "Week", "Month"]))
        else:
            menu = log.rng.choice(["Home", "News", "Claims", "Inbox"])
            log.link("desk/home", menu, "nav>list>link")
    log.pause(5, 40)


def claim(log: Log, detours: float = 0.3) -> None:
    """Copy a claimant's card into the claim form."""
    rng = log.rng
    name, town = person_name(rng), rng.choice(TOWNS)
    record = {
        "name": name, "town": town, "mail": name.lower().replace(" ", ".") + "@desk.test",
        "amount": str(rng.randrange(1000, 99999)), "currency": "EUR",
    }  # fmt: skip
    log.show("desk/claims", [("link", None, name), ("link", None, person_name(rng))])
    if rng.random() < detours / 2:
        log.link("desk/claims", person_name(rng), "main>table>row[7]>link")  # the wrong one
        log.add(Action.NAVIGATE, "desk/claims", "")
    log.link("desk/claims", name, f"main>table>row[{rng.randrange(9)}]>link")
    log.show(
        "desk/card/#",
        [("definition", "Name", name), ("definition", "Town", town),
         ("definition", "Mail", record["mail"])],
    )  # fmt: skip
    log.button("desk/card/17", "New claim")
    log.show("desk/claim", [("heading", None, "New claim")])
    fields = [("E-mail", record["mail"]), ("Full name", name), ("Town", town),
              ("Amount", record["amount"]), ("Currency", "EUR")]  # fmt: skip
    if rng.random() < 0.1:
        i = rng.randrange(4)
        fields[i], fields[i + 1] = fields[i + 1], fields[i]
    for label, value in fields:
        log.edit("desk/claim", label, value)
        if rng.random() < detours / 5:
            peek(log)
    log.button("desk/claim", "Submit claim")
    log.chores.append(("claim", record, len(log.events) - 1))
    log.show("desk/done", [("status", None, f"Claim of {name} stored")])
    log.add(Action.NAVIGATE, "desk/done", "")
    log.pause(3, 15)


def mail(log: Log, detours: float = 0.3) -> None:
    """Register one letter."""
    rng = log.rng
    sender, status = person_name(rng), rng.choice(["open", "urgent", "done later"])
    log.show("desk/inbox", [("row", "Sender", sender), ("row", "Sender", person_name(rng))])
    log.add(Action.DOUBLE_CLICK, "desk/inbox", "row", label="Sender", name=sender)
    log.show("desk/letter", [])
    log.add(Action.SELECT, "desk/letter", "combobox", label="Status", value=status)
    if rng.random() < detours / 2:
        peek(log)
    log.edit("desk/letter", "Remark", f"received from {sender} {rng.randrange(100)}")
    log.add(Action.CLICK, "desk/letter", "checkbox", label="Scanned")
    log.button("desk/letter", "File letter")
    log.chores.append(("mail", {"sender": sender, "status": status}, len(log.events) - 1))
    log.show("desk/filed", [])
    log.add(Action.NAVIGATE, "desk/filed", "")
    log.pause(3, 15)


def person(
    seed: int,
    claims: int = 12,
    mails: int = 0,
    *,
    work: int = 4,
    detours: float = 0.3,
    **log: object,
) -> Log:
    """Return a day at the desk."""
    result = Log(random.Random(seed), **log)  # noqa: S311
    chores = ["claim"] * claims + ["mail"] * mails
    result.rng.shuffle(chores)
    for chore in chores:
        other_work(result, result.rng.randrange(work + 1))
        (claim if chore == "claim" else mail)(result, detours)
    other_work(result, 2)
    return result


def shuffled(log: Log) -> Iterator[UiEvent]:
    """Yield the same events with everything but their times and places shuffled."""
    events = list(log.events)
    order = list(range(len(events)))
    log.rng.shuffle(order)
    for place, event in zip(log.events, (events[i] for i in order), strict=True):
        yield event.model_copy(
            update={
                "id": place.id, "seq": place.seq, "time_ms": place.time_ms,
                "boottime_ms": place.boottime_ms,
            }
        )  # fmt: skip
