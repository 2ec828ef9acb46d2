"""Verifies that a webhook comes from Stripe, with Stripe's own library (constant time, five minutes of tolerance)."""

import re
from collections.abc import Iterable

import stripe

from gateway.errors import NotAuthentic

# As Stripe makes them; "whsec_…" in the README, pasted as it is, must sign nothing.
_SECRET = re.compile(r"whsec_[A-Za-z0-9+/=_-]{16,}")
TOLERANCE = 300  # seconds; Stripe's default. Without one the library would accept replays for ever.


def verify(body: bytes, header: str, secrets: Iterable[str]) -> None:
    """Return when one of the secrets signed exactly these bytes recently; NotAuthentic otherwise.

    The library raises more than SignatureVerificationError for malformed input, and its errors carry the body:
    none of them is chained or logged.
    """
    for secret in secrets:
        try:
            stripe.WebhookSignature.verify_header(body, header, secret, TOLERANCE)
        except (stripe.SignatureVerificationError, TypeError, ValueError, AttributeError):
            continue
        return
    raise NotAuthentic("no signing secret matches, or the signature is older than five minutes") from None


def secrets_in(text: str) -> list[str]:
    """The signing secrets in the text of their secret: every word that is one. An endpoint's id beside its secret is
    not secret, so it must not be taken for one."""
    return [word for word in text.split() if _SECRET.fullmatch(word)]


def with_secret(text: str, endpoint: str, secret: str) -> str:
    """The text with the signing secret of one more endpoint; a placeholder goes."""
    return "\n".join([*_lines(text, endpoint), f"{endpoint} {secret}"])


def without_secret(text: str, endpoint: str) -> str:
    """The text without that of an endpoint; Secrets Manager takes no empty one."""
    return "\n".join(_lines(text, endpoint)) or "none"


def has_secret(text: str, endpoint: str) -> bool:
    """Whether the signing secret of an endpoint is there."""
    return any(line.split()[0] == endpoint for line in _lines(text))


def _lines(text: str, endpoint: str = "") -> list[str]:
    """The lines that hold a signing secret, but for those of this endpoint."""
    return [line for line in text.splitlines() if secrets_in(line) and line.split()[0] != endpoint]
