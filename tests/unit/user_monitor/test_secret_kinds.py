import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import PLANTED

from shared.secret_kinds import find_secret, is_secret_label

AROUND = st.sampled_from(
    [
        ("", ""),
        ("call: ", " thanks"),
        ("(", ")"),
        ("Müller, ", "; 12 items"),
        ("\n", "\n"),
        ('"', '"'),
    ]
)


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_secret_is_found_wherever_it_stands(kind):
    @settings(max_examples=60, deadline=None)
    @given(secret=PLANTED[kind], around=AROUND)
    def check(secret, around):
        assert find_secret(around[0] + secret + around[1]) is not None

    check()


@pytest.mark.parametrize("kind", ["card", "iban", "phone", "id-number"])
def test_odd_digits_and_invisible_characters_hide_nothing(kind):
    wide = {ord(str(d)): chr(0xFF10 + d) for d in range(10)}

    @settings(max_examples=40, deadline=None)
    @given(secret=PLANTED[kind])
    def check(secret):
        assert find_secret(secret.translate(wide)) is not None
        assert find_secret("\u200b".join(secret)) is not None

    check()


@pytest.mark.parametrize(
    "text",
    [
        "Order 1234567890123",
        "4111 1111 1111 1112",  # wrong check digit
        "DE00370400440532013000",
        "INV-2024-00123",
        "12,345.67 EUR",
        "01/02/2024",
        "01-02-2024 12:30",
        "2024-01-05T10:00:00Z",
        "3f2504e0-4f89-11d3-9a0c-0305e82c3301",
        "InvoiceTemplate2024FinalVersion",
        "Ann Smith, 12 Main Street, 12345 Springfield",
        "basic understanding",
        "Password",
        "Reset your password",
        "https://example.org/customers/12?sort=name&author=5&design=new",
        "10:30 - 11:45",
        "192.168.100.100",
        "Chapter 3: results",
        "3.14159",
        "A = B",
    ],
)
def test_ordinary_work_data_is_no_secret(text):
    assert find_secret(text) is None


def test_a_consent_may_keep_personal_kinds_but_no_other_in_the_same_text():
    keep = frozenset({"email", "phone"})
    assert find_secret("jane@firm.example", keep) is None
    assert find_secret("+49 30 901820", keep) is None
    assert find_secret("jane@firm.example password: tulip7", keep) == "labelled"


def test_a_field_named_as_secret_makes_any_text_one():
    assert find_secret("tulip", label="Password") == "labelled"
    assert find_secret("tulip", label="newPassword") == "labelled"
    assert find_secret("1234567", label="Phone") == "phone"
    assert find_secret("tulip", label="Flower") is None


@pytest.mark.parametrize("label", ["user_password", "apiKey", "Card PIN", "CVV", "2FA code"])
def test_labels_of_secret_fields_are_known(label):
    assert is_secret_label(label)


@pytest.mark.parametrize("label", ["Passenger", "Shipping", "Spinach", "Tank", "Secretary", None])
def test_words_that_only_look_like_one_are_not(label):
    assert not is_secret_label(label)
