"""Synthetic chores on one page: screens with a sentence, and what was done on them.

All of them share application, address and window, as in one big web application.
"""

import json
import random
from dataclasses import dataclass, field

from services.task_learner.actions import UserAction, normalise
from services.task_learner.cases import sight_of
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
from tests.unit.task_learner.ui_logs import BOOT

NAMES = [f"{a}{b}" for a in ("An", "Bo", "Cle", "Do", "El", "Fa", "Gu", "Hi") for b in
         ("ra", "dik", "lin", "ton", "mes", "vik")]  # fmt: skip
APPLICATION, DOCUMENT = "https://desk.test", "desk"


@dataclass
class Pages:
    """Collects what was done, with the screens, and which case each event belongs to."""

    seed: int
    told: bool = True  # the sentence is shown
    session: str = "s1"
    events: list[UiEvent] = field(default_factory=list)
    screens: dict[str, bytes] = field(default_factory=dict)
    truth: list[tuple[str, int]] = field(default_factory=list)

    def __post_init__(self):
        self.rng = random.Random(self.seed)  # noqa: S311

    def show(self, elements):
        """Return a screen of (role, id, text, value, states)."""
        return Snapshot(
            application=APPLICATION, level=Level.VALUES, document=DOCUMENT,
            elements=tuple(
                SnapshotElement(
                    index=i, role=role, tag="div", element_id=name or None,
                    text=Text(clear=text) if text else None,
                    value=Text(clear=value) if value else None, states=states,
                )
                for i, (role, name, text, value, states) in enumerate(elements)
            ),
        )  # fmt: skip

    def act(self, screen, index, action, time_ms, case, value=None):
        """Note one action on an element of a screen."""
        data = screen.model_dump_json(exclude_none=True).encode()
        element = screen.elements[index]
        seq = len(self.events)
        digest = f"{seq:064x}"
        self.screens[digest] = data
        self.truth.append(case)
        self.events.append(UiEvent(
            id=event_id("ada", Source.BROWSER, self.session, seq), time_ms=time_ms,
            user_id="ada", source=Source.BROWSER, session=self.session, seq=seq, boot_id=BOOT,
            boottime_ms=time_ms - 1_699_000_000_000, action=action, application=APPLICATION,
            level=Level.VALUES, document=DOCUMENT, target=Target(endpoint="b1", surface="t1"),
            element=Element(role=element.role, name=element.text, index=index,
                            selector=f"div:nth({index})"),
            value=Text(clear=value) if value else None, snapshot=digest,
        ))  # fmt: skip

    def sentence(self, text):
        """Return the sentence's element, or nothing where it is not shown."""
        return [("generic", "ask", text, "", ())] if self.told else []

    def choose(self, number, now_ms):
        """Yield the actions of ticking some of several names and saving."""
        names = self.rng.sample(NAMES, 5)
        wanted = names[: self.rng.randrange(1, 4)]
        head = self.sentence(f"Tick {', '.join(wanted)} and press Save.")
        ticked = set()
        for name in [*wanted, None]:
            boxes = [("checkbox", "", n, "", ("checked",) * (n in ticked)) for n in names]
            screen = self.show([*head, *boxes, ("button", "save", "Save", "", ())])
            index = len(head) + (names.index(name) if name else 5)
            yield now_ms, (screen, index, Action.CLICK, now_ms, ("choose", number))
            ticked.add(name)
            now_ms += self.rng.randrange(300, 900)

    def write(self, number, now_ms):
        """Yield the actions of typing a name into a field and sending it."""
        name = self.rng.choice(NAMES)
        head = self.sentence(f'Enter the name "{name}" into the field, then send it off.')
        for value in ("", name):
            screen = self.show([*head, ("heading", "top", "Names", "", ()),
                                ("textbox", "name", "", value, ()),
                                ("button", "send", "Send", "", ())])  # fmt: skip
            index = len(head) + (2 if value else 1)
            action = Action.CLICK if value else Action.EDIT
            yield now_ms, (screen, index, action, now_ms, ("write", number), *([] if value else
                           [name]))  # fmt: skip
            now_ms += self.rng.randrange(600, 1_500)

    def work(self, kinds, num, interleaved=False):
        """Do each kind of chore `num` times, one after the other or beside each other."""
        lanes = []
        if interleaved:
            for kind in kinds:
                lanes.append([(kind, n) for n in range(num)])
        else:
            every = [(kind, n) for kind in kinds for n in range(num)]
            self.rng.shuffle(every)
            lanes.append(every)
        done = []
        for lane in lanes:
            now_ms = 1_700_000_000_000
            for kind, number in lane:
                steps = list(getattr(self, kind)(number, now_ms))
                done += steps
                now_ms = steps[-1][0] + self.rng.randrange(2_500, 6_000)
        for _, step in sorted(done, key=lambda entry: entry[0]):
            self.act(*step)
        return self

    def actions(self):
        """Return the events as actions."""
        return [UserAction(i, e, *normalise(e)) for i, e in enumerate(self.events)]

    def sight(self, action):
        """Return what an action's screen shows."""
        return sight_of(json.loads(self.screens[action.event.snapshot]))
