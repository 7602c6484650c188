"""Other recorders' logs: CSV by a column map, XES, packed or not."""

import gzip
import lzma

import pytest

from services.user_monitor.capture import ReplaySpec
from services.user_monitor.capture.replay import ReplaySource, read_log
from shared.clock import FakeClock
from shared.errors import CaptureError, ConfigError
from shared.schemas import Action

MAP = {"time": "when", "action": "what", "application": "app", "value": "typed|cell"}

TABLE = """when;what;app;typed;cell;tag;kind;label;case
2024-01-05T10:00:02Z;clickButton;Shop;;;BUTTON;submit;Send;7
2024-01-05T10:00:01.500+01:00;editField;Shop;Ann;;INPUT;text;Name;7
1704448800;copyCell;Sheet;;42;;;;7
1704448801000;approve_leave;Staff;;;;;;8
"""


def read(text, **spec):
    return list(read_log(text.encode(), ReplaySpec(**spec)))


def test_every_row_is_one_capture_in_the_order_of_the_file():
    found = read(TABLE, columns=MAP)
    assert [c.action for c in found] == [Action.CLICK, Action.EDIT, Action.COPY, Action.CLICK]
    assert [c.time_ms - 1704448800000 for c in found] == [2000, -3598500, 0, 1000]
    assert [c.untrusted_value for c in found] == [None, "Ann", "42", None]


def test_rows_may_be_put_in_the_order_of_time():
    found = read(TABLE, columns=MAP, by_time=True)
    assert [c.untrusted_application for c in found] == ["Shop", "Sheet", "Staff", "Shop"]


def test_what_a_recorder_called_an_action_is_kept_beside_ours():
    rows = read("when,what\n1,click\n2,right_click\n3,approve_leave\n",
                columns={"time": "when", "action": "what"})  # fmt: skip
    assert [c.untrusted_activity for c in rows] == [None, "right_click", "approve_leave"]


def test_roles_follow_from_the_tags_of_html():
    columns = {"time": "when", "action": "what", "tag": "tag", "type": "kind", "label": "label"}
    found = read(TABLE, columns=columns)
    assert [c.element and c.element.untrusted_role for c in found] == [
        "button", "textbox", None, None,
    ]  # fmt: skip
    assert found[0].element.name_is_control


def test_two_columns_may_be_joined():
    [row, *_] = read(TABLE, columns={**MAP, "title": "app+label"})
    assert row.untrusted_title == "Shop Send"


def test_a_password_fields_value_is_never_read_as_one():
    [row] = read("t,a,k,v\n1,input,password,hunter2\n",
                 columns={"time": "t", "action": "a", "type": "k", "value": "v"})  # fmt: skip
    assert row.element.is_secret


@pytest.mark.parametrize(
    ("text", "columns", "error", "said"),
    [
        (TABLE, {"time": "when", "action": "no"}, CaptureError, "no column no"),
        (TABLE, {"time": "when"}, ConfigError, "time and action"),
        (TABLE, {**MAP, "case": "case"}, ConfigError, "no field case"),
        ("when,what\nyesterday,click\n", MAP | {}, CaptureError, "no column"),
        ("t,a\nyesterday,click\n", {"time": "t", "action": "a"}, CaptureError, "line 2 .* no time"),
        ("t,a\n1,click\n1,\n", {"time": "t", "action": "a"}, CaptureError, "line 3 .* no action"),
    ],
)
def test_a_wrong_table_or_map_is_said_by_place(text, columns, error, said):
    with pytest.raises(error, match=said):
        read(text, columns=columns)


XES = """<?xml version="1.0"?>
<log xes.version="1.0" xmlns="http://www.xes-standard.org/">
 <string key="concept:name" value="secret log name"/>
 <trace><string key="concept:name" value="case-1"/>
  <event><string key="concept:name" value="openFile"/>
   <date key="time:timestamp" value="2024-01-05T10:00:00.000+00:00"/>
   <string key="App" value="Sheet"/></event>
  <event><string key="concept:name" value="approve"/>
   <date key="time:timestamp" value="2024-01-05T10:00:09.000+00:00"/></event>
 </trace>
 <trace><string key="concept:name" value="case-2"/>
  <event><string key="concept:name" value="paste"/>
   <date key="time:timestamp" value="2024-01-05T10:00:04.000+00:00"/></event>
 </trace>
</log>
"""


def test_xes_is_read_in_the_order_of_time_without_its_cases():
    found = read(XES, log_format="xes")
    assert [c.action for c in found] == [Action.OPEN, Action.PASTE, Action.CLICK]
    assert [c.untrusted_activity for c in found] == ["openFile", None, "approve"]
    assert "case-" not in repr(found)
    assert "secret log name" not in repr(found)


def test_attributes_of_xes_may_be_mapped_as_columns_are():
    columns = {"time": "time:timestamp", "action": "concept:name", "application": "App"}
    found = read(XES, log_format="xes", columns=columns)
    assert [c.untrusted_application for c in found] == ["Sheet", "unknown", "unknown"]


BOMB = """<!DOCTYPE log [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><log>&b;</log>"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<log><trace>", "not XES"), ("<html/>", "no <log>"), (BOMB, "DTDForbidden"),
        ("<log><trace><event/></trace></log>", "event 1 of the log has no time"),
    ],
)  # fmt: skip
def test_what_is_not_xes_is_refused(text, said):
    with pytest.raises(CaptureError, match=said):
        read(text, log_format="xes")


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
async def test_a_packed_log_is_the_same_session(pack, tmp_path):
    path = tmp_path / "log"
    path.write_bytes(pack(TABLE.encode()))
    source = await ReplaySource.open(ReplaySpec(path, columns=MAP), FakeClock())
    plain = await ReplaySource.open(ReplaySpec(content=TABLE.encode(), columns=MAP), FakeClock())
    assert source.session == plain.session
    assert [c async for c in source.captures()] == [c async for c in plain.captures()]


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
async def test_a_damaged_pack_is_said_before_anything_is_read(pack):
    with pytest.raises(CaptureError, match="cannot be unpacked"):
        await ReplaySource.open(ReplaySpec(content=pack(b"x" * 99)[:-9]), FakeClock())


async def test_a_format_that_is_none_is_refused_at_once():
    with pytest.raises(ConfigError, match="choose from jsonl, csv, xes"):
        await ReplaySource.open(ReplaySpec(content=b"", log_format="mxml"), FakeClock())
