"""REST of the room: what it shows, what it takes, and how it says no."""

import httpx
import pytest

from shared.api import create_app
from shared.settings import CommonSettings
from shared.signing import SigningKey

TOKEN = "t" * 40
ROOT = "/v1/agent-runner"
CSV = "Customer,City\nMia Neu,Rom\nAl Um,Bonn\n"
NAMED = {"name": "Enter an order"}


@pytest.fixture
async def rest(room):
    common = CommonSettings(data_dir=room.folder, config_dir=room.folder / "config")
    app = create_app([room.service], common, TOKEN)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url=f"http://127.0.0.1{ROOT}/",
        headers={"Authorization": f"Bearer {TOKEN}"},
    ) as client:
        yield client


async def post(rest, path, body=None, status=200):
    answer = await rest.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_a_csv_file_becomes_a_run_with_evidence_of_every_step(room, rest):
    run = await post(rest, "runs", {**NAMED, "csv": CSV}, 201)
    assert (run["state"], run["num_records"]) == ("waiting", 2)
    assert run["lacks"] == "click, type_text on http://desk.test"
    await post(rest, f"runs/{run['run_id']}/approve")
    await room.ended(run["run_id"])
    shown = (await rest.get(f"runs/{run['run_id']}")).json()
    assert (shown["state"], shown["num_by_state"], shown["lacks"]) == ("done", {"done": 2}, None)
    first, second = shown["records"]["items"]
    assert [step["label"] for step in first["steps"]] == ["Customer", "City", "Save", None]
    assert second["parameters"] == {"customer": "Al Um", "city": "Bonn"}
    assert (await rest.get(f"runs/{run['run_id']}/records/1")).json() == second


async def test_runs_and_records_are_paged(room, rest):
    ids = [(await post(rest, "runs", {**NAMED, "csv": CSV}, 201))["run_id"] for _ in range(3)]
    first = (await rest.get("runs", params={"limit": 2})).json()
    second = (await rest.get("runs", params={"limit": 2, "cursor": first["next"]})).json()
    assert {run["run_id"] for run in first["items"] + second["items"]} == set(ids)
    assert second["next"] is None
    page = (await rest.get(f"runs/{ids[0]}", params={"limit": 1})).json()["records"]
    rest_of_it = (
        await rest.get(f"runs/{ids[0]}", params={"limit": 1, "cursor": page["next"]})
    ).json()["records"]
    assert [r["record_index"] for r in page["items"] + rest_of_it["items"]] == [0, 1]


async def test_the_kill_switch_answers_with_what_it_stopped(rest):
    run = await post(rest, "runs", {**NAMED, "csv": CSV}, 201)
    assert (await post(rest, "stop"))["run_ids"] == [run["run_id"]]
    assert (await post(rest, f"runs/{run['run_id']}/stop"))["state"] == "cancelled"


async def test_reject_ends_a_run_that_waits(rest):
    run = await post(rest, "runs", {**NAMED, "csv": CSV}, 201)
    assert (await post(rest, f"runs/{run['run_id']}/reject"))["reason"] == "rejected by the user"


async def test_grants_are_given_listed_and_taken_back(rest):
    grant = await post(rest, "grants", NAMED, 201)
    assert grant["ops"] == ["click", "type_text"]
    assert (await rest.delete(f"grants/{grant['grant_id']}")).status_code == 204
    (listed,) = (await rest.get("grants")).json()["items"]
    assert listed["revoked_ms"] is not None
    assert (await rest.delete("grants/none")).status_code == 404


async def test_keys_are_trusted_listed_and_taken_back(rest):
    key = SigningKey.generate().public.hex()
    await post(rest, "trusted-keys", {"public_key": key, "name": "a colleague"}, 201)
    names = [k["name"] for k in (await rest.get("trusted-keys")).json()]
    assert names == ["module-signing", "a colleague"]
    assert (await rest.delete(f"trusted-keys/{key}")).status_code == 204
    assert (await rest.delete(f"trusted-keys/{key}")).status_code == 404


async def test_agents_are_listed_with_their_verdict(rest):
    (agent,) = (await rest.get("models")).json()["items"]
    assert (agent["routine_id"], agent["name"], agent["verdict"]) == (
        "routine-1",
        "Enter an order",
        "ok",
    )
    assert (await rest.get("models", params={"verdict": "refused"})).json()["items"] == []


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"csv": CSV}, 422, "routine_id or by name"),
        ({**NAMED, "csv": "Customer\nMia"}, 422, "missing city"),
        ({**NAMED, "csv": CSV, "records": []}, 422, "not both"),
        ({**NAMED, "params": {"customer": "Mia"}}, 422, "missing city"),
        ({"name": "Pay", "csv": CSV}, 404, "no agent for Pay"),
        ({**NAMED, "csv": CSV, "surprise": 1}, 422, "surprise"),
        ({**NAMED, "records": [{"customer": 3}]}, 422, "string"),
    ],
)
async def test_a_wrong_run_is_refused_in_words_and_without_values(rest, body, status, said):
    answer = await rest.post("runs", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (
        status,
        "application/problem+json",
    )
    assert said in answer.text
    assert "Mia" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "runs/none", 404),
        ("GET", "runs/none/records/0", 404),
        ("POST", "runs/none/approve", 404),
        ("POST", "runs/none/reject", 404),
        ("POST", "runs/none/stop", 404),
        ("GET", "runs?cursor=xyz", 422),
        ("GET", "runs?cursor=MQ", 422),
        ("GET", "grants?cursor=WzEsMl0", 422),
    ],
)
async def test_what_is_not_there_is_said_so(rest, method, path, status):
    answer = await rest.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (
        status,
        "application/problem+json",
    )
