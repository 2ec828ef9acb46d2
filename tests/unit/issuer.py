"""A user pool as whoever checks its tokens sees it: an address on this machine with its public keys (JWKS), and tokens.

Its private keys are real; `handmade` tokens say and are signed with whatever a test likes.
"""

import base64
import functools
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from jwt.algorithms import RSAAlgorithm

CLIENT = "1example23456789client"
PATH = "/us-east-1_example/.well-known/jwks.json"

Claims = dict[str, Any]
Signature = Callable[[bytes], bytes]


@functools.cache
def private_key(kid: str) -> rsa.RSAPrivateKey:
    """The same key for a name all along: making one takes a tenth of a second."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def public_jwk(kid: str, /, **changed: Any) -> Claims:
    """How Cognito publishes a key."""
    jwk = RSAAlgorithm.to_jwk(private_key(kid).public_key(), as_dict=True)
    return {"kty": "RSA", "n": jwk["n"], "e": jwk["e"], "alg": "RS256", "use": "sig", "kid": kid, **changed}


def rs256(kid: str) -> Signature:
    return lambda signed: private_key(kid).sign(signed, padding.PKCS1v15(), hashes.SHA256())


def segment(content: Mapping[str, Any] | bytes) -> str:
    """One of a token's three parts."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def handmade(header: Claims | bytes, claims: Claims | bytes, signature: Signature) -> str:
    signed = f"{segment(header)}.{segment(claims)}"
    return f"{signed}.{segment(signature(signed.encode()))}"


class Issuer:
    """The pool. `kids`: the keys it publishes; `keys`: others beside them; `answer`: what it says instead, as status,
    headers and body; `requests`: how often it was asked."""

    def __init__(self, address: str) -> None:
        self.url = address + PATH.partition("/.well-known")[0]
        self.keys_url = address + PATH
        self.kids = ["kid-1", "kid-2"]
        self.keys: list[Any] = []
        self.answer: tuple[int, dict[str, str], bytes] | None = None
        self.requests = 0

    def claims(self, use: str = "access", **changed: Any) -> Claims:
        """What Cognito says in a token; a claim that is changed to None is left out."""
        now = int(time.time())
        claims = {"sub": "sub-1", "iss": self.url, "token_use": use, "iat": now, "exp": now + 900, "jti": "jti-1"}
        claims |= (
            {"client_id": CLIENT, "scope": "openid"} if use == "access" else {"aud": CLIENT, "email": "a@example.com"}
        )
        return {name: value for name, value in {**claims, **changed}.items() if value is not None}

    def token(self, use: str = "access", *, kid: str = "kid-1", signer: str | None = None, **changed: Any) -> str:
        """A token as Cognito gives it; `signer`: whose key signs it, if not the one that it names."""
        return handmade({"kid": kid, "alg": "RS256"}, self.claims(use, **changed), rs256(signer or kid))


@contextmanager
def running() -> Iterator[Issuer]:
    """An issuer that answers on 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.requests += 1
            keys = [*(public_jwk(kid) for kid in issuer.kids), *issuer.keys]
            body = json.dumps({"keys": keys}).encode()
            status, headers, body = issuer.answer or (200, {"content-type": "application/json"}, body)
            if self.path != PATH:
                status, body = 404, b""
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer = Issuer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
