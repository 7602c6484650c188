"""People's demonstrations of small tasks as one stream of actions, labelled as it goes on.

Three tasks at a time on one page: their demonstrations in an order drawn by seed, one after the
other, or each task's for itself and the tasks interleaved by recorded time. Failed demonstrations
stay in the stream as noise: whether they are found counts neither way. The instruction can be
hidden from the learner. What a demonstration is called serves to tell the truth and no more.
"""

import json
import lzma
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from random import Random

from services.task_learner.actions import Collapse, UserAction, collapse, needs_place, normalise
from services.task_learner.cases import Looked, Sight, cases, sight_of
from services.task_learner.dataflow import Screen
from services.task_learner.segment import Vocabulary
from services.user_monitor.capture.replay_demonstrations import read_demonstrations
from services.user_monitor.consent import Allowance
from services.user_monitor.privacy import Redactor
from shared.schemas import Level, Snapshot, Source, UiEvent, derive_id
from shared.secret_kinds import KEEPABLE
from tests.bench.learner.run import FIRST, Run
from tests.bench.learner.scores import Label, Scores, score

TOGETHER = 3
_MOST = 60  # demonstrations of a task
_ALLOWED = Allowance(Level.VALUES, KEEPABLE)
_INSTRUCTION = "query"  # the id that the importer gives what the live page shows above the task
_BETWEEN_MS = 1_000  # from the end of one demonstration to the next
_EVERY, _LATE, _WINDOW = 25, 200, 2_000  # actions: between two looks, until a label is final, seen

Event = tuple[UiEvent, Snapshot | None]
_Entry = tuple[int, "Demonstration", Event]  # ms, whose, what


@dataclass(frozen=True)
class Demonstration:
    """One demonstration: its events, how long it took, and the truth about it."""

    label: Label
    is_good: bool
    took_ms: int
    events: tuple[Event, ...]


@dataclass(frozen=True)
class ShownLog:
    """A stream of actions with what their screens show, and its truth."""

    name: str
    actions: list[UserAction]
    sights: list[Sight | None]
    truth: list[Label]
    good: frozenset[object]  # instances that count


def sets_of_tasks(folder: Path, seed: int) -> Iterator[tuple[str, list[list[Demonstration]]]]:
    """Yield three tasks at a time, in an order drawn by seed; none that share recordings."""
    files = sorted(folder.glob("*.jsonl.xz"))
    Random(seed).shuffle(files)  # noqa: S311
    waiting = [(f.name.removesuffix(".jsonl.xz"), read(f)) for f in files]
    while waiting:
        chosen: list[tuple[str, list[Demonstration]]] = []
        for entry in list(waiting):
            screens = {d.events for d in entry[1] if d.events}
            if len(chosen) < TOGETHER and not any(
                screens & {d.events for d in own if d.events} for _, own in chosen
            ):
                chosen.append(entry)
                waiting.remove(entry)
        yield "+".join(name for name, _ in chosen), [own for _, own in chosen]


def read(file: Path) -> list[Demonstration]:
    """Return a task's first demonstrations, failed ones too."""
    redactor = Redactor(b"bench" * 8)
    found: list[Demonstration] = []
    with lzma.open(file, "rb") as stream:
        for line in stream:
            known = json.loads(line)
            if not known["states"] or len(found) == _MOST:
                continue
            events = []
            for capture in read_demonstrations(BytesIO(line)):
                event = redactor.event(
                    capture, _ALLOWED, event_id=derive_id(len(events)), user_id="bench",
                    source=Source.REPLAY, session=derive_id("bench"), seq=len(events),
                    boot_id=None, snapshot=derive_id("screen") * 2, demonstration=None,
                    showing=None,
                )  # fmt: skip
                events.append((event, redactor.snapshot(capture, _ALLOWED)))
            found.append(Demonstration(
                ((file.name, len(found)), file.name), known["rawReward"] == 1,
                max(int(state["time"]) for state in known["states"]), tuple(events),
            ))  # fmt: skip
    return found


def stream(
    name: str, tasks: Sequence[Sequence[Demonstration]], seed: int, *, interleaved: bool,
    hidden: bool,
) -> ShownLog:  # fmt: skip
    """Return the tasks' demonstrations as a stream, with or without the instruction."""
    rng = Random(seed)  # noqa: S311
    if interleaved:
        lanes = [rng.sample(list(own), len(own)) for own in tasks]
    else:
        every = [demonstration for own in tasks for demonstration in own]
        lanes = [rng.sample(every, len(every))]
    entries = [entry for lane in lanes for entry in _in_time(lane)]
    return _as_actions(name, sorted(entries, key=lambda entry: entry[0]), hidden)


