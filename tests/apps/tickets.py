"""A help desk: another application with another chore, for tests of the whole pipeline.

Open a ticket by its number, triage it in a dialog (native list, radio buttons, a line of text, a
box to tick), close it. Shares nothing with the order desk but the way it is served.
"""

import sqlite3
import threading
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.exceptions import HTTPException

from demo.server import Server
from demo.words import chance

VARIANTS = ("watch", "act", "changed")
CATEGORIES = ("Access", "Backups", "E-mail", "Hardware", "Network", "Phones", "Printing", "Website")
URGENCIES = ("Today", "This week", "Whenever")
_SENDERS = ("b.akter", "c.duarte", "e.falk", "j.o'hara", "k.ito", "m.sørli", "p.zelenka", "r.amin")
_THINGS = (
    "badge reader",
    "café till",
    "door panel",
    "label printer",
    "meeting room 4",
    "mother's-room lock",
    "projector",
    "shared mailbox",
    "VPN",
    "warehouse tablet",
)
_TROUBLES = (
    "beeps & restarts",
    "forgets who I am",
    "has been off since 7:30",
    "is slow - very slow",
    "says “no route”",
    "shows last year's dates",
    "won't open",
)
_PAGES = Path(__file__).parent / "tickets_pages"
_LAYOUT = Template((_PAGES / "layout.html").read_text("utf-8"))
_TICKET = Template((_PAGES / "ticket.html").read_text("utf-8"))
_SHIFTS = "".join(
    f"<li>{day}: {who}</li>"
    for day, who in zip(("Mon", "Tue", "Wed", "Thu", "Fri"), _SENDERS, strict=False)
)
_KEYS = ("category", "urgency", "summary", "reply", "triage", "close", "later", "open", "closed")


def _tickets(seed: int, variant: str) -> dict[str, dict[str, str]]:
    """Draw numbers and subjects that no other variant of the seed has."""
    place = VARIANTS.index(variant)
    subjects = [f"{thing} {trouble}" for thing in _THINGS for trouble in _TROUBLES]
    own = chance("subjects", seed).sample(subjects, len(subjects))[place :: len(VARIANTS)]
    rng = chance("tickets", seed, variant)
    numbers = rng.sample(range(1000 + place, 9000, len(VARIANTS)), len(own))
    return {
        f"T-{number}": {
            "summary": subject[0].upper() + subject[1:],
            "category": rng.choice(CATEGORIES),
            "urgency": rng.choice(URGENCIES),
            "sender": rng.choice(_SENDERS),
        }
        for number, subject in zip(numbers, own, strict=True)
    }


