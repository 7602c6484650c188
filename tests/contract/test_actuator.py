"""What every actuator promises, and what the browser and the dry run promise beside it."""

import pytest
import pytest_asyncio

from services.agent_runner.actuators.browser import BrowserActuator
from services.agent_runner.actuators.dry_run import DryRunActuator
from shared.errors import ActuatorError, NoBrowser, StepRefused, StepUnverified
from shared.page import Browser

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module")
async def browser(served, site):
    actuator = await BrowserActuator.start([site], attach_url=served.url)
    await actuator.open(f"{site}/form.html")
    yield actuator
    await actuator.close()


@pytest_asyncio.fixture(loop_scope="module")
async def dry_run(browser):
    return DryRunActuator(browser)


@pytest.fixture(params=["browser", "dry_run"])
def actuator(request):
    return request.getfixturevalue(request.param)


def index_of(snapshot, role, name):
    [found] = [
        e.index
        for e in snapshot.elements
        if e.role == role and ((e.name and e.name.clear) or e.label) == name
    ]
    return found


async def on(actuator, role, name, op="click", **given):
    index = index_of(await actuator.observe(), role, name)
    return await actuator.perform(op, index, **given)


async def value_of(actuator, role, name):
    snapshot = await actuator.observe()
    value = snapshot.elements[index_of(snapshot, role, name)].value
    return value.clear if value else None


async def click_and_look(actuator, role, name):
    await on(actuator, role, name)
    await actuator.settle()
    await actuator.observe()


def page_of(actuator):
    return actuator._page


# -- every actuator --------------------------------------------------------------------------------


async def test_the_tree_is_in_document_order_with_parents_before_children(actuator):
    snapshot = await actuator.observe()
    assert [e.index for e in snapshot.elements] == list(range(len(snapshot.elements)))
    assert all(e.parent is None or e.parent < e.index for e in snapshot.elements)


async def test_hidden_elements_and_secret_values_are_not_in_the_tree(actuator):
    text = (await actuator.observe()).model_dump_json()
    assert "Anna Bell" in text
    for hidden in ("hidden text", "invisible text", "Never", "hunter2secret", "4111111111111111"):
        assert hidden not in text


async def test_cells_definitions_and_fields_have_labels(actuator):
    elements = (await actuator.observe()).elements
    labels = {
        (e.text or e.value).clear: e.label for e in elements if (e.text or e.value) and e.label
    }
    assert labels["Anna Bell"] == "Name"
    assert labels["Carl Dorn"] == "Name"
    assert labels["Berlin"] == "City"
    assert labels["2019"] == "Member since"
    assert labels["123 456"] == "Phone"
    assert labels["old"] == "Full name"
    sizes = [e.label for e in elements if e.role == "radio"]
    assert sizes == ["Size", "Size"]
    assert index_of(await actuator.observe(), "textbox", "City") is not None


async def test_typed_text_stands_in_the_field(actuator):
    await on(actuator, "textbox", "Full name", "type_text", text="Grace Hopper")
    await on(actuator, "textbox", "Remarks", "type_text", text="one\ntwo")
    assert await value_of(actuator, "textbox", "Full name") == "Grace Hopper"
    assert await value_of(actuator, "textbox", "Remarks") == "one two"


async def test_a_chosen_option_is_the_lists_value(actuator):
    await on(actuator, "combobox", "Country", "select_option", text="Denmark")
    assert await value_of(actuator, "combobox", "Country") == "Denmark"


async def test_ticks_show(actuator):
    for role, name in (("checkbox", "Express"), ("radio", "Large")):
        await on(actuator, role, name)
        snapshot = await actuator.observe()
        assert "checked" in snapshot.elements[index_of(snapshot, role, name)].states
    small = snapshot.elements[index_of(snapshot, "radio", "Small")]
    assert "checked" not in small.states


async def test_a_plain_link_is_followed(actuator):
    await on(actuator, "link", "Second page")
    assert await actuator.settle()
    snapshot = await actuator.observe()
    assert snapshot.document.endswith("/two.html")
    assert snapshot.title.clear == "Two"


