"""What every room's REST has: token, Host check, problem details, paging, dead letters."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter
from hypothesis import given
from hypothesis import strategies as st

from shared import service as frame
from shared.api import (
    MAX_BODY_BYTES,
    Cursor,
    Limit,
    Page,
    create_app,
    decode_cursor,
    page,
    read_token,
)
from shared.errors import BusUnavailable, ConfigError, ContractError, NotFound
from shared.service import Service
from tests.unit.shared.rooms import Counting, House

TOKEN = "t" * 43


def router() -> APIRouter:
    routes = APIRouter()

    @routes.get("/numbers")
    def numbers(limit: Limit = 50, cursor: Cursor = None) -> Page[int]:
        start = decode_cursor(cursor) or 0
        return page(list(range(start, min(start + limit + 1, 7))), limit, lambda n: n + 1)

    @routes.get("/missing")
    def missing() -> None:
        raise NotFound("there is no such thing")

    @routes.get("/away")
    def away() -> None:
        raise BusUnavailable("away")

    @routes.get("/broken")
    def broken() -> None:
        raise ZeroDivisionError("private")

    @routes.post("/eat")
    async def eat(body: dict[str, str]) -> int:
        return len(body)

    return routes


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(frame, "_BACKOFF_S", 0.001)
    house = House(tmp_path)
    yield house
    await house.close()


@pytest.fixture
async def client(house: House) -> AsyncIterator[httpx.AsyncClient]:
    await house.start()
    service = Service(Counting(), router(), house.common, house.clock)
    service.port, service.ready = house.service.port, True
    service.replay = house.service.replay  # type: ignore[method-assign]
    app = create_app([service], house.common, TOKEN)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport,
        base_url="http://127.0.0.1:8760",
        headers={"Authorization": f"Bearer {TOKEN}"},
    ) as client:
        yield client


@pytest.mark.parametrize(
    "token", [None, "", "Bearer", "Bearer wrong", f"bearer {TOKEN}", f"Bearer {TOKEN}x", "Basic x"]
)
@pytest.mark.parametrize(
    "path", ["/v1/task-learner/numbers", "/metrics", "/version", "/openapi.json"]
)
async def test_a_wrong_token_is_refused(client: httpx.AsyncClient, token: str | None, path: str):
    headers = {"Authorization": token} if token is not None else {"Authorization": ""}
    answer = await client.get(path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_health_needs_no_token(client: httpx.AsyncClient):
    assert (await client.get("/healthz", headers={"Authorization": ""})).json() == {"status": "ok"}
    ready = await client.get("/readyz", headers={"Authorization": ""})
    assert ready.json() == {"rooms": {"task-learner": True}}


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8760", ""]
)
async def test_a_foreign_host_is_refused_even_with_the_token(client: httpx.AsyncClient, host: str):
    answer = await client.get("/v1/task-learner/numbers", headers={"Host": host})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert "WAT_ALLOWED_HOSTS" in answer.json()["detail"]


@pytest.mark.parametrize("host", ["127.0.0.1", "LOCALHOST:1", "localhost:"])
async def test_our_own_names_are_answered_at_any_port(client: httpx.AsyncClient, host: str):
    assert (await client.get("/healthz", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_no_page_loads_scripts_from_elsewhere(client: httpx.AsyncClient, path: str):
    assert (await client.get(path)).status_code == 404


async def test_version_and_metrics_are_there(client: httpx.AsyncClient):
    assert (await client.get("/version")).json()["version"]
    metrics = (await client.get("/metrics")).text
    assert "wat_records_total" in metrics


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        ("missing", 404, "there is no such thing"),
        ("away", 503, "away"),
        ("broken", 500, "ZeroDivisionError; see the service's log"),
        ("no-such-path", 404, "Not Found"),
        ("numbers?limit=501", 422, "query.limit: Input should be less than or equal to 500"),
        ("numbers?cursor=%25", 422, "the cursor is not one that a page gave as `next`"),
        ("numbers?cursor=WzFd", 422, "the cursor is not one that a page gave as `next`"),
    ],
)
async def test_errors_are_problem_details(
    client: httpx.AsyncClient, path: str, status: int, detail: str
):
    answer = await client.get(f"/v1/task-learner/{path}")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == detail
    assert answer.json()["status"] == status
    assert "private" not in answer.text


async def test_pages_follow_each_other_to_the_end(client: httpx.AsyncClient):
    items, cursor = [], None
    while True:
        given = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        found = (await client.get("/v1/task-learner/numbers", params=given)).json()
        items += found["items"]
        cursor = found["next"]
        if cursor is None:
            break
    assert items == list(range(7))


async def test_a_large_body_is_refused(client: httpx.AsyncClient):
    body = b" " * (MAX_BODY_BYTES + 1)

    async def in_parts() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 2**20):
            yield body[start : start + 2**20]

    for content in (body, in_parts()):
        answer = await client.post("/v1/task-learner/eat", content=content)
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_room_that_is_not_ready_says_so(house: House):
    service = Service(Counting(), router(), house.common, house.clock)
    app = create_app([service], house.common, TOKEN)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://localhost", headers=headers
    ) as client:
        assert (await client.get("/readyz")).status_code == 503
        answer = await client.get("/v1/task-learner/numbers")
    assert answer.status_code == 503
    assert "task-learner is starting or stopping" in answer.json()["detail"]


async def test_dead_letters_are_listed_without_content_and_replayed(
    client: httpx.AsyncClient, house: House
):
    await house.send("fails", "good", "fails")
    await house.until("SELECT count(*) FROM dead_letters", [(2,)])
    listed = (await client.get("/v1/task-learner/dead-letters", params={"limit": 1})).json()
    assert len(listed["items"]) == 1
    rest = {"cursor": listed["next"]}
    listed["items"] += (await client.get("/v1/task-learner/dead-letters", params=rest)).json()[
        "items"
    ]
    assert {letter["offset"] for letter in listed["items"]} == {0, 2}
    assert "orders" not in str(listed)
    one = listed["items"][0]
    assert (await client.get(f"/v1/task-learner/dead-letters/{one['id']}")).json() == one
    assert (await client.get("/v1/task-learner/dead-letters/nope")).status_code == 404
    foreign = page([1, 2], 1, lambda number: number).next  # of a list with other places
    refused = await client.get("/v1/task-learner/dead-letters", params={"cursor": foreign})
    assert refused.status_code == 422
    house.logic.healed = True
    for letter in listed["items"]:
        answer = await client.post(f"/v1/task-learner/dead-letters/{letter['id']}/replay")
        assert answer.status_code == 204
    assert house.query("SELECT seq FROM seen ORDER BY seq") == [(0,), (1,), (2,)]
    assert (await client.post("/v1/task-learner/dead-letters/nope/replay")).status_code == 404


class TestToken:
    def test_it_is_made_once_for_the_owner_alone(self, tmp_path: Path):
        path = tmp_path / "token"
        token = read_token(path)
        assert read_token(path) == token
        assert path.stat().st_mode & 0o777 == 0o600
        assert len(token) >= 32

    def test_one_that_others_can_read_is_refused(self, tmp_path: Path):
        path = tmp_path / "token"
        read_token(path)
        path.chmod(0o644)
        with pytest.raises(ConfigError, match="chmod 600"):
            read_token(path)

    def test_an_empty_one_is_refused(self, tmp_path: Path):
        path = tmp_path / "token"
        path.touch(0o600)
        with pytest.raises(ConfigError, match="holds no token"):
            read_token(path)


@given(st.text(alphabet=st.characters(max_codepoint=127), max_size=40))
def test_no_cursor_does_worse_than_a_contract_error(cursor: str):
    try:
        decode_cursor(cursor)
    except ContractError:
        return