class Tickets(Server):
    """The help desk of one seed and variant, served while the `with` block lasts."""

    def __init__(self, seed: int = 0, variant: str = "watch", *, port: int = 0) -> None:
        """Arrange it; variant "changed" closes tickets by a button that also deletes them."""
        self._seed = seed
        rng = chance("desk", seed, variant)
        numbers = rng.sample(range(100, 200), len(_KEYS))
        self._ids = {key: f"c{number}" for key, number in zip(_KEYS, numbers, strict=True)}
        self._blocks = rng.sample(("category", "urgency", "summary", "reply"), 4)
        self._categories = rng.sample(CATEGORIES, len(CATEGORIES))
        self._button = "Close and delete ticket" if variant == "changed" else "Close ticket"
        self._tickets = _tickets(seed, variant)
        self._lock = threading.Lock()
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        self._database.execute(
            "CREATE TABLE closed (number PRIMARY KEY, category, urgency, summary, reply, button)"
        )
        super().__init__(self._application(), port)
        self.url += "/board"

    def records(self, num: int = 5) -> list[dict[str, str]]:
        """Pick tickets to close, as what the page calls it → value."""
        picked = chance("chores", self._seed).sample(list(self._tickets.items()), num)
        return [
            {
                "Ticket": number,
                "Category": ticket["category"],
                "Urgency": ticket["urgency"],
                "Summary": ticket["summary"],
            }
            for number, ticket in picked
        ]

    def expected(self, record: Mapping[str, str]) -> dict[str, str]:
        """Say what `closed` must return for a ticket that was closed right."""
        return {**record, "Reply": "yes", "Button": "Close ticket"}

    def closed(self) -> list[dict[str, str]]:
        """Return the tickets closed, oldest first."""
        names = ("Ticket", "Category", "Urgency", "Summary", "Reply", "Button")
        with self._lock:
            rows = self._database.execute("SELECT * FROM closed ORDER BY rowid").fetchall()
        return [dict(zip(names, row, strict=True)) for row in rows]

    def close(self) -> None:
        self._database.close()

    def _application(self) -> FastAPI:
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        app.get("/board", response_class=HTMLResponse)(self._board)
        app.get("/ticket/{number}", response_class=HTMLResponse)(self._ticket)
        app.post("/ticket/{number}")(self._close)
        app.get("/rota", response_class=HTMLResponse)(self._rota)
        return app

    def _page(self, title: str, body: str) -> str:
        return _LAYOUT.substitute(title=escape(title), body=body)

    async def _board(self, just: str = "") -> str:
        closed = {row["Ticket"]: row for row in self.closed()}
        lists = {"open": "", "closed": ""}
        for number, ticket in self._tickets.items():
            lists["closed" if number in closed else "open"] += (
                f'<li><a href="/ticket/{number}">{number}</a>'
                f"<span>{escape(ticket['summary'])}</span><i>{escape(ticket['sender'])}</i></li>"
            )
        toast = ""
        if row := closed.get(just):
            said = f"{just} is closed: {row['Category']}, {row['Urgency']}, {row['Summary']}"
            toast = f'<p class="toast" role="status">{escape(said)}</p>'
        tabs = "".join(
            f'<button role="tab" id="{self._ids[key]}" aria-controls="list-{key}"'
            f' aria-selected="{str(key == "open").lower()}">{key.title()}</button>'
            for key in lists
        )
        panels = "".join(
            f'<ul role="tabpanel" id="list-{key}" aria-labelledby="{self._ids[key]}"'
            f"{'' if key == 'open' else ' hidden'}>{items}</ul>"
            for key, items in lists.items()
        )
        body = f'{toast}<h1>Inbox</h1><div role="tablist">{tabs}</div>{panels}'
        return self._page("Inbox", body)

    async def _ticket(self, number: str) -> str:
        if number not in self._tickets:
            raise HTTPException(404, "no such ticket")
        ticket = {key: escape(value) for key, value in self._tickets[number].items()}
        page = _TICKET.substitute(
            number=number,
            button=self._button,
            fields="".join(getattr(self, f"_{block}")() for block in self._blocks),
            triage_id=self._ids["triage"],
            close_id=self._ids["close"],
            later_id=self._ids["later"],
            **ticket,
        )
        return self._page(number, page)

    def _category(self) -> str:
        name = self._ids["category"]
        options = "".join(f"<option>{category}</option>" for category in self._categories)
        return (
            f'<p><label for="{name}">Category</label><select id="{name}" name="{name}" required>'
            f'<option value="">…</option>{options}</select></p>'
        )

    def _urgency(self) -> str:
        name = self._ids["urgency"]
        radios = "".join(
            f'<label><input type="radio" name="{name}" value="{text}" required>{text}</label>'
            for text in URGENCIES
        )
        return f"<fieldset><legend>Urgency</legend>{radios}</fieldset>"

    def _summary(self) -> str:
        name = self._ids["summary"]
        return (
            f'<p><label for="{name}">Summary</label><input id="{name}" name="{name}" required></p>'
        )

    def _reply(self) -> str:
        name = self._ids["reply"]
        return (
            f'<p class="tick"><label><input type="checkbox" id="{name}" name="{name}" value="yes"'
            " required>Tell the sender</label></p>"
        )

    async def _close(self, number: str, request: Request) -> RedirectResponse:
        if number not in self._tickets:
            raise HTTPException(404, "no such ticket")
        sent = parse_qs((await request.body()).decode())
        values = [sent.get(self._ids[key], [""])[-1] for key in _KEYS[:4]]
        if not all(values):
            raise HTTPException(422, "something is missing")
        with self._lock, self._database:
            self._database.execute(
                "INSERT OR REPLACE INTO closed VALUES (?, ?, ?, ?, ?, ?)",
                (number, *values, self._button),
            )
        return RedirectResponse(f"/board?just={number}", 303)

    async def _rota(self) -> str:
        return self._page("Rota", f"<h1>Rota</h1><ul class='rota'>{_SHIFTS}</ul>")
