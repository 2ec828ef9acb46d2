"""gateway.tokens: nothing passes but a token that the pool gave, for one of our clients and of the right use."""

import hashlib
import hmac
import json
import math
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm

from gateway import tokens as module
from gateway.errors import KeysUnavailable, TokenRejected
from gateway.tokens import Token, Tokens, Use
from tests.unit.issuer import CLIENT, Issuer, handmade, private_key, public_jwk, rs256, running, segment

RS256 = {"kid": "kid-1", "alg": "RS256"}
REQUIRED = ("exp", "iat", "iss", "sub", "token_use")
MARK = "not to be seen"


@dataclass
class Clock:
    """The time that keys are kept by."""

    now: float = 1000

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running() as issuer:
        yield issuer


def of(issuer: Issuer, use: Use = "access", clients: tuple[str, ...] = (CLIENT,)) -> Tokens:
    return Tokens(issuer.url, issuer.keys_url, clients, use)


@pytest.fixture
def tokens(issuer: Issuer, clock: Clock) -> Tokens:
    return of(issuer)


def rejected(tokens: Tokens, token: Any) -> str:
    """Why a token is rejected; nothing of the token is in that."""
    with pytest.raises(TokenRejected) as caught:
        tokens.verified(token)
    message = str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    text = token if isinstance(token, str) else ""
    assert not any(text[start : start + 8] in message for start in range(min(len(text), 5000) - 7))
    assert MARK not in message
    return message


# ------------------------------------------------------------------ ours


@pytest.mark.parametrize("use", ["access", "id"])
def test_a_token_of_the_pool_says_whose_it_is_and_since_when(issuer: Issuer, use: Use) -> None:
    token = issuer.token(use, sub="sub-7", iat=1_700_000_000)
    assert of(issuer, use).verified(token) == Token("sub-7", 1_700_000_000)


@pytest.mark.parametrize("kid", ["kid-1", "kid-2"])
def test_a_token_may_be_signed_with_each_of_the_pools_keys(tokens: Tokens, issuer: Issuer, kid: str) -> None:
    assert tokens.verified(issuer.token(kid=kid)).sub == "sub-1"
    assert issuer.requests == 1


@pytest.mark.parametrize("use", ["access", "id"])
def test_each_accepted_client_is_let_in(issuer: Issuer, use: Use) -> None:
    ours = of(issuer, use, ("client-1", "client-2"))
    name = "client_id" if use == "access" else "aud"
    assert ours.verified(issuer.token(use, **{name: "client-1"})).sub == "sub-1"
    assert ours.verified(issuer.token(use, **{name: "client-2"})).sub == "sub-1"
    assert rejected(ours, issuer.token(use, **{name: "client-3"})) == "issued for another app client"


def test_a_clock_that_is_behind_cognitos_rejects_nothing(tokens: Tokens, issuer: Issuer) -> None:
    ahead = int(time.time()) + 60
    assert tokens.verified(issuer.token(iat=ahead)) == Token("sub-1", ahead)


# ------------------------------------------------------------------ what the token says


@pytest.mark.parametrize("use", ["access", "id"])
def test_without_an_accepted_client_nothing_passes(issuer: Issuer, use: Use) -> None:
    nobody = of(issuer, use, ())
    for client in (CLIENT, "", None):
        name = "client_id" if use == "access" else "aud"
        assert rejected(nobody, issuer.token(use, **{name: client})) == "issued for another app client"


@pytest.mark.parametrize("use", ["access", "id"])
@pytest.mark.parametrize("client", [None, "", "other", CLIENT + " ", CLIENT[:-1], [CLIENT], {"a": CLIENT}, 7, True])
def test_a_token_for_another_client_is_rejected(issuer: Issuer, use: Use, client: Any) -> None:
    rejected(of(issuer, use), issuer.token(use, **{"client_id" if use == "access" else "aud": client}))


def test_a_client_is_looked_for_in_its_own_claim_only(issuer: Issuer) -> None:
    rejected(of(issuer), issuer.token(client_id=None, aud=CLIENT))
    rejected(of(issuer, "id"), issuer.token("id", aud=None, client_id=CLIENT))


@pytest.mark.parametrize(("use", "wanted"), [("id", "access"), ("access", "id")])
def test_a_token_of_the_other_use_is_rejected(issuer: Issuer, use: str, wanted: Use) -> None:
    both = issuer.token(use, client_id=CLIENT, aud=CLIENT)
    assert rejected(of(issuer, wanted), both) == f"not an {wanted} token"