@pytest.mark.parametrize(
    ("role", "name", "op", "given", "why"),
    [
        ("button", "Under", "click", {}, 'covered by dialog "Cover"'),
        ("textbox", "Fixed", "type_text", {"text": "x"}, "read-only"),
        ("textbox", "Password", "type_text", {"text": "x"}, "secret"),
        ("combobox", "Country", "select_option", {"text": "Atlantis"}, "no option"),
        ("combobox", "Country", "select_option", {"text": "Bulgaria"}, "disabled"),
        ("heading", "Members", "type_text", {"text": "x"}, "not a field"),
    ],
)
async def test_what_cannot_be_done_is_refused_with_its_reason(actuator, role, name, op, given, why):
    with pytest.raises(StepRefused, match=why):
        await on(actuator, role, name, op, **given)


async def test_a_secret_field_takes_what_the_page_shows(browser):
    await on(browser, "textbox", "Password", "type_text", text="123 456")
    assert await page_of(browser).input_value("#p") == "123 456"


async def test_an_option_of_a_list_that_takes_several_is_added(browser):
    await page_of(browser).evaluate("document.querySelector('#s').multiple = true")
    for text in ("Belgium", "Austria", "Denmark"):  # Austria was chosen from the start
        await on(browser, "listbox", "Country", "select_option", text=text)
    assert await value_of(browser, "listbox", "Country") == "Austria, Belgium, Denmark"


async def test_an_element_that_was_not_observed_is_refused(actuator):
    await actuator.observe()
    with pytest.raises(StepRefused, match="not in the last observation"):
        await actuator.perform("click", 9_999)


async def test_an_origin_that_is_not_allowed_is_not_opened(actuator, site):
    with pytest.raises(ActuatorError, match="not among the allowed origins"):
        await actuator.open(site.replace("127.0.0.1", "localhost") + "/form.html")


# -- the browser -----------------------------------------------------------------------------------


async def test_the_page_sees_a_persons_input(browser):
    await on(browser, "textbox", "Full name", "type_text", text="x")
    await on(browser, "combobox", "Country", "select_option", text="Chile")
    await on(browser, "button", "Shadow")
    seen = await page_of(browser).evaluate("window.seen")
    assert {kind for kind, _ in seen} == {"click", "input", "change", "keydown"}
    assert all(trusted for _, trusted in seen)
    assert [kind for kind, _ in seen].count("change") == 2  # the text once, the list once


async def test_dates_times_and_numbers_are_typed_whatever_the_locale(browser):
    for name, role, value in (
        ("Due", "textbox", "2026-03-14"),
        ("At", "textbox", "17:05"),
        ("Amount", "spinbutton", "12.50"),
    ):
        await on(browser, role, name, "type_text", text=value)
        assert await value_of(browser, role, name) == value
    with pytest.raises(StepRefused, match="ISO 8601 date"):
        await on(browser, "textbox", "Due", "type_text", text="14 March")


async def test_a_field_that_holds_something_else_afterwards_is_told(browser):
    await page_of(browser).evaluate("n.maxLength = 3")
    with pytest.raises(StepUnverified, match="holds something else"):
        await on(browser, "textbox", "Full name", "type_text", text="abcdef")


async def test_an_empty_text_empties_and_a_button_below_is_scrolled_to(browser):
    await on(browser, "textbox", "Full name", "type_text", text="")
    assert await value_of(browser, "textbox", "Full name") is None
    await on(browser, "button", "Below")
    assert await page_of(browser).title() == "below"


async def test_keys_and_double_clicks_arrive(browser):
    await on(browser, "textbox", "City", "press_key", key="Enter")
    assert await page_of(browser).title() == "submitted"
    await on(browser, "button", "Shadow", "double_click")
    assert ["dblclick", True] in await page_of(browser).evaluate("window.seen")


async def test_what_opens_under_the_pointer_is_there_afterwards(browser):
    await page_of(browser).evaluate(
        "save.onmouseenter = () => setTimeout(() => { save.textContent = 'Opened' }, 300)"
    )
    await on(browser, "button", "Save", "hover")
    assert index_of(await browser.observe(), "button", "Opened") is not None


async def test_a_check_box_drawn_by_its_label_is_ticked(browser):
    await on(browser, "checkbox", "Gift")
    assert await page_of(browser).evaluate("c2.checked")


