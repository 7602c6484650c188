"""A small application in memory and the screen to act on it: what a browser and a server are.

Its form takes a customer and a city; Save stores an order and shows it. Faults are switched on one
by one, so that a test can meet each exactly when it wants.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from services.agent_runner.actuators import Performed
from shared.errors import ActuatorError, StepRefused
from shared.schemas import Level, Snapshot, SnapshotElement, Target, Text

ORIGIN = "http://desk.test"
START_URL = f"{ORIGIN}/form"
FIELDS = ("Customer", "City")


def text(clear: str) -> Text | None:
    return Text(clear=clear) if clear else None


@dataclass
class Desk:
    """The application: what it stored outlives every screen on it."""

    orders: list[dict[str, str]] = field(default_factory=list)
    acts: list[str] = field(default_factory=list)  # everything that was ever done to it
    one_page: bool = False  # Save stays on the form, which shows the last order
    extra_field: str | None = None
    save_does_nothing: bool = False
    save_shows_nothing: bool = False
    hooks: dict[str, Callable[[], None]] = field(default_factory=dict)  # before an op on a label
    # Once it was done: raised, or set and then waited for without end (a crash comes here).
    after: dict[str, Exception | asyncio.Event] = field(default_factory=dict)
    opening: asyncio.Event | None = None  # the same where a page is being opened
    away: bool = False  # no page can be opened
    prefilled: str = ""
    pause: asyncio.Event | None = None  # an act under way waits for it
    under_way: asyncio.Event = field(default_factory=asyncio.Event)


class DeskScreen:
    """One screen on a Desk."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.page = "/blank"
        self.filled: dict[str, str] = {}
        self.open_ = True

    @property
    def target(self) -> Target:
        return Target(endpoint="desk", surface="one")

    async def open(self, url: str) -> None:
        self._check()
        if self.desk.away:
            raise ActuatorError("the application does not answer")
        if self.desk.opening is not None:
            self.desk.opening.set()
            await asyncio.Event().wait()
        self.page, self.filled = url.removeprefix(ORIGIN), {}
        if self.desk.prefilled:
            self.filled["City"] = self.desk.prefilled

    async def observe(self) -> Snapshot:
        self._check()
        return Snapshot(
            application="desk",
            level=Level.VALUES,
            document=ORIGIN + self.page,
            elements=tuple(self._form() if self.page == "/form" else self._saved()),
        )

    async def perform(
        self, op: str, element: int, *, text: str | None = None, key: str | None = None
    ) -> Performed:
        self._check()
        target = (await self.observe()).elements[element]
        label = target.label or (target.name.clear if target.name else "") or ""
        if f"{op} {label}" in self.desk.hooks:
            self.desk.hooks[f"{op} {label}"]()
        self.desk.under_way.set()
        if self.desk.pause is not None:
            await self.desk.pause.wait()
            self._check()
        self._do(op, label, text)
        after = self.desk.after.get(f"{op} {label}")
        if isinstance(after, Exception):
            raise after
        if after is not None:
            after.set()
            await asyncio.Event().wait()
        return Performed(f"{op} on {label}")

    async def settle(self, timeout_ms: int = 3000) -> bool:
        return True

    async def close(self) -> None:
        self.open_ = False
        if self.desk.pause is not None:
            self.desk.pause.set()

    def _check(self) -> None:
        if not self.open_:
            raise ActuatorError("the screen was let go")

    def _do(self, op: str, label: str, value: str | None) -> None:
        self.desk.acts.append(f"{op} {label}")
        if op == "type_text":
            if label not in FIELDS:
                raise StepRefused(f"{label} takes no text")
            self.filled[label] = value or ""
        elif label == "Save" and not self.desk.save_does_nothing:
            self.desk.orders.append(dict(self.filled))
            if self.desk.one_page:
                self.filled = {}
            elif not self.desk.save_shows_nothing:
                self.page = "/saved"

    def _form(self) -> list[SnapshotElement]:
        elements = [
            SnapshotElement(index=0, role="heading", text=text("New order")),
            SnapshotElement(index=1, role="form", tag="form"),
        ]
        for label in (*FIELDS, *filter(None, (self.desk.extra_field,))):
            elements.append(
                SnapshotElement(
                    index=len(elements),
                    parent=1,
                    role="textbox",
                    label=label,
                    value=text(self.filled.get(label, "")),
                    states=("required",) if label == self.desk.extra_field else (),
                )
            )
        elements.append(
            SnapshotElement(index=len(elements), parent=1, role="button", name=text("Save"))
        )
        if self.desk.one_page and self.desk.orders:
            elements += _order(self.desk.orders[-1], len(elements))
        return elements

    def _saved(self) -> list[SnapshotElement]:
        shown = _order(self.filled, 1)
        return [
            SnapshotElement(index=0, role="heading", text=text("Order saved")),
            *shown,
            SnapshotElement(index=1 + len(shown), role="link", name=text("New order")),
        ]


def _order(order: dict[str, str], at: int) -> list[SnapshotElement]:
    cells = [
        SnapshotElement(index=at + 1 + i, parent=at, role="cell", label=name, text=text(value))
        for i, (name, value) in enumerate(order.items())
    ]
    return [SnapshotElement(index=at, role="region"), *cells]