@pytest.mark.parametrize("use", ["refresh", "", "ACCESS", ["access"], 1])
def test_a_token_of_no_use_is_rejected(tokens: Tokens, issuer: Issuer, use: Any) -> None:
    assert rejected(tokens, issuer.token(token_use=use)) == "not an access token"


@pytest.mark.parametrize("seconds", [0, 1, 3600])
def test_an_expired_token_is_rejected_at_once(tokens: Tokens, issuer: Issuer, seconds: int) -> None:
    assert "Expired" in rejected(tokens, issuer.token(exp=int(time.time()) - seconds))


@pytest.mark.parametrize("exp", ["soon", [], math.inf, math.nan, -1, "9" * 5000])
def test_an_expiry_that_is_no_moment_to_come_is_rejected(tokens: Tokens, issuer: Issuer, exp: Any) -> None:
    rejected(tokens, issuer.token(exp=exp))


@pytest.mark.parametrize("iat", ["then", [], math.inf, math.nan, "9" * 5000])
def test_a_time_of_issue_that_is_none_is_rejected(tokens: Tokens, issuer: Issuer, iat: Any) -> None:
    rejected(tokens, issuer.token(iat=iat))


@pytest.mark.parametrize("sub", [7, ["sub-1"], {"sub": "sub-1"}, True])
def test_a_user_that_is_no_text_is_rejected(tokens: Tokens, issuer: Issuer, sub: Any) -> None:
    rejected(tokens, issuer.token(sub=sub))


def test_a_token_that_is_not_valid_yet_is_rejected(tokens: Tokens, issuer: Issuer) -> None:
    rejected(tokens, issuer.token(nbf=int(time.time()) + 3600))


@pytest.mark.parametrize("claim", REQUIRED)
def test_a_token_without_one_of_its_claims_is_rejected(tokens: Tokens, issuer: Issuer, claim: str) -> None:
    assert "MissingRequiredClaim" in rejected(tokens, issuer.token(**{claim: None}))
    assert "MissingRequiredClaim" in rejected(tokens, handmade(RS256, {**issuer.claims(), claim: None}, rs256("kid-1")))


@pytest.mark.parametrize("change", [lambda url: url + "/", lambda url: url[:-1], lambda url: [url], lambda url: MARK])
def test_a_token_of_another_pool_is_rejected(tokens: Tokens, issuer: Issuer, change: Callable[[str], Any]) -> None:
    assert "Issuer" in rejected(tokens, issuer.token(iss=change(issuer.url)))


@pytest.mark.parametrize("claims", [b"", b"{", b"[]", b"null", b'"text"', b"\xff", b"[" * 100_000])
def test_claims_that_are_no_object_are_rejected(tokens: Tokens, claims: bytes) -> None:
    rejected(tokens, handmade(RS256, claims, rs256("kid-1")))


# ------------------------------------------------------------------ who signed it


def test_a_token_that_somebody_else_signed_is_rejected(tokens: Tokens, issuer: Issuer) -> None:
    assert "Signature" in rejected(tokens, issuer.token(signer="forger"))
    assert "Signature" in rejected(tokens, issuer.token(kid="kid-1", signer="kid-2"))


def test_a_token_may_not_bring_its_own_key(tokens: Tokens, issuer: Issuer) -> None:
    with running() as forger:
        forger.kids = ["forger"]
        for brought in ({"jwk": public_jwk("forger")}, {"jku": forger.keys_url}, {"x5u": forger.keys_url}):
            for kid in ("kid-1", "forger"):
                header = {**RS256, "kid": kid, **brought}
                rejected(tokens, handmade(header, issuer.claims(), rs256("forger")))
    assert forger.requests == 0


def test_no_character_of_a_token_can_be_another(tokens: Tokens, issuer: Issuer) -> None:
    token = issuer.token()
    for place, old in enumerate(token):
        new = "A" if old != "A" else "B"
        with pytest.raises(TokenRejected):
            tokens.verified(token[:place] + new + token[place + 1 :])
    assert tokens.verified(token).sub == "sub-1"