async def test_an_element_that_has_gone_or_been_replaced_is_stale(browser, site):
    save = index_of(await browser.observe(), "button", "Save")
    await page_of(browser).evaluate("save.outerHTML = '<button id=save>Save</button>'")
    with pytest.raises(StepRefused, match="no longer on the page"):
        await browser.perform("click", save)
    save = index_of(await browser.observe(), "button", "Save")
    await page_of(browser).goto(f"{site}/form.html?later")
    with pytest.raises(StepRefused, match="older observation"):
        await browser.perform("click", save)
    assert await page_of(browser).title() == "Form"


async def test_a_dialog_is_not_accepted_and_ends_the_run(browser):
    with pytest.raises(ActuatorError, match=r"confirm.*Really\?.*not accepted"):
        await on(browser, "button", "Ask")
    assert await page_of(browser).title() == "false"
    with pytest.raises(ActuatorError, match=r"Really\?"):
        await browser.observe()


async def test_leaving_for_another_origin_is_stopped(browser, site):
    with pytest.raises(ActuatorError, match="localhost:9, which is not allowed"):
        await click_and_look(browser, "button", "Leave")
    assert page_of(browser).url == f"{site}/form.html"


async def test_another_tab_ends_the_run(browser):
    async def follow() -> None:
        await click_and_look(browser, "link", "Aside")
        while True:  # the browser tells of a new tab in its own time
            await browser.observe()

    with pytest.raises(ActuatorError, match="opened another tab"):
        await follow()


async def test_a_page_that_keeps_changing_does_not_settle(browser):
    assert await browser.settle()
    await page_of(browser).evaluate("setInterval(() => { document.title = Math.random() }, 20)")
    await on(browser, "button", "Shadow")
    assert not await browser.settle(400)


async def test_settling_waits_for_what_a_step_loads(browser):
    await page_of(browser).evaluate(
        """addEventListener("click", async () => {
             for (let i = 0; i < 5; i++) await (await fetch("two.html?" + i)).text();
             document.title = "loaded";
           })"""
    )
    await on(browser, "button", "Shadow")
    assert await browser.settle()
    assert await page_of(browser).title() == "loaded"


async def test_all_who_attach_name_the_same_instance_and_tab(browser, served):
    other = await Browser.attach(served.url)
    assert other.endpoint == browser.target.endpoint
    await other.close()
    same = await BrowserActuator.start([], attach_url=served.url, surface=browser.target.surface)
    assert same.target == browser.target
    await same.close()
    await browser.observe()  # letting go closed neither browser nor tab


async def test_a_launched_browser_has_a_profile_of_its_own(tmp_path, site):
    actuator = await BrowserActuator.start([site], profile_dir=tmp_path / "profile")
    await actuator.open(f"{site}/two.html")
    assert (await actuator.observe()).elements[0].name.clear == "Second"
    assert (tmp_path / "profile").stat().st_mode & 0o777 == 0o700
    await actuator.close()
    await actuator.close()


async def test_without_a_browser_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoBrowser, match="install one"):
        await BrowserActuator.start([], profile_dir=tmp_path)
    with pytest.raises(NoBrowser, match="no Chromium answers"):
        await BrowserActuator.start([], attach_url="http://127.0.0.1:9")


# -- the dry run -----------------------------------------------------------------------------------


async def test_a_dry_run_changes_nothing_and_ends_at_the_first_button(dry_run, browser):
    before = await page_of(browser).content()
    await on(dry_run, "textbox", "Full name", "type_text", text="Grace")
    await on(dry_run, "combobox", "Country", "select_option", text="Chile")
    await on(dry_run, "checkbox", "Express")
    saved = await on(dry_run, "button", "Save")
    assert saved.ends_here
    assert saved.untrusted_note == 'would click button "Save"; what follows depends on it'
    assert await value_of(dry_run, "textbox", "Full name") == "Grace"
    assert await value_of(browser, "textbox", "Full name") == "old"
    assert await page_of(browser).content() == before
    assert await page_of(browser).evaluate("[n.value, s.value, c.checked]") == [
        "old",
        "Austria",
        False,
    ]
    assert await page_of(browser).evaluate("window.seen") == []


async def test_a_dry_run_ends_at_enter_and_at_what_only_looks_like_text(dry_run):
    assert (await on(dry_run, "textbox", "City", "press_key", key="Enter")).ends_here
    snapshot = await dry_run.observe()
    [card] = [e.index for e in snapshot.elements if e.text and e.text.clear == "paragraph"]
    assert (await dry_run.perform("click", card)).ends_here
