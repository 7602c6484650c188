"""What was written once can be read for ever, and others can read it by the published documents."""

import json
from pathlib import Path

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event, to_binary_event
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from shared.errors import ContractError
from shared.schemas import (
    END_OF_TIME_MS,
    MAX_RECORD_BYTES,
    RECORD_TYPES,
    Snapshot,
    Trace,
    ce_type,
    decode,
    derive_id,
    encode,
    headers_of,
)
from shared.schemas.document import documents, topics_page
from shared.topics import TOPICS, Room, dead_letters
from tests.contract.records import ui_event

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "data" / "golden"
PUBLISHED = ROOT / "docs" / "schemas"
RECORDS = sorted(p for p in GOLDEN.glob("*.json") if p.stem.split(".")[0] in RECORD_TYPES)
ARTIFACTS = {"snapshot.v1": Snapshot, "trace.v1": Trace}


def golden(path: Path) -> tuple[dict[str, bytes], bytes]:
    content = json.loads(path.read_text())
    headers = {name: value.encode() for name, value in content.get("headers", {}).items()}
    return headers, json.dumps(content["value"]).encode()


class TestGolden:
    @pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.stem)
    def test_a_released_record_decodes_and_keeps_every_field(self, path: Path):
        headers, value = golden(path)
        record = decode(value, headers)
        assert json.loads(encode(record)) == json.loads(value)
        owner = headers["ce_source"].decode().removeprefix("/")
        assert dict(headers_of(record, owner)) == headers

    @pytest.mark.parametrize("stem", ARTIFACTS)
    def test_a_released_artifact_decodes_and_keeps_every_field(self, stem: str):
        _, value = golden(GOLDEN / f"{stem}.json")
        read = ARTIFACTS[stem].model_validate_json(value)
        assert json.loads(read.model_dump_json(exclude_none=True)) == json.loads(value)

    def test_fields_are_only_ever_added_and_may_be_missing(self):
        for name, model in RECORD_TYPES.items():
            _, value = golden(GOLDEN / f"{name}.v{model.version}.json")
            released = set(json.loads(value))
            assert released <= set(model.model_fields)
            added = [f for n, f in model.model_fields.items() if n not in released]
            assert not any(f.is_required() for f in added)


class TestDocuments:
    def test_the_published_documents_are_current(self):
        published = {p.name: json.loads(p.read_text()) for p in PUBLISHED.glob("*.json")}
        assert published == documents(), "run `make docs`"
        assert (PUBLISHED / "topics.md").read_text() == topics_page(), "run `make docs`"

    @pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda p: p.stem)
    def test_golden_files_fit_the_published_schemas(self, path: Path):
        schema = json.loads((PUBLISHED / path.name).read_text())
        Draft202012Validator.check_schema(schema)
        Draft202012Validator(schema).validate(json.loads(path.read_text())["value"])

    def test_a_schema_refuses_what_decode_refuses(self):
        schema = json.loads((PUBLISHED / "ui-event.v1.json").read_text())
        value = json.loads(encode(ui_event(0)))
        del value["user_id"]
        assert not Draft202012Validator(schema).is_valid(value)

    def test_every_topic_and_message_is_in_the_asyncapi_document(self):
        document = documents()["asyncapi.json"]
        dead = {dead_letters(room) for room in Room}
        assert set(document["channels"]) == {str(t) for t in TOPICS} | dead
        assert set(document["components"]["messages"]) == set(RECORD_TYPES)

    def test_every_reference_of_the_asyncapi_document_leads_somewhere(self):
        document = documents()["asyncapi.json"]
        resolver = Registry().with_resources(
            (name, Resource.opaque(content)) for name, content in documents().items()
        ).resolver("asyncapi.json")  # fmt: skip

        def check(part: object) -> None:
            if isinstance(part, dict):
                if "$ref" in part:
                    resolver.lookup(part["$ref"].removeprefix("./"))
                for inner in part.values():
                    check(inner)

        check(document)


class TestCloudEvents:
    @pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.stem)
    def test_the_sdk_reads_what_we_write(self, path: Path):
        record = decode(*reversed(golden(path)))
        message = KafkaMessage(dict(headers_of(record, Room.USER_MONITOR)), b"ann", encode(record))
        event = from_binary_event(message)
        assert event.get_id() == record.id
        assert event.get_type() == ce_type(record.record_type, record.version)
        assert event.get_source() == "/user-monitor"
        assert event.get_time().timestamp() * 1000 == pytest.approx(record.time_ms)
        assert event.get_data() == json.loads(encode(record))

    @pytest.mark.parametrize("path", RECORDS, ids=lambda p: p.stem)
    def test_we_read_what_the_sdk_writes(self, path: Path):
        record = decode(*reversed(golden(path)))
        attributes = {
            "id": record.id,
            "source": "/user-monitor",
            "type": ce_type(record.record_type, record.version),
            "specversion": "1.0",
            "datacontenttype": "application/json",
        }
        message = to_binary_event(CloudEvent(attributes, json.loads(encode(record))))
        assert isinstance(message.value, bytes)
        assert decode(message.value, message.headers) == record