@pytest.mark.parametrize("part", [0, 1, 2])
def test_no_part_of_a_token_fits_another(tokens: Tokens, issuer: Issuer, part: int) -> None:
    parts = issuer.token().split(".")
    parts[part] = issuer.token(kid="kid-2", sub="sub-2").split(".")[part]
    rejected(tokens, ".".join(parts))


@pytest.mark.parametrize("change", ["", "AAAA", "=", "==", "!", " ", "\n", ".", ".AAAA"])
def test_a_signature_is_all_of_itself_and_nothing_else(tokens: Tokens, issuer: Issuer, change: str) -> None:
    token = issuer.token()
    rejected(tokens, token.rpartition(".")[0] + "." + change)
    if change and change != "==":  # full padding is another spelling of the same signature
        rejected(tokens, token + change)


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "", None])
def test_an_unsigned_token_is_rejected(tokens: Tokens, issuer: Issuer, alg: str | None) -> None:
    header = {"kid": "kid-1", "alg": alg}
    rejected(tokens, handmade(header, issuer.claims(), lambda signed: b""))
    rejected(tokens, handmade(header, issuer.claims(), rs256("kid-1")))
    rejected(tokens, handmade(header, issuer.claims(), lambda signed: b"")[:-1])


def public_key_texts() -> list[bytes]:
    """All that everybody knows of the pool's key, and could sign with."""
    key = private_key("kid-1").public_key()
    formats = serialization.PublicFormat
    found = [
        key.public_bytes(encoding, form)
        for encoding in (serialization.Encoding.PEM, serialization.Encoding.DER)
        for form in (formats.SubjectPublicKeyInfo, formats.PKCS1)
    ]
    jwk = public_jwk("kid-1")
    found += [json.dumps(jwk).encode(), str(jwk["n"]).encode(), b""]
    return [*found, *(text.strip() for text in found)]


@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512", "RS256"])
def test_a_public_key_is_no_secret_to_sign_with(tokens: Tokens, issuer: Issuer, alg: str) -> None:
    digest = {"HS384": hashlib.sha384, "HS512": hashlib.sha512}.get(alg, hashlib.sha256)
    for text in public_key_texts():
        forged = handmade(
            {"kid": "kid-1", "alg": alg}, issuer.claims(), lambda signed, text=text: hmac.digest(text, signed, digest)
        )
        rejected(tokens, forged)


def test_only_rs256_is_accepted_even_of_the_pools_own_key(tokens: Tokens, issuer: Issuer) -> None:
    key = private_key("kid-1")
    digest_length = padding.PSS.DIGEST_LENGTH
    for alg, scheme, digest in (
        ("RS384", padding.PKCS1v15(), hashes.SHA384()),
        ("RS512", padding.PKCS1v15(), hashes.SHA512()),
        ("PS256", padding.PSS(padding.MGF1(hashes.SHA256()), digest_length), hashes.SHA256()),
    ):
        for said in (alg, "RS256"):
            header = {"kid": "kid-1", "alg": said}
            rejected(
                tokens,
                handmade(header, issuer.claims(), lambda signed, s=scheme, d=digest: key.sign(signed, s, d)),
            )


@pytest.mark.parametrize(("alg", "digest"), [("RS384", hashes.SHA384()), ("RS512", hashes.SHA512())])
def test_only_rs256_is_accepted_although_the_pool_publishes_a_key_for_another(
    tokens: Tokens, issuer: Issuer, alg: str, digest: hashes.HashAlgorithm
) -> None:
    issuer.keys = [public_jwk("kid-3", alg=alg)]
    signed = handmade(
        {"kid": "kid-3", "alg": alg},
        issuer.claims(),
        lambda text: private_key("kid-3").sign(text, padding.PKCS1v15(), digest),
    )
    rejected(tokens, signed)


def test_only_rsa_keys_are_believed_among_the_pools(tokens: Tokens, issuer: Issuer) -> None:
    secret, curve, ecdsa = b"x" * 32, ec.generate_private_key(ec.SECP256R1()), ec.ECDSA(hashes.SHA256())
    issuer.keys = [
        {"kty": "oct", "kid": "oct", "k": segment(secret)},
        {"kty": "oct", "kid": "oct-rs256", "k": segment(secret), "alg": "RS256"},
        {**ECAlgorithm.to_jwk(curve.public_key(), as_dict=True), "kid": "ec"},
    ]
    for alg in ("HS256", "ES256", "RS256"):
        for kid in ("oct", "oct-rs256", "ec"):
            header = {"kid": kid, "alg": alg}
            rejected(tokens, handmade(header, issuer.claims(), lambda text: hmac.digest(secret, text, hashlib.sha256)))
            rejected(tokens, handmade(header, issuer.claims(), lambda text: curve.sign(text, ecdsa)))
    assert tokens.verified(issuer.token()).sub == "sub-1"


