"""1,000 secrets of 12 kinds through every source: in no topic, file, log or metric."""

import random
import subprocess
import warnings
from collections import Counter

import pytest
from hypothesis.errors import NonInteractiveExampleWarning
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from services.user_monitor.capture import RawElement, RawSnapshot, SourceKind
from shared.schemas import Level, Source
from tests.integration.test_user_monitor import (
    ALL_VALUES,
    ConsentAsked,
    HandSource,
    Room,
    click,
    line,
    until,
    watch,
)
from tests.unit.user_monitor.planted import PLANTED

KINDS = (
    "card", "iban", "email", "phone", "aws", "github", "slack", "google", "stripe", "jwt",
    "labelled", "id-number",
)  # fmt: skip
NUM_SECRETS = 1_000
CONTROL = "an ordinary remark"
"""No secret: it must be found, else this test looks in the wrong places."""
SEPARATORS = " -.\u00a0\u2009\u2013\n"

pytestmark = pytest.mark.timeout(300)


def planted() -> list[tuple[str, str]]:
    """Return kind and secret of a thousand secrets, as many of each kind."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NonInteractiveExampleWarning)
        drawn = [
            (kind, PLANTED[kind].example()) for _ in range(-(-NUM_SECRETS // 12)) for kind in KINDS
        ]
    return drawn[:NUM_SECRETS]


def core_of(secret: str) -> str:
    """Return what must not be found: of a labelled one, what stands behind its label."""
    label, colon, rest = secret.partition(": ")
    return rest if colon and "@" not in label else secret


PLACES = ("value", "title", "url", "name", "label", "id", "text", "field", "option", "sentence")


def capture(place: str, secret: str, n: int):
    """Return a capture that holds the secret in one place of what a source can see."""
    fields: dict = {"untrusted_name": f"field {n}"}
    more: dict = {}
    element_in_tree: dict = {}
    match place:
        case "value":
            more["untrusted_value"] = secret
        case "sentence":
            more["untrusted_value"] = f"please note {secret} for later"
        case "title":
            more["untrusted_title"] = f"Inbox: {secret}"
        case "url":
            more["untrusted_url"] = f"https://shop.example/find?page=2&q={secret}"
        case "name" | "label" | "id":
            fields[f"untrusted_{place}"] = secret
        case "text" | "field":
            element_in_tree[{"text": "untrusted_text", "field": "untrusted_value"}[place]] = secret
        case "option":
            element_in_tree["untrusted_options"] = (secret, "another")
    more["element"] = RawElement(untrusted_role="textbox", index=0, **fields)
    more["snapshot"] = RawSnapshot(
        (RawElement(untrusted_role="textbox", index=0, **fields, **element_in_tree),)
    )
    return click(n, **more)


def words_of_metrics() -> str:
    """Return all that metrics say in words: a count may well be somebody's short password."""
    words = [
        f"{sample.name} {name} {value}"
        for family in text_string_to_metric_families(generate_latest().decode())
        for sample in family.samples
        for name, value in sample.labels.items()
        if name != "le"  # the bound of a histogram's bucket
    ]
    return "\n".join(words)


async def test_no_planted_secret_reaches_topic_file_log_or_metric(tmp_path, caplog):
    caplog.set_level("DEBUG")
    secrets, draw = planted(), random.Random(1)  # noqa: S311
    kinds = (SourceKind.INPUT, SourceKind.WINDOW, SourceKind.BROWSER)
    replayed = []
    async with Room(tmp_path) as room:
        for source in Source:
            for level in Level:
                await room.monitor.allow(ConsentAsked(source=source, level=level))
        await room.monitor.allow(ALL_VALUES)
        by_hand = {kind: HandSource(kind) for kind in kinds}
        for kind, source in by_hand.items():
            source.session = f"by-hand-{kind}"
            watch(room, source)
        for n, (_, secret) in enumerate(secrets):
            if n % 4 == 3:
                place = {"title": "window", "url": "url"}.get(PLACES[n // 4 % 10])
                replayed.append(
                    line(n, action="edit", value=secret)
                    if place is None
                    else line(n, **{place: {"clear": f"https://shop.example/?q={secret}"}})
                )
            else:
                source = by_hand[kinds[n % 4]]
                source.queue.put_nowait(capture(draw.choice(PLACES), secret, n))
        replayed.append(line(NUM_SECRETS, action="edit", value=CONTROL))
        recorder = await room.replayed("\n".join(replayed))
        assert recorder.num_published == len(replayed)
        for source in by_hand.values():
            await source.close()
        await until(lambda: all(r.is_done for r in room.monitor.recorders.values()))
        await room.monitor.publisher.publish(room.monitor.recorders.values(), everything=True)
        events = await room.events()
        assert Counter(e.source for e in events).keys() == set(Source)
        assert len(events) == NUM_SECRETS + 1
        files = subprocess.run(  # this process must not open SQLite's files itself
            ["bash", "-c", f"find {room.common.data_dir} -type f -exec cat {{}} +"],
            capture_output=True, check=True,
        ).stdout  # fmt: skip
        records = "\n".join(e.model_dump_json() for e in events)
        metrics = words_of_metrics()
    found = [
        (kind, place)
        for kind, secret in secrets
        for place, text in (
            ("topic", records), ("file", files.decode("latin-1")), ("log", caplog.text),
            ("metric", metrics),
        )
        if _is_in(core_of(secret), text)
    ]  # fmt: skip
    assert found == []
    assert CONTROL in records
    assert CONTROL in files.decode("latin-1")


def _is_in(secret: str, text: str) -> bool:
    """Tell whether a text holds a secret as it was, as JSON writes it, or without separators."""
    if len(secret) < 8:
        return False  # too short to be told from chance
    bare = secret.translate({ord(c): None for c in SEPARATORS})
    forms = {secret, secret.encode("unicode_escape").decode(), bare}
    return any(form in text for form in forms)
