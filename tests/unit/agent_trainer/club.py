"""A club's membership desk, without a browser: pages as snapshots, actions as transitions.

Applicants stand in a list; their card is copied into an enrolment form. A seed decides the
records, the order of rows, fields and choices, and the ids. `demonstrate` plays a person.
"""

import random
from dataclasses import dataclass, field

from shared.manifest import ActionEntry
from shared.schemas import (
    Action,
    Element,
    Level,
    Origin,
    Parameter,
    ParameterSource,
    Routine,
    RoutineStatus,
    Snapshot,
    SnapshotElement,
    Source,
    Text,
    Trace,
    TraceRef,
    UiEvent,
)

ORIGIN = "http://club.test"
FIRST = (
    "Ada",
    "Ben",
    "Cleo",
    "Dora",
    "Emil",
    "Fay",
    "Gus",
    "Hugo",
    "Ines",
    "Jon",
    "Kaya",
    "Lev",
    "Mona",
    "Nils",
    "Olga",
    "Pia",
)
LAST = (
    "Ash",
    "Brook",
    "Cole",
    "Dale",
    "East",
    "Ford",
    "Glen",
    "Hall",
    "Isle",
    "Jett",
    "Kirk",
    "Lane",
    "Moor",
    "North",
    "Oak",
    "Park",
)
TOWNS = (
    "Aldham",
    "Burley",
    "Corby",
    "Denton",
    "Elmley",
    "Fenby",
    "Gorton",
    "Hadley",
)
SPORTS = ("Rowing", "Tennis", "Chess", "Judo", "Fencing", "Archery")
FIELDS = ("member", "phone", "town", "sport", "visits", "code")
LABELS = {
    "member": "Member", "phone": "Phone", "town": "Town", "sport": "Sport",
    "visits": "Visits a week", "code": "Application code",
}  # fmt: skip
ON_CARD = {**LABELS, "member": "Applicant", "visits": "How often", "code": "File no."}
ROLES = {"sport": "combobox", "visits": "spinbutton"}