def test_a_key_for_encryption_signs_nothing(tokens: Tokens, issuer: Issuer) -> None:
    issuer.keys = [public_jwk("kid-3", use="enc")]
    rejected(tokens, issuer.token(kid="kid-3"))


@pytest.mark.parametrize(
    "header",
    [
        {"b64": False, "crit": ["b64"]},
        {"b64": False},
        {"crit": ["exp"]},
        {"crit": []},
        {"crit": "b64"},
        {"crit": [["b64"]]},
    ],
)
def test_a_header_that_asks_for_other_rules_is_rejected(tokens: Tokens, issuer: Issuer, header: dict[str, Any]) -> None:
    rejected(tokens, handmade({**RS256, **header}, issuer.claims(), rs256("kid-1")))


# ------------------------------------------------------------------ what is no token at all


@pytest.mark.parametrize("kid", [None, 7, 1.5, True, ["kid-1"], {"kid": "kid-1"}, "", " kid-1", "KID-1", MARK])
def test_a_token_that_names_none_of_the_keys_is_rejected(tokens: Tokens, issuer: Issuer, kid: Any) -> None:
    rejected(tokens, handmade({"kid": kid, "alg": "RS256"}, issuer.claims(), rs256("kid-1")))


def test_a_token_that_names_no_key_is_rejected_and_asks_for_none(tokens: Tokens, issuer: Issuer) -> None:
    assert rejected(tokens, handmade({"alg": "RS256"}, issuer.claims(), rs256("kid-1"))) == "the token names no key"
    assert issuer.requests == 0


@pytest.mark.parametrize("nothing", [None, 7, 1.5, True, [], {}, object()])
def test_what_is_no_text_is_rejected(tokens: Tokens, issuer: Issuer, nothing: Any) -> None:
    rejected(tokens, nothing)
    assert issuer.requests == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ".",
        "..",
        "...",
        "a.b.c",
        "Bearer",
        "null",
        "\x00.\x00.\x00",
        "\ud800",
        "\ud800.\ud800.\ud800",
        "ключ.ключ.ключ",
        "A" * 1_000_000,
        "." * 100_000,
        f"{segment(RS256)}.{'A' * 1_000_000}.AAAA",
        f"{segment(b'{' + b' ' * 100_000 + b'}')}.e30.AAAA",
        segment(b"[" * 100_000) + ".e30.AAAA",
        segment(b'{"kid":' * 100_000) + ".e30.AAAA",
        segment(b'{"alg":"RS256","kid":' + b"9" * 5000 + b"}") + ".e30.AAAA",
        segment(b"[]") + ".e30.AAAA",
        segment(b"null") + ".e30.AAAA",
        segment(b"\xff\xfe") + ".e30.AAAA",
        segment(b"") + ".e30.AAAA",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_garbage_is_rejected_and_asks_for_no_key(tokens: Tokens, issuer: Issuer, text: str) -> None:
    rejected(tokens, text)
    assert issuer.requests <= text.startswith(segment(RS256))  # that one is garbage only after its header


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
NAMES = ("kid", "alg", "typ", "crit", "b64", "exp", "iat", "iss", "sub", "token_use", "client_id", "aud", "nbf", "jti")
OBJECTS = st.dictionaries(st.sampled_from(NAMES), JSON | st.sampled_from(["kid-1", "RS256", "none", "access", CLIENT]))


def test_no_text_is_ever_accepted_or_breaks_anything(tokens: Tokens) -> None:
    @given(st.text() | st.lists(st.text(alphabet="eyJhbGciOi=-_0"), min_size=3, max_size=3).map(".".join))
    def holds(text: str) -> None:
        rejected(tokens, text)

    holds()


def test_no_header_or_claims_without_the_pools_signature_are_accepted(tokens: Tokens) -> None:
    @given(OBJECTS, OBJECTS, st.binary(max_size=256))
    def holds(header: dict[str, Any], claims: dict[str, Any], signature: bytes) -> None:
        rejected(tokens, handmade(header, claims, lambda signed: signature))
        rejected(tokens, handmade({**header, **RS256}, claims, lambda signed: signature))

    holds()


