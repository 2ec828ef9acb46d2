"""The Stripe stand-in behind one server, and Secrets Manager with Stripe's key, for tests of what reads Stripe."""

import threading
from typing import Any

from werkzeug.serving import make_server

from tests.local.stripe_account import StripeAccount
from tests.local.stripe_http import QuietHandler, StripeApp

Json = dict[str, Any]

KEY = "rk_test_first"


class Vault:
    """Secrets Manager with Stripe's key, and a clock beside it."""

    def __init__(self) -> None:
        self.text = KEY
        self.now = 1_000.0
        self.calls = 0

    def get_secret_value(self, SecretId: str) -> Json:  # noqa: N803
        self.calls += 1
        return {"ARN": SecretId, "SecretString": self.text}


class Door:
    """One server on the loopback for all tests here; each puts its own application behind it."""

    def __init__(self) -> None:
        self.app: Any = None
        self.stripe = StripeApp(StripeAccount())
        self._server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=QuietHandler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def serve(self, account: StripeAccount) -> None:
        """The account is behind it from now on. Building the routes takes longer than a test: they are kept."""
        self.stripe.account = self.stripe.api.account = account
        self.app = self.stripe

    def __call__(self, environ: Json, start_response: Any) -> Any:
        return self.app(environ, start_response)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
