"""Records: what is read from CSV, and what is refused before anything starts."""

import pytest

from services.agent_runner.records import check_records, parameter_name, read_csv
from services.task_learner.synthesis import learn
from shared.errors import ContractError
from shared.schemas import Parameter, ParameterSource
from shared.schemas.programmes import PREVIOUS

CUSTOMER = Parameter(name="customer", source=ParameterSource.SCREEN, value_class="text")
CITY = Parameter(name="city", source=ParameterSource.TYPED, value_class="text")


@pytest.mark.parametrize(
    "text",
    [
        "Customer,City\nMia,Rom\nAl,Bonn\n",
        "\ufeffcustomer;city\r\nMia;Rom\r\n\r\nAl;Bonn",
        "CUSTOMER\tCity \nMia\tRom\n\nAl\tBonn\n",
    ],
)
def test_csv_is_read_whatever_program_wrote_it(text):
    assert read_csv(text) == [
        {"customer": "Mia", "city": "Rom"},
        {"customer": "Al", "city": "Bonn"},
    ]


def test_a_quoted_field_keeps_separators_quotes_and_lines():
    assert read_csv('a,b\n"x, ""y""\nz",2') == [{"a": 'x, "y"\nz', "b": "2"}]


def test_values_keep_their_spaces_and_zeros():
    assert read_csv("a,b\n 007 ,\n") == [{"a": " 007 ", "b": ""}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no record"),
        ("a,b\n", "no record"),
        ("a,,c\n1,2,3", "column 2 has no name"),
        ("a,A\n1,2", "repeats a"),
        ("a,b\n1,2\n1,2,3\n", "line 3 has 3 fields, the header has 2"),
        ('a,b\n"x,2\n', "is not CSV"),
    ],
)
def test_what_is_wrong_with_a_csv_file_is_said_by_line_or_column(text, said):
    with pytest.raises(ContractError, match=said):
        read_csv(text)


@pytest.mark.parametrize(
    ("text", "name"), [("E-mail", "e_mail"), (" Request no. ", "request_no"), ("Größe", "größe")]
)
def test_headers_are_named_as_parameters_are(text, name):
    assert parameter_name(text) == name


def test_complete_records_are_taken():
    records = [{"customer": "Mia", "city": "Rom"}]
    assert check_records(records, [CUSTOMER, CITY], from_screen=False) == records


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([], "no record"),
        ([{"customer": "Mia"}], "record 1: missing city"),
        (
            [{"customer": "M", "city": "R"}, {"customer": "M", "town": "R"}],
            "record 2: unknown town and missing city; this routine takes city, customer",
        ),
        ([{"customer": "M" * 10_001, "city": "R"}], "customer has 10001 characters"),
    ],
)
def test_unknown_and_missing_parameters_are_named(records, said):
    with pytest.raises(ContractError, match=said):
        check_records(records, [CUSTOMER, CITY], from_screen=False)


def test_an_error_names_no_value():
    with pytest.raises(ContractError) as caught:
        check_records([{"customer": "Geheim"}], [CUSTOMER, CITY], from_screen=False)
    assert "Geheim" not in str(caught.value)


def test_what_stood_on_the_screen_may_be_left_out_and_what_was_typed_may_not():
    assert check_records([{"city": "Rom"}], [CUSTOMER, CITY], from_screen=True)
    with pytest.raises(ContractError, match="missing city"):
        check_records([{}], [CUSTOMER, CITY], from_screen=True)


def test_parameters_that_the_agent_does_without_may_be_given():
    check_records([{"city": "Rom", "note": "x"}], [CITY], from_screen=False, unused={"note"})


INITIALS = CITY.model_copy(
    update={"name": "surname", "programme": learn(["customer"], [
        (["Ada Abel"], "Abel"), (["Bo Born"], "Born"), (["Cleo Cole"], "Cole")])}
)  # fmt: skip
NUMBER = CITY.model_copy(
    update={"name": "number", "programme": learn([PREVIOUS], [
        (["R-7"], "R-8"), (["R-8"], "R-9"), (["R-9"], "R-10")])}
)  # fmt: skip


def test_what_follows_from_a_record_is_computed_and_need_not_be_given():
    given = [{"customer": "Mia Neu"}, {"customer": "Al Um", "surname": "O'Um"}]
    assert check_records(given, [CUSTOMER, INITIALS], from_screen=False) == [
        {"customer": "Mia Neu", "surname": "Neu"}, {"customer": "Al Um", "surname": "O'Um"},
    ]  # fmt: skip


def test_what_follows_from_the_screen_waits_for_it():
    assert check_records([{}], [CUSTOMER, INITIALS], from_screen=True) == [{}]


def test_what_a_programme_does_not_know_is_said_before_anything_starts():
    with pytest.raises(ContractError, match="record 2: surname cannot be told from customer"):
        check_records(
            [{"customer": "Mia Neu"}, {"customer": "Mia"}], [CUSTOMER, INITIALS], from_screen=False
        )


def test_counting_goes_on_from_the_record_before():
    records = [{"number": "R-41"}, {}, {}]
    numbers = [r["number"] for r in check_records(records, [NUMBER], from_screen=False)]
    assert numbers == ["R-41", "R-42", "R-43"]
    with pytest.raises(ContractError, match="record 1: missing number"):
        check_records([{}], [NUMBER], from_screen=False)
