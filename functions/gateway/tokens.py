"""Verifies the tokens that the user pool gives its users. Offline but for the pool's public keys."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jwt
from jwt import PyJWK, PyJWKClient
from jwt.exceptions import PyJWTError

from gateway.errors import KeysUnavailable, TokenRejected

# A forged token with a key id of its own must not buy a request each time. Cognito announces a new key long before it
# signs with it.
_UNKNOWN_KEY_SECONDS = 60
_RETRY_SECONDS = 5  # after a failure, when no key is known at all
_KEYS_SECONDS = 24 * 3600  # a key that the pool has withdrawn is believed no longer than this
_TIMEOUT = 2  # seconds

Use = Literal["access", "id"]


@dataclass(frozen=True, slots=True)
class Token:
    """What a verified token says: whose it is, and when it was issued (Unix seconds)."""

    sub: str
    issued_at: int


class Tokens:
    """The tokens of one user pool, for these app clients, of one use.

    `issuer` is the pool's address in the tokens, `keys_url` where its public keys are (JWKS).
    """

    def __init__(self, issuer: str, keys_url: str, clients: Collection[str], use: Use) -> None:
        self._issuer = issuer
        self._clients = clients
        self._use = use
        self._keys = _Keys(keys_url)

    def verified(self, token: str) -> Token:
        """TokenRejected when it is not one of ours, or not any more; KeysUnavailable when nobody can tell."""
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            if kid is None:
                raise TokenRejected("the token names no key")
            claims = jwt.decode(
                token,
                self._keys.key(kid),
                algorithms=["RS256"],
                issuer=self._issuer,
                options={
                    "require": ["exp", "iat", "iss", "sub", "token_use"],
                    "verify_aud": False,  # access tokens name the client elsewhere: see _of_use
                    "verify_iat": False,  # clocks differ
                },
            )
            return self._of_use(claims)
        except (PyJWTError, ValueError, TypeError, OverflowError) as error:
            raise TokenRejected(f"not a valid token of the user pool ({type(error).__name__})") from None

    def _of_use(self, claims: Mapping[str, Any]) -> Token:
        if claims["token_use"] != self._use:
            raise TokenRejected(f"not an {self._use} token")
        if claims.get("client_id" if self._use == "access" else "aud") not in self._clients:
            raise TokenRejected("issued for another app client")
        return Token(claims["sub"], int(claims["iat"]))


class _Keys:
    """The pool's public keys. All are fetched when one is asked for that is not known, seldom enough."""

    def __init__(self, url: str) -> None:
        self._client = PyJWKClient(url, cache_jwk_set=False, timeout=_TIMEOUT)
        self._known: dict[str | None, PyJWK] = {}
        self._fetched_at = self._tried_at = -float("inf")
        self._problem: str | None = None

    def key(self, kid: str) -> PyJWK:
        if time.monotonic() - self._fetched_at >= _KEYS_SECONDS:
            self._known = {}
        wait = _UNKNOWN_KEY_SECONDS if self._known else _RETRY_SECONDS
        if kid not in self._known and time.monotonic() - self._tried_at >= wait:
            self._fetch()
        if kid in self._known:
            return self._known[kid]
        if self._problem is not None:
            raise KeysUnavailable(f"the user pool's public keys cannot be fetched ({self._problem})")
        raise TokenRejected("signed with a key that the user pool does not have")

    def _fetch(self) -> None:
        try:
            self._known = {key.key_id: key for key in self._client.get_signing_keys()}
            self._fetched_at, self._problem = time.monotonic(), None
        except Exception as error:  # whatever the answer is, it is not the token's fault
            self._problem = type(error.__cause__ or error).__name__
        self._tried_at = time.monotonic()
