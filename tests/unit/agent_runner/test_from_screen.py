"""Values are read from the screen only where exactly one is found."""

import pytest

from services.agent_runner.from_screen import read_parameters
from shared.errors import ContractError
from shared.schemas import Level, Parameter, ParameterSource, Snapshot, SnapshotElement, Text

PAGE = "http://desk.test/card"
NAME = Parameter(
    name="name", source=ParameterSource.SCREEN, value_class="text", label="Name", role="cell",
    document=PAGE,
)  # fmt: skip
CITY = Parameter(name="city", source=ParameterSource.TYPED, value_class="text")


def cell(index, clear, states=()):
    return SnapshotElement(
        index=index, role="cell", label="Name", text=Text(clear=clear), states=states
    )


def page(*elements, document=PAGE):
    return Snapshot(application="a", level=Level.VALUES, document=document, elements=elements)


def test_the_one_value_is_read_and_what_was_given_stays():
    found = read_parameters(page(cell(0, "Mia")), [NAME, CITY], {"city": "Rom"})
    assert found == {"name": "Mia", "city": "Rom"}
    assert read_parameters(page(cell(0, "Mia")), [NAME], {"name": "Al"}) == {"name": "Al"}


def test_a_field_is_read_by_its_value_and_not_by_its_name():
    field = SnapshotElement(
        index=0, role="textbox", label="Name", name=Text(clear="Name"), value=Text(clear="Mia")
    )
    parameter = NAME.model_copy(update={"role": "textbox"})
    assert read_parameters(page(field), [parameter], {}) == {"name": "Mia"}


def test_the_selected_one_of_several_is_meant():
    elements = cell(0, "Mia"), cell(1, "Al", ("selected",))
    assert read_parameters(page(*elements), [NAME], {}) == {"name": "Al"}


@pytest.mark.parametrize(
    ("snapshot", "said"),
    [
        (page(), "no value for name"),
        (page(cell(0, "Mia"), cell(1, "Al")), "2 values for name"),
        (page(cell(0, "Mia"), document="http://desk.test/list"), "not what is on the screen"),
    ],
)
def test_nothing_is_guessed(snapshot, said):
    with pytest.raises(ContractError, match=said):
        read_parameters(snapshot, [NAME], {})