def test_no_claims_break_anything_even_with_the_pools_signature(tokens: Tokens, issuer: Issuer) -> None:
    """Those that are accepted say what they must."""

    @given(OBJECTS)
    def holds(claims: dict[str, Any]) -> None:
        said = {**issuer.claims(), **claims}
        try:
            found = tokens.verified(handmade(RS256, said, rs256("kid-1")))
        except TokenRejected:
            return
        assert (said["client_id"], said["token_use"], said["iss"]) == (CLIENT, "access", issuer.url)
        assert found == Token(said["sub"], int(said["iat"]))
        assert type(found.sub) is str

    holds()


# ------------------------------------------------------------------ the pool's keys


def test_keys_are_fetched_when_the_first_token_comes(issuer: Issuer, tokens: Tokens) -> None:
    assert issuer.requests == 0
    for _ in range(3):
        tokens.verified(issuer.token())
        tokens.verified(issuer.token(kid="kid-2"))
    assert issuer.requests == 1


def test_a_new_key_is_fetched_and_a_withdrawn_one_is_worth_nothing_then(
    tokens: Tokens, issuer: Issuer, clock: Clock
) -> None:
    tokens.verified(issuer.token())
    issuer.kids = ["kid-2", "kid-3"]
    clock.now += 60
    assert tokens.verified(issuer.token()).sub == "sub-1"  # nothing was fetched yet
    assert tokens.verified(issuer.token(kid="kid-3")).sub == "sub-1"
    assert "does not have" in rejected(tokens, issuer.token())
    assert tokens.verified(issuer.token(kid="kid-2")).sub == "sub-1"
    assert issuer.requests == 2


def test_unknown_keys_are_asked_for_once_a_minute_at_most(tokens: Tokens, issuer: Issuer, clock: Clock) -> None:
    tokens.verified(issuer.token())
    start = clock.now
    for second in range(1, 301):
        clock.now = start + second
        rejected(tokens, issuer.token(kid=f"kid-{second}", signer="forger"))
        assert issuer.requests == 1 + second // 60


def test_unknown_keys_are_asked_for_once_a_minute_at_most_before_any_token_was_good(
    tokens: Tokens, issuer: Issuer, clock: Clock
) -> None:
    for _ in range(59):
        rejected(tokens, issuer.token(kid=MARK, signer="forger"))
        clock.now += 1
    assert issuer.requests == 1
    tokens.verified(issuer.token())
    assert issuer.requests == 1


def test_forged_tokens_do_not_keep_a_new_key_away_for_longer_than_a_minute(
    tokens: Tokens, issuer: Issuer, clock: Clock
) -> None:
    tokens.verified(issuer.token())
    clock.now += 60
    rejected(tokens, issuer.token(kid=MARK, signer="forger"))
    issuer.kids = ["kid-3"]
    rejected(tokens, issuer.token(kid="kid-3"))
    clock.now += 60
    assert tokens.verified(issuer.token(kid="kid-3")).sub == "sub-1"


def test_a_withdrawn_key_is_believed_for_a_day_at_most(tokens: Tokens, issuer: Issuer, clock: Clock) -> None:
    tokens.verified(issuer.token())
    issuer.kids = ["kid-2"]
    clock.now += 24 * 3600 - 1
    assert tokens.verified(issuer.token()).sub == "sub-1"
    clock.now += 1
    rejected(tokens, issuer.token())
    assert issuer.requests == 2


HTML = (200, {"content-type": "text/html"}, b"<html>Sign in to this network</html>")
FAILURES = {
    "500": (500, {}, b'{"message": "later"}'),
    "404": (404, {}, b""),
    "html": HTML,
    "nothing": (200, {}, b""),
    "a list": (200, {}, b"[]"),
    "no keys": (200, {}, b"{}"),
    "an empty key set": (200, {}, b'{"keys": []}'),
    "keys that are none": (200, {}, b'{"keys": [1, null, {"kty": "RSA"}, {"kty": "RSA", "n": "!", "e": "AQAB"}]}'),
    "an algorithm that is none": (200, {}, b'{"keys": [{"kty": "RSA", "alg": []}]}'),
    "a name that is none": (200, {}, json.dumps({"keys": [public_jwk("kid-1", kid=["kid-1"])]}).encode()),
    "no key for signatures": (200, {}, json.dumps({"keys": [public_jwk("kid-1", use="enc")]}).encode()),
    "keys without a name": (200, {}, json.dumps({"keys": [public_jwk("kid-1", kid="")]}).encode()),
    "endless": (200, {}, b'{"keys":' * 100_000),
    "no text": (200, {}, b"\xff\xfe\xff"),
}
failing = pytest.mark.parametrize("answer", FAILURES.values(), ids=FAILURES.keys())


