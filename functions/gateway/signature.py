"""Verifies that a webhook comes from Stripe, with Stripe's own library (constant time, five minutes of tolerance)."""

from collections.abc import Iterable

import stripe

from gateway.errors import NotAuthentic

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