@dataclass
class Club:
    """One state of the application, seen by one person."""

    seed: int
    num_applicants: int = 12
    extra_field: str | None = None  # a new required field
    save_label: str = "Enrol"
    town_label: str = LABELS["town"]
    asks: bool = False  # a dialog opens before it saves
    url: str = "/applicants"
    form: dict[str, str] = field(default_factory=dict)
    agreed: bool = False
    dialog: bool = False
    saved: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = random.Random(self.seed)  # noqa: S311
        self.records = [self._record(rng) for _ in range(self.num_applicants)]
        twin = dict(self.records[1], member=self.records[0]["member"] + "-Zell")
        self.records.append(twin)  # a name that another one begins with
        rng.shuffle(self.records)
        self.fields = rng.sample(FIELDS, len(FIELDS))
        self.sports = rng.sample(SPORTS, len(SPORTS))
        self.ids = rng.sample(range(1000), 500)
        self.open: dict[str, str] | None = None

    @staticmethod
    def _record(rng: random.Random) -> dict[str, str]:
        return {
            "member": f"{rng.choice(FIRST)} {rng.choice(LAST)}{rng.choice('aeiou')}"
            f"{rng.choice('nrst')}",
            "phone": f"0{rng.randint(100, 999)} {rng.randint(10000, 99999)}",
            "town": rng.choice(TOWNS),
            "sport": rng.choice(SPORTS),
            "visits": str(rng.randint(1, 14)),
            "code": f"AP-{rng.randint(1000, 9999)}",
        }

    # -- what is seen ---------------------------------------------------------------------------
    def screen(self) -> Snapshot:
        page = _Page(self.ids)
        nav = page.add("navigation", tag="nav", label="Main")
        for name in ("Applicants", "Members", "News"):
            page.add("link", nav, name=name)
        main = page.add("main")
        if self.url == "/applicants":
            self._list(page, main)
        elif self.url.startswith("/applicants/"):
            self._card(page, main)
        elif self.url.startswith("/enrol"):
            self._form(page, main)
        elif self.url == "/members":
            self._members(page, main)
        else:
            page.add("heading", main, text="News")
        path = "/applicants/#" if self.url.startswith("/applicants/") else self.url.split("?")[0]
        return Snapshot(
            application="browser", level=Level.VALUES, document=ORIGIN + path,
            elements=tuple(page.elements),
        )  # fmt: skip

    def _list(self, page: "_Page", main: int) -> None:
        page.add("heading", main, text="Applicants")
        page.add("searchbox", main, label="Filter", value="")
        table = page.add("table", main)
        head = page.add("row", table)
        for name in ("Applicant", "Town", "Sport", "State"):
            page.add("columnheader", head, text=name)
        for record in self.records:
            row = page.add("row", table)
            cell = page.add("cell", row, label="Applicant")
            page.add("link", cell, name=record["member"], label="Applicant")
            for key in ("town", "sport"):
                page.add("cell", row, label=LABELS[key], text=record[key])
            done = any(s["code"] == record["code"] for s in self.saved)
            page.add("cell", row, label="State", text="Done" if done else "New")

    def _card(self, page: "_Page", main: int) -> None:
        page.add("heading", main, text=self.open["member"])
        page.add("link", main, name="Enrol this applicant")
        self._facts(page, page.add("region", main, label="Applicant"), self.open, ON_CARD)

    def _facts(
        self, page: "_Page", parent: int, record: dict[str, str], names: dict[str, str]
    ) -> None:
        for key in FIELDS:
            page.add("term", parent, text=names[key])
            page.add("definition", parent, text=record[key], label=names[key])

    def _form(self, page: "_Page", main: int) -> None:
        page.add("heading", main, text="New member")
        form = page.add("form", main, tag="form")
        for key in self.fields:
            label = self.town_label if key == "town" else LABELS[key]
            options = self.sports if key == "sport" else ()
            page.add(
                ROLES.get(key, "textbox"), form, label=label, value=self.form.get(key, ""),
                options=options, states=("required",),
            )  # fmt: skip
        if self.extra_field:
            page.add("textbox", form, label=self.extra_field, value="", states=("required",))
        states = ("checked",) if self.agreed else ()
        page.add("checkbox", form, label="Rules were accepted", states=states)
        page.add("button", form, name=self.save_label)
        page.add("link", form, name="Discard")
        aside = page.add("complementary", main, label="From the application")
        self._facts(page, aside, self.open, ON_CARD)
        if self.dialog:
            dialog = page.add("dialog", main, name="Entrance fee")
            page.add("button", dialog, name="Charge it")

    def _members(self, page: "_Page", main: int) -> None:
        if self.saved:
            status = page.add("status", main)
            page.add("heading", status, text=f"Member {100 + len(self.saved)} enrolled")
            self._facts(page, status, self.saved[-1], LABELS)
        page.add("heading", main, text="Members")
        table = page.add("table", main)
        for record in reversed(self.saved):
            row = page.add("row", table)
            for key in FIELDS:
                page.add("cell", row, label=LABELS[key], text=record[key])

    # -- what can be done -----------------------------------------------------------------------
    def act(self, action: ActionEntry, index: int, text: str | None = None) -> None:
        """Do one step. Raises ValueError for what this application cannot do."""
        element = {e.index: e for e in self.screen().elements}[index]
        key = next((k for k, v in LABELS.items() if v == element.label), None)
        if action.op in ("type_text", "select_option"):
            if key is None or element.role != ROLES.get(key, "textbox"):
                raise ValueError(f"cannot enter anything in {element}")
            self.form[key] = text or ""
        elif action.op == "click":
            self._click(element)
        else:
            raise ValueError(f"cannot {action.op}")

    def _click(self, element: SnapshotElement) -> None:
        name = element.name.clear if element.name else element.label
        if name in ("Applicants", "Members", "News"):
            self.url = "/" + name.lower()
        elif element.label == "Applicant" and element.role == "link":
            self.open = next(r for r in self.records if r["member"] == name)
            self.url = f"/applicants/{self.records.index(self.open) + 7}"
        elif name == "Enrol this applicant":
            self.form, self.agreed, self.dialog = {}, False, False
            self.url = "/enrol"
        elif element.role == "checkbox":
            self.agreed = not self.agreed
        elif name == self.save_label and self.asks and not self.dialog:
            self.dialog = True
        elif name in (self.save_label, "Charge it"):
            if self.agreed and len(self.form) == len(FIELDS):
                self.saved.append(dict(self.form))
                self.url = "/members"
        elif name == "Discard":
            self.url = "/applicants"
        elif element.role not in ("searchbox",):
            raise ValueError(f"cannot click {element}")


class _Page:
    def __init__(self, ids: list[int]) -> None:
        self.ids = ids
        self.elements: list[SnapshotElement] = []

    def add(
        self, role, parent=None, *, tag="", name=None, label=None, text=None, value=None,
        options=(), states=(),
    ) -> int:  # fmt: skip
        index = len(self.elements)

        def wrap(clear):
            return None if clear is None else Text(clear=clear)

        self.elements.append(
            SnapshotElement(
                index=index, parent=parent, role=role, tag=tag,
                element_id=f"n{self.ids[index % 500]}", name=wrap(name), label=label,
                text=wrap(text), value=wrap(value), states=tuple(states),
                options=tuple(Text(clear=o) for o in options),
            )
        )  # fmt: skip
        return index


