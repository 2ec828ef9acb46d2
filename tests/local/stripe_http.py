"""The HTTP face of a StripeAccount, on one address of this machine.

`/v1/…` answers the stripe library: stripe.StripeClient(key, base_addresses={"api": server.url}).
`/_standin/…` lets a person with curl be the buyer, the bank or the weather:

    curl -d '{"email": "a@b.c", "price": "price_1", "quantity": 3}' $URL/_standin/checkout
    curl -X POST $URL/_standin/outage
    curl $URL/_standin
"""

from __future__ import annotations

import inspect
import json
import re
import threading
from collections.abc import Callable, Iterable
from typing import Any, Self

from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from .stripe_account import StripeAccount
from .stripe_api import StripeApi
from .stripe_faults import ApiError
from .stripe_objects import API_VERSION, Json

# What /_standin/<name> may call on the account.
ACTIONS = (
    "add_item",
    "async_payment",
    "bill",
    "cancel",
    "change_price",
    "change_quantity",
    "charge_of",
    "checkout",
    "close_dispute",
    "complete_checkout",
    "conclude_payment",
    "conclude_update",
    "create_checkout_session",
    "create_customer",
    "create_price",
    "create_product",
    "create_subscription",
    "create_webhook_endpoint",
    "credit_note",
    "delete_customer",
    "delete_price",
    "deliver",
    "dispute",
    "emit",
    "end_trial",
    "exhaust_dunning",
    "expire_incomplete",
    "expire_session",
    "fail_finalization",
    "fail_payment",
    "fail_refund",
    "finalize_invoice",
    "fraud_warning",
    "keep",
    "mark_uncollectible",
    "overdue",
    "pause",
    "pause_collection",
    "pay_invoice",
    "propose_quantity",
    "recover_payment",
    "refund",
    "remove_item",
    "renew",
    "require_action",
    "resend_undelivered",
    "resume",
    "set_metadata",
    "settle_refund",
    "start_trial",
    "trial_will_end",
    "upcoming_invoice",
    "update_customer",
    "update_price",
    "update_product",
    "void_invoice",
    "wait_delivered",
)
# What it may call on the account's faults.
FAULTS = ("fail_next", "grant", "hang_next", "outage", "restore", "withdraw")


def decode_form(pairs: Iterable[tuple[str, str]]) -> Json:
    """Stripe's form encoding: a[b]=1 is a hash, a[0]=1 and a[]=1 are arrays. Values stay text."""
    tree: Json = {}
    for key, value in pairs:
        name, *inner = re.findall(r"[^\[\]]+|(?<=\[)(?=\])", key) or [key]
        node, path = tree, [name, *inner]
        for step in path[:-1]:
            child = node.setdefault(step, {})
            if not isinstance(child, dict):
                raise ApiError(400, f"Invalid parameter: {key}", "parameter_invalid", key)
            node = child
        last = path[-1] or str(len(node))
        node[last] = value
    return {name: _with_arrays(value) for name, value in tree.items()}


def _with_arrays(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    if all(key.isdigit() for key in node):
        return [_with_arrays(node[key]) for key in sorted(node, key=int)]
    return {key: _with_arrays(value) for key, value in node.items()}


def answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    text = json.dumps(body, indent=2) + "\n"
    return Response(text, status, headers, content_type="application/json")


class StripeApp:
    """The WSGI application."""

    def __init__(self, account: StripeAccount) -> None:
        self.account = account
        self.api = StripeApi(account)
        self.actions: dict[str, Callable[..., Any]] = {
            **{name: getattr(account, name) for name in ACTIONS},
            **{name: getattr(account.faults, name) for name in FAULTS},
        }

    def __call__(self, environ: Json, start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        try:
            if request.path.rstrip("/") == "/_standin":
                response = self._overview()
            elif request.path.startswith("/_standin/"):
                response = self._act(request)
            else:
                response = self._api(request)
        except ApiError as error:
            response = answer(error.body, error.status)
        return response(environ, start_response)

    def _api(self, request: Request) -> Response:
        authorization = request.authorization
        key = ""
        if authorization and authorization.type == "bearer":
            key = authorization.token or ""
        elif authorization and authorization.type == "basic":
            key = authorization.username or ""
        version = request.headers.get("Stripe-Version", API_VERSION)
        if version != API_VERSION:
            raise ApiError(400, f"The stand-in serves {API_VERSION}, not {version}.")
        pairs = [*request.args.items(multi=True), *request.form.items(multi=True)]
        status, body, headers = self.api.call(
            request.method,
            request.path,
            decode_form(pairs),
            key,
            request.headers.get("Idempotency-Key", ""),
        )
        return answer(body, status, headers | {"Stripe-Version": API_VERSION})

    def _overview(self) -> Response:
        """What can be asked of the stand-in."""
        signatures = {name: str(inspect.signature(do)) for name, do in self.actions.items()}
        return answer({"GET": ["events", "requests"], "POST": signatures})

    def _act(self, request: Request) -> Response:
        name = request.path.removeprefix("/_standin/")
        if request.method == "GET" and name in ("events", "requests"):
            with self.account.lock:
                return answer(getattr(self.account, name))
        if request.method != "POST" or name not in self.actions:
            raise ApiError(404, f"The stand-in has no {name}; see GET /_standin.")
        action = self.actions[name]
        try:
            arguments = json.loads(request.get_data() or b"{}")
            inspect.signature(action).bind(**arguments)
            return answer(action(**arguments))
        except (ValueError, TypeError) as error:
            raise ApiError(400, f"{name}: {error}") from None


class QuietHandler(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - werkzeug's name
        """Requests are in `account.requests`; nothing goes to the terminal."""


class StripeServer:
    """Serves an account on `host` from a thread, until `close` or the end of the block.

    Closing also stops the account's deliveries.
    """

    def __init__(self, account: StripeAccount, port: int = 0, host: str = "127.0.0.1") -> None:
        self.account = account
        self._server = make_server(host, port, StripeApp(account), threaded=True, request_handler=QuietHandler)
        self.url = f"http://{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.account.close()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
