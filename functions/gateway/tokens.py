"""Verifies the tokens that the user pool gives its users. Offline but for the pool's public keys."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jwt
from jwt import PyJWKClient
from jwt.exceptions import PyJWKClientConnectionError, PyJWTError

from gateway.errors import KeysUnavailable, TokenRejected

# A forged token with a key id of its own must not buy a request each time. Cognito announces a new key long before it
# signs with it.
_UNKNOWN_KEY_SECONDS = 60
_RETRY_SECONDS = 5  # after a failure, when no key is known at all
_KEYS_SECONDS = 24 * 3600  # a key that the pool has withdrawn is believed no longer than this
_TIMEOUT = 3  # seconds

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
            if not isinstance(kid, str):
                raise TokenRejected("the token names no key")
            claims = jwt.decode(
                token,
                self._keys.get_signing_key(kid),
                algorithms=["RS256"],
                issuer=self._issuer,
                options={
                    "require": ["exp", "iat", "iss", "sub", "token_use"],
                    "verify_aud": False,  # access tokens name the client elsewhere: see _client
                    "verify_iat": False,  # clocks differ
                },
            )
            return self._of_use(claims)
        except PyJWKClientConnectionError as error:
            raise KeysUnavailable(f"the user pool's public keys cannot be fetched ({error})") from None
        except (PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise TokenRejected(f"not a valid token of the user pool ({type(error).__name__})") from None

    def _of_use(self, claims: Mapping[str, Any]) -> Token:
        if claims["token_use"] != self._use:
            raise TokenRejected(f"not an {self._use} token")
        if claims.get("client_id" if self._use == "access" else "aud") not in self._clients:
            raise TokenRejected("issued for another app client")
        return Token(claims["sub"], int(claims["iat"]))


class _Keys(PyJWKClient):
    """The library's, which fetches all keys once, and again for an unknown key id at most once a minute; here a fetch
    that failed is not repeated at once either."""

    def __init__(self, url: str) -> None:
        super().__init__(url, lifespan=_KEYS_SECONDS, timeout=_TIMEOUT, cooldown_duration=_UNKNOWN_KEY_SECONDS)
        self._failed_at: float | None = None

    def fetch_data(self) -> Any:
        known = self.jwk_set_cache is not None and self.jwk_set_cache.get() is not None
        wait = _UNKNOWN_KEY_SECONDS if known else _RETRY_SECONDS
        if self._failed_at is not None and time.monotonic() - self._failed_at < wait:
            raise PyJWKClientConnectionError("could not be fetched a moment ago")
        try:
            return super().fetch_data()
        except (PyJWTError, ValueError, OSError) as error:
            self._failed_at = time.monotonic()
            raise PyJWKClientConnectionError(type(error).__name__) from None
