"""The order desk over HTTP: what it saves, what it refuses, how it starts and stops."""

import re
import sqlite3

import httpx
import pytest

from demo.app import App
from demo.layout import NUM_CHANGES, TERMS
from demo.records import read_records, write_records


@pytest.fixture
def desk():
    with App(3, "act") as app:
        yield app


def _form(page):
    """Read the form as a browser does: label → the name its control is sent under."""
    labels = re.findall(r'<label for="(\w+)">([^<]+)</label>', page)
    return {label: name for name, label in labels}


def _send(app, record, **other):
    names = _form(httpx.get(f"{app.url}/orders/new").text)
    values = {**record, TERMS.label: "yes", **other}
    sent = {names[label]: value for label, value in values.items() if label in names}
    return httpx.post(f"{app.url}/orders", data=sent, follow_redirects=True)


def test_a_saved_order_is_confirmed_listed_and_as_expected(desk):
    record = desk.records(5)[0]
    page = _send(desk, record).text
    confirmation = re.search(r'<section class="saved".*?</section>', page, re.DOTALL)
    assert 'role="status"' in confirmation[0]
    assert record["Reference"] in confirmation[0]
    assert page.count(f"<td>{record['Reference']}</td>") == 1
    assert desk.orders() == [desk.expected(record)]


def test_nothing_is_saved_while_a_field_is_empty(desk):
    record = desk.records(1)[0]
    for label in (*record, TERMS.label):
        answer = _send(desk, record, **{label: ""})
        assert answer.status_code == 422
        assert f"Please fill in: {label}." in answer.text
    assert desk.orders() == []


@pytest.mark.parametrize("label", ["Article", "Quantity"])
def test_a_value_the_form_does_not_offer_is_refused(desk, label):
    answer = _send(desk, desk.records(1)[0], **{label: "-1"})
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    assert desk.orders() == []


@pytest.mark.parametrize("change", range(NUM_CHANGES))
def test_going_on_blindly_after_a_change_never_gives_the_order_asked_for(change):
    with App(1, "changed", change=change) as app:
        record = app.records(1)[0]
        _send(app, record)
        assert app.expected(record) not in app.orders()


def test_values_are_shown_as_text_and_kept_as_typed(desk):
    record = {**desk.records(1)[0], "City": "<b>O'Hara & sons</b>"}
    assert "&lt;b&gt;O&#x27;Hara &amp; sons&lt;/b&gt;" in _send(desk, record).text
    assert desk.orders()[0]["City"] == record["City"]


def test_pages_for_other_work_answer(desk):
    httpx.post(f"{desk.url}/notes", data={"body": "call Ola"})
    assert "call Ola" in httpx.get(f"{desk.url}/notes").text
    assert "Care of oiled oak" in httpx.get(f"{desk.url}/search", params={"q": "OAK"}).text
    assert httpx.get(f"{desk.url}/news/0").status_code == 200
    assert httpx.get(f"{desk.url}/news/99").status_code == 404
    assert httpx.get(f"{desk.url}/requests/1").status_code == 404


def test_a_foreign_host_name_is_refused(desk):
    assert httpx.get(desk.url, headers={"host": "evil.example"}).status_code == 400


def test_it_prints_nothing_and_leaves_its_port(capfd):
    with App(0) as app:
        assert httpx.get(app.url).status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(app.url)
    assert capfd.readouterr() == ("", "")


def test_the_database_can_be_a_file_of_its_own(tmp_path):
    path = tmp_path / "orders.sqlite3"
    with App(3, "act", database=path) as app:
        record = app.records(1)[0]
        _send(app, record)
    with sqlite3.connect(path) as database:
        ((customer, button),) = database.execute("SELECT customer, button FROM orders")
    database.close()
    assert (customer, button) == (record["Customer"], "Save")


def test_records_survive_the_csv_under_the_names_the_caller_gives(tmp_path):
    with App(3, "act") as app:
        records = app.records(5)
    path = tmp_path / "records.csv"
    write_records(path, records, {"customer": "Customer", "e_mail": "E-mail"})
    read = read_records(path)
    assert [row["e_mail"] for row in read] == [record["E-mail"] for record in records]
    assert list(read[0]) == ["customer", "e_mail"]