def find(screen: Snapshot, role: str, name: str) -> int:
    """Return the index of the element a person would call this."""
    return next(
        e.index for e in screen.elements
        if e.role == role and name in ((e.name and e.name.clear), e.label)
    )  # fmt: skip


@dataclass
class Recorder:
    """Plays a person at the club and writes down traces and snapshots, as the learner would."""

    club: Club
    session: str
    routine_id: str = "routine-club"
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    num_events: int = 0

    def demonstrate(self, record: dict[str, str], rng: random.Random) -> Trace:
        """Do the chore once for a record."""
        self.events: list[UiEvent] = []
        if self.club.url != "/applicants":
            self.do(Action.CLICK, "link", "Applicants")
        self.do(Action.CLICK, "link", record["member"])
        self.do(Action.CLICK, "link", "Enrol this applicant")
        order = [*self.club.fields, "agreed"]
        if rng.random() < 0.3:
            rng.shuffle(order)
        for key in order:
            if key == "agreed":
                self.do(Action.CLICK, "checkbox", "Rules were accepted")
                continue
            role = ROLES.get(key, "textbox")
            if rng.random() < 0.5:
                self.do(Action.CLICK, role, LABELS[key], acts=False)  # moves the focus
            kind = Action.SELECT if key == "sport" else Action.EDIT
            self.do(kind, role, LABELS[key], record[key])
        self.do(Action.CLICK, "button", self.club.save_label)
        return Trace(
            trace_id=f"{self.session}-{self.num_events}", routine_id=self.routine_id,
            user_id="u", events=tuple(self.events), parameters=dict(record),
            final_snapshot=self.keep(self.club.screen()),
        )  # fmt: skip

    def do(self, kind: Action, role: str, name: str, value=None, *, acts=True) -> None:
        screen = self.club.screen()
        index = find(screen, role, name)
        shown = next(e for e in screen.elements if e.index == index)
        self.num_events += 1
        self.events.append(
            UiEvent(
                id=f"{self.session}-{self.num_events}", time_ms=1000 * self.num_events,
                user_id="u", source=Source.BROWSER, session=self.session, seq=self.num_events,
                action=kind, application="browser", level=Level.VALUES,
                url=Text(clear=ORIGIN + self.club.url), document=screen.document,
                element=Element(role=role, name=shown.name, label=shown.label, index=index),
                value=None if value is None else Text(clear=value), snapshot=self.keep(screen),
            )
        )  # fmt: skip
        if acts:
            op = {Action.CLICK: "click", Action.SELECT: "select_option"}.get(kind, "type_text")
            entry = ActionEntry(op=op, slot=None if op == "click" else "x")
            self.club.act(entry, index, value)

    def keep(self, screen: Snapshot) -> str:
        import hashlib

        digest = hashlib.sha256(screen.model_dump_json().encode()).hexdigest()
        self.snapshots[digest] = screen
        return digest


def demonstrations(
    num: int, seed: int = 5, num_sessions: int = 1
) -> tuple[list[Trace], dict[str, Snapshot]]:
    """Return traces of one person at one club, and the snapshots they refer to."""
    traces: list[Trace] = []
    snapshots: dict[str, Snapshot] = {}
    rng = random.Random(seed)  # noqa: S311
    for part in range(num_sessions):
        recorder = Recorder(Club(seed), f"session-{part}", snapshots=snapshots)
        own = range(part, num, num_sessions)
        for record in rng.sample(recorder.club.records, len(own)):
            traces.append(recorder.demonstrate(record, rng))
    return traces, snapshots


def routine(traces: list[Trace], digests: list[str] | None = None, **changes) -> Routine:
    """Return the routine that the learner would publish for these traces."""
    digests = digests or ["0" * 64] * len(traces)
    values = {
        "routine_id": "routine-club", "revision": 1, "user_id": "u", "name": "Enrol applicants",
        "origin": Origin.MINED, "status": RoutineStatus.APPROVED, "level": Level.VALUES,
        "applications": ("browser",), "steps": (), "support": len(traces), "coverage": 0.5,
        "median_ms": 9000, "id": "routine-club-1", "time_ms": 1,
        "parameters": tuple(
            Parameter(name=k, source=ParameterSource.SCREEN, value_class="text") for k in FIELDS
        ),
        "traces": tuple(
            TraceRef(
                trace_id=t.trace_id, digest=d, session=t.events[0].session,
                started_ms=t.events[0].time_ms, ended_ms=t.events[-1].time_ms,
            )
            for t, d in zip(traces, digests, strict=True)
        ),
    }  # fmt: skip
    return Routine(**{**values, **changes})
