import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import PLANTED

from services.user_monitor.capture import RawCapture, RawElement, RawSnapshot
from services.user_monitor.consent import Allowance
from services.user_monitor.privacy import Redactor, classify, document_of, safe_keys
from shared.schemas import Action, Level, Source, Text, encode

KEY = b"k" * 32
VALUES = Allowance(Level.VALUES, frozenset())
STRUCTURE = Allowance(Level.STRUCTURE, frozenset())
LEVELS = pytest.mark.parametrize("allowed", [VALUES, STRUCTURE], ids=["values", "structure"])


def redact(capture, allowed, redactor=None):
    return (redactor or Redactor(KEY)).event(
        capture,
        allowed,
        event_id="e1",
        user_id="jane",
        source=Source.BROWSER,
        session="s",
        seq=0,
        boot_id="b",
        snapshot=None,
        demonstration=None,
        showing=None,
    )


def full_capture(text):
    """Put one text wherever a source can put one."""
    element = RawElement(
        untrusted_role="textbox",
        untrusted_tag="input",
        untrusted_id=text,
        untrusted_selector=text,
        untrusted_name=text,
        name_is_control=True,
        untrusted_label=text,
        untrusted_text=text,
        untrusted_value=text,
        untrusted_options=("one", text),
        states=(text,),
    )
    cell = RawElement(untrusted_role=text, untrusted_name=text, untrusted_text=text)
    return RawCapture(
        action=Action.EDIT,
        untrusted_application=text,
        time_ms=1,
        untrusted_title=text,
        untrusted_url=f"https://app.example/{text}?q={text}#{text}",
        element=element,
        untrusted_value=text,
        keys=text,
        snapshot=RawSnapshot((element, cell)),
    )


@LEVELS
@pytest.mark.parametrize("kind", PLANTED)
def test_no_planted_secret_survives_in_the_encoded_record(kind, allowed):
    @settings(max_examples=40, deadline=None)
    @given(secret=PLANTED[kind], before=st.sampled_from(["", "for you: ", "x\n"]))
    def check(secret, before):
        capture = full_capture(before + secret)
        redactor = Redactor(KEY)
        written = encode(redact(capture, allowed)).decode()
        written += redactor.snapshot(capture, allowed).model_dump_json()
        core = max(secret.replace("\\", " ").split(), key=len)
        for text in (secret, core):
            assert text not in written
            assert text.replace("/", "%2F") not in written
        assert redactor.hash(secret) not in written
        assert redactor.hash(before + secret) not in written

    check()


def test_a_text_is_clear_at_values_and_a_hash_at_structure():
    redactor = Redactor(KEY)
    assert redactor.text(" Ann Smith ", VALUES) == Text(cls="text", clear="Ann Smith")
    assert redactor.text("Ann Smith", STRUCTURE) == Text(
        cls="text", hash=redactor.hash("Ann Smith")
    )


def test_equal_texts_stay_equal_and_another_key_tells_nothing():
    one, other = Redactor(KEY), Redactor(b"o" * 32)
    assert one.text("Ann Smith", STRUCTURE) == one.text("Ann Smith", STRUCTURE)
    assert one.text("Ann Smith", STRUCTURE) != other.text("Ann Smith", STRUCTURE)


@pytest.mark.parametrize("text", ["short", "12345", "true", "2024-01-05", "05.01.2024 10:30", ""])
def test_what_could_be_guessed_has_no_hash(text):
    assert Redactor(KEY).text(text, STRUCTURE).key is None


