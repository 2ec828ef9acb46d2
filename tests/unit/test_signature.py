"""gateway.signature: only Stripe's recent signature of exactly these bytes counts, whatever else arrives."""

import json
from types import SimpleNamespace

import pytest
import stripe
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import NotAuthentic
from gateway.signature import TOLERANCE, secrets_in, verify

NOW = 1_790_000_000
SECRET = "whsec_000000000current"
OTHER = "whsec_other"
BODY = json.dumps({"id": "evt_1", "name": "Zoë 🦄", "e-mail": "payer@example.com"}, ensure_ascii=False).encode()


def signed(body: bytes = BODY, secret: str = SECRET, at: int = NOW) -> str:
    """The header that Stripe sends."""
    return stripe.WebhookSignature.generate_signature_header(body.decode(), secret, at)


def v1(header: str) -> str:
    return header.partition(",")[2]


@pytest.fixture(autouse=True, scope="module")
def _clock() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stripe._webhook.time", SimpleNamespace(time=lambda: float(NOW)))
        yield


def refused(body: bytes, header: str, secrets: list[str] | None = None) -> bool:
    try:
        verify(body, header, [SECRET] if secrets is None else secrets)
    except NotAuthentic as error:
        assert error.__cause__ is None
        assert error.__context__ is None  # the library's error carries the body
        assert "payer@example.com" not in str(error)
        return True
    return False


def test_stripes_own_signature_is_taken() -> None:
    assert not refused(BODY, signed())


@pytest.mark.parametrize("secrets", [[SECRET, OTHER], [OTHER, SECRET], ["", SECRET], [SECRET, SECRET]])
def test_any_of_the_secrets_may_have_signed(secrets: list[str]) -> None:
    assert not refused(BODY, signed(), secrets)


@pytest.mark.parametrize("secrets", [[], [OTHER], [""], [" "], [SECRET.upper()], [SECRET[:-1]]])
def test_without_the_right_secret_nothing_is_taken(secrets: list[str]) -> None:
    assert refused(BODY, signed(), secrets)


@pytest.mark.parametrize(
    "header",
    [
        f"{signed(secret=OTHER)},{v1(signed())}",
        f"{signed()},{v1(signed(secret=OTHER))}",
        f"{signed()},v0=0123abcd",
        f"v1=,{signed()}",
        f"{v1(signed())},t={NOW}",
    ],
    ids=["wrong then right", "right then wrong", "test scheme too", "empty then right", "other order"],
)
def test_one_right_signature_in_the_header_is_enough(header: str) -> None:
    assert not refused(BODY, header)


def test_two_endpoints_secrets_and_two_signatures_meet() -> None:
    header = f"{signed(secret='whsec_expired')},{v1(signed(secret=OTHER))}"
    assert not refused(BODY, header, [SECRET, OTHER])


@pytest.mark.parametrize(
    ("age", "taken"),
    [(0, True), (TOLERANCE - 1, True), (TOLERANCE, True), (TOLERANCE + 1, False), (86_400, False), (NOW, False)],
)
def test_a_signature_is_good_for_five_minutes(age: int, taken: bool) -> None:
    assert refused(BODY, signed(at=NOW - age)) is not taken


@pytest.mark.parametrize("ahead", [1, TOLERANCE, TOLERANCE + 1, 86_400])
def test_a_clock_of_stripe_that_is_ahead_does_no_harm(ahead: int) -> None:
    """The moment is signed as well, so only Stripe can choose it."""
    assert not refused(BODY, signed(at=NOW + ahead))


def test_the_moment_cannot_be_changed_afterwards() -> None:
    assert refused(BODY, f"t={NOW},{v1(signed(at=NOW - 86_400))}")


@pytest.mark.parametrize(
    "body", [b"", BODY + b"\n", BODY[:-1], b" " + BODY, BODY.replace(b"payer", b"thief"), BODY.replace(b": ", b":")]
)
def test_other_bytes_than_the_signed_ones_are_refused(body: bytes) -> None:
    assert refused(body, signed())


@pytest.mark.parametrize("body", [b"\xff\xfe\x00", BODY + b"\x80", bytes(range(256))])
def test_a_body_that_is_not_utf8_is_refused(body: bytes) -> None:
    assert refused(body, signed())


def test_an_empty_body_may_be_signed() -> None:
    assert not refused(b"", signed(b""))


@pytest.mark.parametrize(
    "header",
    [
        *("", " ", ",", "=", "t", "t=", "v1=", "t=,v1=", "t=now,v1=x", f"t={NOW}", f"t={NOW},v1", f"t={NOW},v1="),
        *(f"t={NOW};{v1(signed())}", f"t=1.5,{v1(signed())}", f"t={'9' * 5_000},{v1(signed())}", v1(signed())),
        *(f"t={NOW},v1=é", f"t={NOW},v1=🦄", f"t={NOW},v1=\ud800", signed().upper(), signed() + "0"),
        *(signed().replace("v1=", "v0="), signed().replace("v1=", "v2="), "x" * 100_000),
    ],
)
def test_a_malformed_header_is_refused(header: str) -> None:
    assert refused(BODY, header)


@given(
    st.binary(max_size=50),
    st.text(max_size=80) | st.lists(st.sampled_from(["t=", "v1=", ",", "=", str(NOW), "é", "-1", " "])).map("".join),
    st.lists(st.text(max_size=20).filter(lambda text: text.isprintable()), max_size=3),
)
def test_nothing_but_a_signature_is_taken(body: bytes, header: str, secrets: list[str]) -> None:
    assert refused(body, header, secrets)


@pytest.mark.parametrize(
    "word", ["whsec_", "whsec_…", "whsec_new", "whsec_old", "we_1", "n0tAsecret", "xwhsec_" + "1" * 32]
)
def test_what_stands_beside_secrets_is_none(word: str) -> None:
    """An id, a placeholder, and what the README writes for a secret: everybody knows them."""
    secret = f"whsec_{1:032}"
    assert secrets_in(f"{word} {secret}\n{word}") == [secret]
