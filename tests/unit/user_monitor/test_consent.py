import pytest
from pydantic import ValidationError

from services.user_monitor.consent import Consent, ConsentAsked, Consents, Exclusion, Place
from shared.schemas import Level, Source

PLACE = Place(Source.BROWSER, "shop.example:8080", "Orders - Shop", "http://shop.example:8080/o/1")


def consents(*given, exclusions=()):
    return Consents({c.id: c for c in given}, {e.id: e for e in exclusions})


def consent(id_="c", since_ms=1, **asked):
    return Consent(id=id_, since_ms=since_ms, **asked)


def exclusion(kind, pattern):
    return Exclusion(id=kind + pattern, since_ms=1, kind=kind, pattern=pattern)


def test_without_consent_nothing_is_allowed():
    assert consents().allowance(PLACE) is None


def test_a_consent_covers_its_source_and_application_only():
    assert consents(consent()).allowance(PLACE) is not None
    assert consents(consent(source=Source.INPUT)).allowance(PLACE) is None
    assert consents(consent(application="Shop.example:*")).allowance(PLACE) is not None
    assert consents(consent(application="shop")).allowance(PLACE) is None
    assert consents(consent(url="http://shop.example:8080/o/*")).allowance(PLACE) is not None
    assert consents(consent(url="http://other.example/*")).allowance(PLACE) is None


def test_a_revoked_consent_allows_nothing():
    revoked, _ = consent().revoke(5)
    assert revoked.revoked_ms == 5
    assert consents(revoked).allowance(PLACE) is None


def test_the_most_specific_consent_decides_then_the_newest():
    wide = consent("wide", 9, level=Level.VALUES)
    named = consent("named", 1, application="shop.example:8080", level=Level.STRUCTURE)
    newer = consent("newer", 2, application="shop.example:8080", level=Level.VALUES)
    assert consents(wide, named).allowance(PLACE).level is Level.STRUCTURE
    assert consents(wide, named, newer).allowance(PLACE).consent_id == "newer"


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        ("application", "shop"), ("application", "SHOP.*"), ("title", "orders"),
        ("title", "Orders - *"), ("url", "shop.example"), ("url", "http://*/o/*"),
    ],
)  # fmt: skip
def test_an_exclusion_beats_every_consent(kind, pattern):
    assert consents(consent(), exclusions=[exclusion(kind, pattern)]).allowance(PLACE) is None


@pytest.mark.parametrize(
    ("kind", "pattern"), [("title", "inbox"), ("title", "Orders"), ("url", "x")]
)
def test_an_exclusion_of_something_else_excludes_nothing_here(kind, pattern):
    place = Place(Source.WINDOW, "Editor", "letter.txt")
    assert consents(consent(), exclusions=[exclusion(kind, pattern)]).allowance(place) is not None


def test_only_personal_kinds_can_be_kept():
    assert ConsentAsked(keep=("phone", "email")).keep == ("email", "phone")
    with pytest.raises(ValidationError, match="cannot be kept"):
        ConsentAsked(keep=("card",))


def test_attaching_needs_a_consent_that_names_the_port():
    wide = consent(level=Level.VALUES)
    named = consent("n", source=Source.BROWSER, attach_url="http://127.0.0.1:9222")
    assert not consents(wide).may_attach("http://127.0.0.1:9222")
    assert consents(wide, named).may_attach("http://127.0.0.1:9222")
    assert not consents(named).may_attach("http://127.0.0.1:9333")
    with pytest.raises(ValidationError, match="attach_url"):
        ConsentAsked(attach_url="http://127.0.0.1:9222")