@given(st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_structure_never_keeps_a_text(text):
    assert Redactor(KEY).text(text, STRUCTURE).clear is None


@pytest.mark.parametrize(
    ("text", "cls"),
    [
        ("", "empty"), ("yes", "bool"), ("12", "number"), ("-1,234.50 €", "number"),
        ("EUR 12", "number"), ("2024-01-05", "date"), ("5 March 2024", "date"), ("10:30", "date"),
        ("a@b.example", "email"), ("+49 30 1234567", "phone"), ("https://a.example/x", "url"),
        ("Smith", "word"), ("INV-0012", "code"), ("Ann Smith", "text"), ("O'Neill", "word"),
    ],
)  # fmt: skip
def test_classes(text, cls):
    assert classify(text) == cls


@pytest.mark.parametrize("name", ["Password", "Contraseña"])
def test_a_value_whose_element_is_called_a_secret_is_dropped_whatever_its_role(name):
    element = RawElement(untrusted_role="generic", untrusted_name=name)
    capture = RawCapture(
        action=Action.EDIT, untrusted_application="app", time_ms=1, element=element,
        untrusted_value="hunter2secret",
    )  # fmt: skip
    assert redact(capture, VALUES).value == Text(cls="secret")


def test_the_header_of_a_row_is_data_and_the_header_of_a_column_is_not():
    row = RawElement(untrusted_role="cell", untrusted_label="Anna Muster", label_is_data=True)
    column = RawElement(untrusted_role="cell", untrusted_label="Customer")
    labels = [
        [Redactor(KEY).element(raw, allowed).label for raw in (row, column)]
        for allowed in (STRUCTURE, VALUES)
    ]
    assert labels == [[None, "Customer"], ["Anna Muster", "Customer"]]


def test_names_of_controls_stay_clear_and_names_of_data_do_not():
    button = RawElement(untrusted_role="button", untrusted_name="Save order", name_is_control=True)
    link = RawElement(untrusted_role="link", untrusted_name="Ann Smith")
    redactor = Redactor(KEY)
    assert redactor.element(button, STRUCTURE).name == Text(cls="text", clear="Save order")
    assert redactor.element(link, STRUCTURE).name.clear is None


def test_a_control_whose_name_holds_a_secret_loses_it():
    button = RawElement(
        untrusted_role="button",
        untrusted_name="Pay with 4111 1111 1111 1111",
        name_is_control=True,
        untrusted_label="Card 4111 1111 1111 1111",
    )
    element = Redactor(KEY).element(button, VALUES)
    assert element.name == Text(cls="secret")
    assert element.label is None


@pytest.mark.parametrize(
    "element",
    [
        RawElement(untrusted_role="textbox", is_secret=True),
        RawElement(untrusted_role="textbox", untrusted_label="Password"),
        RawElement(untrusted_role="textbox", untrusted_name="New PIN", name_is_control=True),
        RawElement(untrusted_role="textbox", untrusted_id="user_password"),
    ],
)
def test_the_value_of_a_secret_field_is_never_kept(element):
    capture = RawCapture(Action.EDIT, "app", 1, element=element, untrusted_value="tulip field")
    assert redact(capture, VALUES).value == Text(cls="secret")


def test_a_kept_kind_is_kept_where_the_consent_says_so():
    allowed = Allowance(Level.VALUES, frozenset({"email"}))
    redactor = Redactor(KEY)
    assert redactor.text("ann@firm.example", allowed).clear == "ann@firm.example"
    assert redactor.text("ann@firm.example", VALUES) == Text(cls="secret")
    assert redactor.text("+49 30 1234567", allowed) == Text(cls="secret")


@pytest.mark.parametrize(
    ("url", "document"),
    [
        ("https://a.example/customers/4711/edit?x=1#top", "https://a.example/customers/*/edit"),
        ("https://a.example", "https://a.example/"),
        ("http://127.0.0.1:8080/order-2024-01-05.html", "http://127.0.0.1:8080/order-*.html"),
        ("https://a.example/api/v2/list", "https://a.example/api/v2/list"),
        ("https://a.example/x/3f2504e0-4f89-11d3-9a0c-0305e82c3301", "https://a.example/x/*"),
        ("https://a.example/u/ann%40b.example", "https://a.example/u/*"),
        ("https://a.example/#/orders/12?tab=2", "https://a.example/#/orders/*"),
        ("https://jane:tulip@a.example/x", "https://a.example/x"),
        ("file:///home/jane/letters/to-ann.html", "file:///*.html"),
        ("data:text/html,<p>hello", "data:"),
        ("about:blank", "about:blank"),
        ("no url", None),
        ("https://a.example:port/x", None),
    ],
)
def test_documents_are_masked(url, document):
    assert document_of(url) == document


def test_a_url_keeps_its_query_at_values_but_not_its_secrets():
    url = "https://jane:tulip@a.example/p?page=2&access_token=abcdef&mail=a%40b.example#t=1&sid=abc"
    kept = Redactor(KEY).url(url, VALUES)
    assert kept == Text(cls="url", clear="https://a.example/p?page=2#t=1")
    masked = Redactor(KEY).url("https://a.example/p/12?page=2", STRUCTURE)
    assert masked.clear == "https://a.example/p/*"
    assert masked.hash is not None


@pytest.mark.parametrize("keys", ["Enter", "Shift+Tab", "Control+c", "Control++", "Alt+F4", "F5"])
def test_navigation_keys_and_hot_keys_pass(keys):
    assert safe_keys(keys) == keys


@pytest.mark.parametrize(
    "keys",
    ["a", "A", "Shift+a", "ü", "Alt+@", "Control+Alt+@", "hunter2", "Control+hunter2", "", None],
)
def test_what_may_be_a_typed_character_does_not(keys):
    assert safe_keys(keys) is None


def test_a_very_long_text_keeps_its_class_only():
    assert Redactor(KEY).text("x y " * 5000, VALUES) == Text(cls="text")


def test_what_a_log_had_redacted_stays_redacted():
    hidden = Text(cls="text", hash="ab" * 16)
    assert Redactor(KEY).text(hidden, VALUES) == hidden