def _in_time(lane: Sequence[Demonstration]) -> Iterator[_Entry]:
    now_ms = 0
    for one in lane:
        begun_ms = min((e.time_ms for e, _ in one.events), default=0)
        begun_ms -= begun_ms % 1_000_000_000  # the importer's own beginning of time
        for event, screen in one.events:
            yield now_ms + event.time_ms - begun_ms, one, (event, screen)
        now_ms += one.took_ms + _BETWEEN_MS


def _as_actions(name: str, entries: Sequence[_Entry], hidden: bool) -> ShownLog:
    actions: list[UserAction] = []
    sights: list[Sight | None] = []
    truth: list[Label] = []
    for time_ms, one, (recorded, screen) in entries:
        event = recorded.model_copy(update={"time_ms": time_ms})
        if screen is not None and hidden:
            rest = tuple(e for e in screen.elements if e.element_id != _INSTRUCTION)
            screen = screen.model_copy(update={"elements": rest})
        index = event.element.index if event.element is not None else None
        looks = screen is not None and index is not None and needs_place(event)
        place = Screen(screen).place(index) if looks else None  # type: ignore[arg-type]
        normal = normalise(event, place)
        if normal is None:
            continue
        if actions:
            verdict = collapse(actions[-1], event, normal[0])
            if verdict is Collapse.DROP:
                continue
            if verdict is Collapse.REPLACE:
                for kept in (actions, sights, truth):
                    kept.pop()
        actions.append(UserAction(len(actions), event, *normal))
        sights.append(screen and sight_of(json.loads(screen.model_dump_json(exclude_none=True))))
        truth.append(one.label)
    good = frozenset(d.label[0] for _, d, _ in entries if d.is_good and d.label is not None)
    return ShownLog(name, actions, sights, truth, good)


def label(log: ShownLog) -> Run:
    """Return the final label of each action, which comes at most 250 actions late."""
    num = len(log.actions)
    labels: list[Label] = [None] * num
    delays = [0] * num
    given = 0
    cases_of, kinds_of = _Names(), _Names()
    started = time.perf_counter()
    for now in [*range(_EVERY, num, _EVERY), num]:
        begin = max(0, now - _WINDOW)
        window = log.actions[begin:now]
        vocabulary = Vocabulary.of(window)
        looked = [
            None if s is None else Looked(a.event.time_ms, vocabulary.token(a), s)
            for a, s in zip(window, log.sights[begin:now], strict=True)
        ]
        found = cases(looked)
        old = [(labels[begin + i], case) for i, case in enumerate(found) if begin + i < given]
        case_names = cases_of.take(found, [(b[0], c[0]) for b, c in old if b and c], 0)
        kind_names = kinds_of.take(found, [(b[1], c[1]) for b, c in old if b and c], 1)
        until = num if now == num else max(given, now - _LATE)
        for at in range(given, until):
            case = found[at - begin]
            labels[at] = None if case is None else (case_names[case[0]], kind_names[case[1]])
            delays[at] = now - 1 - at
        given = until
    seconds = time.perf_counter() - started
    kinds = frozenset(label[1] for label in labels if label is not None)
    return Run(labels, delays, seconds, kinds, kinds)


class _Names:
    """Names that stay: what is found anew has the name that most of it was given before."""

    def __init__(self) -> None:
        self._next = 0

    def take(
        self, found: Sequence[tuple[int, int] | None], given: Sequence[tuple[object, int]],
        part: int,
    ) -> dict[int, object]:  # fmt: skip
        votes: dict[int, Counter[object]] = defaultdict(Counter)
        for before, now in given:
            votes[now][before] += 1
        names: dict[int, object] = {}
        taken: set[object] = set()
        for now in sorted(votes, key=lambda n: (-max(votes[n].values()), n)):
            free = [before for before, _ in votes[now].most_common() if before not in taken]
            if free:
                names[now] = free[0]
                taken.add(free[0])
        for number in dict.fromkeys(case[part] for case in found if case is not None):
            if number not in names:
                names[number] = self._next
                self._next += 1
        return names


def scored(log: ShownLog, run: Run) -> dict[str, Scores]:
    """Return the scores with and without the first instances of each type."""
    return {
        "all": score(log.truth, run.labels, 0, log.good),
        "later": score(log.truth, run.labels, FIRST, log.good),
    }