class TestDecoding:
    PRIVATE = "hunter2-ada@example.com"

    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            (b"wasmagenttrainer.ui-event.v1", b""),
            (b"wasmagenttrainer.ui-event.v1", b"\xff\xfe" + PRIVATE.encode()),
            (b"wasmagenttrainer.ui-event.v1", b'{"user_id": "' + PRIVATE.encode()),
            (b"wasmagenttrainer.ui-event.v1", json.dumps({"time_ms": PRIVATE}).encode()),
            (b"wasmagenttrainer.ui-event.v1", json.dumps([PRIVATE]).encode()),
            (b"wasmagenttrainer.ui-event.v1", b"[" * 100_000),
            (b"wasmagenttrainer.model-card.v1", json.dumps({"metrics": {PRIVATE: "x"}}).encode()),
            (
                b"wasmagenttrainer.model-card.v1",
                json.dumps({"curves": {PRIVATE: [PRIVATE]}}).encode(),
            ),
            (b"wasmagenttrainer.ui-event.v9", b"{}"),
            (PRIVATE.encode(), b"{}"),
            (b"\xff", b"{}"),
            (b"", b"{}"),
        ],
    )
    def test_what_cannot_be_decoded_is_said_without_its_content(self, kind: bytes, value: bytes):
        with pytest.raises(ContractError) as caught:
            decode(value, {"ce_type": kind})
        assert self.PRIVATE not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    def test_a_record_without_a_type_is_refused(self):
        with pytest.raises(ContractError, match=r"type \(none\) is not known"):
            decode(b"{}", {})

    def test_an_unknown_version_is_refused(self):
        value = json.loads(encode(ui_event(0))) | {"schema_version": 2}
        with pytest.raises(ContractError, match="schema_version 2, this service knows 1: upgrade"):
            decode(json.dumps(value).encode(), headers_of(ui_event(0), "x"))

    def test_fields_that_are_not_known_yet_are_passed_over(self):
        value = json.loads(encode(ui_event(0))) | {"mood": "calm"}
        assert decode(json.dumps(value).encode(), headers_of(ui_event(0), "x")) == ui_event(0)

    def test_a_record_that_is_too_large_is_refused(self):
        with pytest.raises(ContractError, match="store the large part as an artifact"):
            encode(ui_event(0, text="x" * MAX_RECORD_BYTES))

    @pytest.mark.parametrize("time_ms", [-1, END_OF_TIME_MS, 10**30])
    def test_a_time_that_no_calendar_has_is_refused(self, time_ms):
        value = json.loads(encode(ui_event(0))) | {"time_ms": time_ms}
        with pytest.raises(ContractError, match="time_ms"):
            decode(json.dumps(value).encode(), headers_of(ui_event(0), "x"))

    def test_the_last_time_that_a_calendar_has_is_taken(self):
        last = ui_event(0).model_copy(update={"time_ms": END_OF_TIME_MS - 1})
        assert dict(headers_of(last, "x"))["ce_time"] == b"9999-12-31T23:59:59.999Z"

    @given(st.binary(max_size=200))
    def test_no_bytes_do_worse_than_a_contract_error(self, value: bytes):
        with pytest.raises(ContractError):
            decode(value, {"ce_type": b"wasmagenttrainer.ui-event.v1"})


parts = st.lists(st.text(max_size=8) | st.integers(), min_size=1, max_size=5)


class TestIds:
    @given(parts)
    def test_equal_parts_give_equal_ids(self, given_parts: list[str | int]):
        assert derive_id(*given_parts) == derive_id(*given_parts)
        assert len(derive_id(*given_parts)) == 32

    @given(parts, parts)
    def test_different_parts_give_different_ids(
        self, left: list[str | int], right: list[str | int]
    ):
        same = [str(p) for p in left] == [str(p) for p in right]
        assert (derive_id(*left) == derive_id(*right)) is same

    @given(st.text(min_size=2, max_size=20), st.data())
    def test_where_a_text_is_cut_matters(self, text: str, data: st.DataObject):
        cuts = st.integers(0, len(text))
        left, right = data.draw(cuts), data.draw(cuts)
        same = left == right
        assert (
            derive_id(text[:left], text[left:]) == derive_id(text[:right], text[right:])
        ) is same