def unavailable(tokens: Tokens, token: str) -> str:
    with pytest.raises(KeysUnavailable) as caught:
        tokens.verified(token)
    message = str(caught.value)
    assert not any(token[start : start + 8] in message for start in range(len(token) - 7))
    assert MARK not in message
    return message


@failing
def test_without_keys_nobody_can_tell_and_they_are_asked_for_every_five_seconds(
    tokens: Tokens, issuer: Issuer, clock: Clock, answer: Any
) -> None:
    issuer.answer = answer
    start = clock.now
    for second in range(12):
        clock.now = start + second
        unavailable(tokens, issuer.token(kid="kid-1" if second % 2 else MARK))
        assert issuer.requests == 1 + second // 5
    issuer.answer = None
    clock.now = start + 15
    assert tokens.verified(issuer.token()).sub == "sub-1"
    rejected(tokens, issuer.token(kid=MARK, signer="forger"))


@failing
def test_known_keys_go_on_while_no_new_ones_can_be_fetched(
    tokens: Tokens, issuer: Issuer, clock: Clock, answer: Any
) -> None:
    tokens.verified(issuer.token())
    issuer.answer, issuer.kids = answer, ["kid-1", "kid-3"]
    start = clock.now + 60
    for second in range(130):
        clock.now = start + second
        unavailable(tokens, issuer.token(kid="kid-3"))
        assert tokens.verified(issuer.token()).sub == "sub-1"
        rejected(tokens, issuer.token(signer="forger"))
        assert issuer.requests == 2 + second // 60
    issuer.answer = None
    clock.now = start + 180
    assert tokens.verified(issuer.token(kid="kid-3")).sub == "sub-1"
    rejected(tokens, issuer.token(kid=MARK, signer="forger"))


def test_keys_that_are_a_day_old_are_not_believed_while_no_new_ones_can_be_fetched(
    tokens: Tokens, issuer: Issuer, clock: Clock
) -> None:
    tokens.verified(issuer.token())
    issuer.answer = HTML
    clock.now += 24 * 3600
    unavailable(tokens, issuer.token())
    clock.now += 5
    issuer.answer = None
    assert tokens.verified(issuer.token()).sub == "sub-1"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_keys_are_fetched_from_nowhere_else(tokens: Tokens, issuer: Issuer, status: int) -> None:
    with running() as forger:
        issuer.answer = (status, {"location": forger.keys_url}, b"")
        unavailable(tokens, issuer.token(signer="forger"))
    assert forger.requests == 0


@pytest.mark.parametrize("url", ["file:///etc/passwd", "data:application/json,{}", "ftp://127.0.0.1/keys"])
def test_keys_are_fetched_by_http_only(url: str) -> None:
    with pytest.raises(Exception, match="scheme"):
        Tokens("issuer", url, [CLIENT], "access")


@pytest.fixture
def mute() -> Iterator[str]:
    """Where somebody listens and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/keys"


@pytest.fixture
def dead() -> Iterator[str]:
    """Where nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/keys"


def test_keys_that_nobody_has_are_unavailable(issuer: Issuer, dead: str) -> None:
    assert "URLError" in unavailable(Tokens(issuer.url, dead, [CLIENT], "access"), issuer.token())


def test_keys_that_do_not_come_are_not_waited_for(
    issuer: Issuer, mute: str, monkeypatch: pytest.MonkeyPatch, resources: dict[str, Any]
) -> None:
    assert resources["AuthorizeFunction"]["Timeout"] > 2 * module._TIMEOUT  # to connect, and to read
    monkeypatch.setattr(module, "_TIMEOUT", 0.1)
    start = time.monotonic()
    assert "Timeout" in unavailable(Tokens(issuer.url, mute, [CLIENT], "access"), issuer.token())
    assert time.monotonic() - start < 10  # the library waits 30 seconds
