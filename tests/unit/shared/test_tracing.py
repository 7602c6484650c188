"""A trace: carried in headers from room to room, exported only where an endpoint is named."""

import asyncio
import http.server
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from shared import tracing
from shared.bus import Effects, noted_trace
from shared.errors import MiningError
from shared.topics import Room, Topic
from tests.contract.records import run_outcome, ui_event
from tests.unit.shared.rooms import House

HERE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE_ID = HERE.split("-")[1]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    yield house
    await house.close()


@pytest.mark.parametrize(
    "value",
    [
        b"", b"Ada Byron", HERE.encode() + b"-secret", HERE.upper().encode(),
        b"01" + HERE[2:].encode(), b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01",
        HERE[:-2].encode() + b"\n1",
    ],
)  # fmt: skip
def test_what_is_no_trace_context_is_not_carried_on(value: bytes):
    assert tracing.context_of(((tracing.HEADER, value),)) is None


def test_records_of_one_doing_carry_its_context_and_no_other():
    effects = Effects(Room.USER_MONITOR)
    with tracing.span(Room.USER_MONITOR, "publish", None):
        effects.publish(ui_event(0))
        effects.publish(ui_event(1))
    effects.publish(ui_event(2))
    first, second, outside = (tracing.context_of(out.headers) for out in effects.outgoing)
    assert first == second
    assert first is not None
    assert outside is None
    with tracing.span(Room.USER_MONITOR, "publish", None):
        assert tracing.current() not in (None, first)


async def test_a_job_belongs_to_the_trace_of_the_record_that_asked_for_it(house: House):
    port = await house.bus.open_port(Room.AGENT_RUNNER, (), "", "")
    effects = Effects(Room.AGENT_RUNNER)
    with tracing.continued(HERE):
        effects.publish(run_outcome(0))
    await port.commit(effects)
    await port.close()
    found: list[str | None] = []
    work = house.logic.work

    async def noting(*args):
        found.append(tracing.current())
        return await work(*args)

    house.logic.work = noting  # type: ignore[method-assign]
    house.logic.work_may_end.set()
    await house.start()
    await house.until("SELECT state FROM jobs", [("done",)])
    assert found == [HERE]
    store = house.service.port.store
    assert noted_trace(store, run_outcome(0).id) == HERE
    forgotten = Effects(Room.TASK_LEARNER)
    forgotten.write("DELETE FROM jobs")
    await house.service.port.commit(forgotten)
    assert noted_trace(store, run_outcome(0).id) is None


def test_without_an_endpoint_the_sdk_is_not_imported():
    rooms = [f"services.{room.package}.main" for room in Room]
    code = (
        f"import sys, services.serve, {', '.join(rooms)}\n"
        "from shared import tracing\n"
        "from shared.topics import Room\n"
        "with tracing.export_if_asked(tuple(Room)), tracing.span(Room.AGENT_RUNNER, 'x', None):\n"
        "    assert tracing.current()\n"
        "heavy = ('opentelemetry.sdk', 'opentelemetry.exporter')\n"
        "sys.exit(any(name.startswith(heavy) for name in sys.modules))"
    )
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[3])}
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 0


class Collector(http.server.BaseHTTPRequestHandler):
    requests: list[ExportTraceServiceRequest]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.requests.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        """Say nothing: the output belongs to pytest."""


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ExportTraceServiceRequest]]:
    """What a collector got, by an endpoint in the environment."""
    handler = type("Handler", (Collector,), {"requests": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        yield handler.requests
        server.shutdown()
        thread.join()


async def test_spans_are_exported_room_by_room_and_hold_no_content(
    house: House, exported: list[ExportTraceServiceRequest]
):
    with tracing.export_if_asked((Room.USER_MONITOR, Room.TASK_LEARNER)):
        await house.start()
        port = await house.bus.open_port(Room.USER_MONITOR, (), "", "")
        effects = Effects(Room.USER_MONITOR)
        with tracing.span(Room.USER_MONITOR, "publish", HERE, "producer", messaging__number=2):
            effects.publish(ui_event(0, user="Ann-Smith", text="Ann Smith"))
            effects.publish(ui_event(1, user="Ann-Smith", text="breaks"))
        with (
            pytest.raises(MiningError, match="Ann"),
            tracing.span(Room.USER_MONITOR, "failing", None),
        ):
            raise MiningError("Ann Smith cannot be counted")
        await port.commit(effects)
        await port.close()
        await house.until("SELECT seq FROM seen", [(0,)])
        await house.stop()
    assert exported
    spans = {
        span.name: (resource, span)
        for request in exported
        for group in request.resource_spans
        for resource in [{a.key: a.value.string_value for a in group.resource.attributes}]
        for scope in group.scope_spans
        for span in scope.spans
    }
    resource, sent = spans["publish"]
    assert resource["service.name"] == "user-monitor"
    assert sent.trace_id.hex() == TRACE_ID
    assert sent.parent_span_id.hex() == HERE.split("-")[2]
    resource, processed = spans[f"process {Topic.RAW_EVENTS}"]
    assert resource["service.name"] == "task-learner"
    assert processed.trace_id == sent.trace_id
    assert processed.parent_span_id == sent.span_id
    assert [a.value.string_value for a in spans["failing"][1].attributes] == ["MiningError"]
    assert not any(span.events or span.status.message for _, span in spans.values())
    raw = b"".join(request.SerializeToString() for request in exported)
    assert not [word for word in (b"Ann", b"Smith", b"cannot", b"breaks") if word in raw]


async def test_a_collector_that_is_away_holds_nothing_up(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    async with asyncio.timeout(60):
        with tracing.export_if_asked((Room.TASK_LEARNER,)):
            await house.send("good")
            await house.start()
            await house.until("SELECT seq FROM seen", [(0,)])
            await house.stop()
