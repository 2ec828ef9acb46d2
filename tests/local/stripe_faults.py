"""Errors in Stripe's shape, the outages a test can order, and what restricted keys may do."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


class ApiError(Exception):
    """An error answer: `{"error": {"type", "code", "message", "param"}}` with an HTTP status."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        type_: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.status = status
        error = {"message": message, "type": type_, "code": code, "param": param}
        self.body: Json = {"error": {name: value for name, value in error.items() if value}}


PERMISSIONS = {
    "charges": "charge",
    "checkout/sessions": "checkout_session",
    "credit_notes": "credit_note",
    "customers": "customer",
    "disputes": "dispute",
    "events": "event",
    "invoice_payments": "invoice",
    "invoices": "invoice",
    "payment_intents": "payment_intent",
    "prices": "plan",
    "products": "product",
    "radar/early_fraud_warnings": "early_fraud_warning",  # a name of ours: Stripe's reference has none
    "refunds": "charge",
    "subscription_items": "subscription",
    "subscription_schedules": "subscription",
    "subscriptions": "subscription",
    "webhook_endpoints": "webhook",
    # What the gateway does not need.
    "account": "connected_account",
    "accounts": "connected_account",
    "application_fees": "application_fee",
    "balance": "balance",
    "balance_transactions": "balance_transaction_source",
    "coupons": "coupon",
    "files": "file",
    "payment_links": "payment_links",
    "payment_methods": "payment_method",
    "payouts": "payout",
    "promotion_codes": "promotion_code",
    "quotes": "quote",
    "setup_intents": "setup_intent",
    "tax_rates": "tax_rate",
    "topups": "top_up",
    "transfers": "transfer",
}
"""What Stripe calls the right to each path below /v1/, with `_read` or `_write` behind it. Refunds are part of charges,
prices are still called plans."""

IMPLIED = frozenset({"credit_note_read", "payment_links_read", "promotion_code_read", "setup_intent_read"})
"""What Stripe gives with the rights to read Checkout Sessions and Invoices, whether anybody wants it or not
(https://docs.stripe.com/stripe-apps/reference/permissions)."""

RIGHTS = IMPLIED | {
    *("charge_read", "checkout_session_read", "customer_read", "dispute_read", "early_fraud_warning_read"),
    *("event_read", "invoice_read", "payment_intent_read", "plan_read", "product_read"),
    *("subscription_write", "webhook_write"),
}
"""What a restricted key may do unless a test says otherwise: what the gateway needs, and what that implies. Writing
includes reading."""


def missing(resource: str, id_: str, param: str = "id") -> ApiError:
    """Stripe answers 404 for an unknown id in the path, 400 for one in a parameter."""
    noun = resource.rpartition(".")[2].replace("_", "")
    status = 404 if param == "id" else 400
    return ApiError(status, f"No such {noun}: '{id_}'", "resource_missing", param)


def injected(status: int) -> ApiError:
    """The error a fault answers: what Stripe says with that status."""
    if status == 429:
        return ApiError(429, "Too many requests hit the API too quickly.", "rate_limit")
    if status == 403:
        return ApiError(403, "The provided key does not have the required permissions.")
    if status >= 500:
        return ApiError(status, "An unknown error occurred.", type_="api_error")
    return ApiError(status, "The request was refused by an ordered fault.")


@dataclass
class Rule:
    remaining: int
    path_contains: str
    status: int | None = None
    seconds: float = 0.0


class Faults:
    """What is broken right now. Every method may be called while requests are being served."""

    def __init__(self, keys: set[str] | None, account_id: str) -> None:
        self._lock = threading.Lock()
        self._keys = keys
        self._out = False
        self._rules: list[Rule] = []
        self._rights = set(RIGHTS)
        self._wake = threading.Event()
        self._account_id = account_id

    def outage(self) -> None:
        """Every API call answers 500 until `restore`."""
        with self._lock:
            self._out = True

    def restore(self) -> None:
        """End the outage, wake every hanging call, forget every fault still ordered, and give restricted keys the
        rights that they had."""
        with self._lock:
            self._wake.set()
            self._wake = threading.Event()
            self._out = False
            self._rules.clear()
            self._rights = set(RIGHTS)

    def grant(self, right: str) -> None:
        """Restricted keys may do this as well from now on, such as payout_read."""
        with self._lock:
            self._rights.add(_known(right))

    def withdraw(self, right: str) -> None:
        """Restricted keys may no longer do this."""
        with self._lock:
            self._rights.discard(_known(right))

    def fail_next(self, n: int, status: int, path_contains: str = "") -> None:
        """The next `n` calls whose path contains the text answer `status` and do nothing."""
        with self._lock:
            self._rules.append(Rule(n, path_contains, status=status))

    def hang_next(self, n: int, seconds: float, path_contains: str = "") -> None:
        """The next `n` calls wait `seconds`, or until `restore`, and are served then, whether the client waits or not.

        A POST that its client gave up on has therefore happened.
        """
        with self._lock:
            self._rules.append(Rule(n, path_contains, seconds=seconds))

    def accept_keys(self, keys: set[str] | None) -> None:
        """The API keys that are valid from now on; None accepts any."""
        with self._lock:
            self._keys = keys

    def close(self) -> None:
        """Wake every hanging call, from now on too."""
        self._wake.set()

    def meet(self, key: str, path: str, method: str = "GET") -> None:
        """Called at the start of every API call: wait, or raise ApiError, as ordered."""
        with self._lock:
            known = self._keys is None or key in self._keys
            rule = next((r for r in self._rules if r.path_contains in path), None)
            if rule and not self._out:
                rule.remaining -= 1
                if rule.remaining <= 0:
                    self._rules.remove(rule)
            status = 500 if self._out else rule.status if rule else None
            seconds = rule.seconds if rule and not self._out else 0.0
            wake = self._wake
        if seconds:
            wake.wait(seconds)
        if status:
            raise injected(status)
        if not key:
            raise ApiError(401, "You did not provide an API key.")
        if not known:
            raise ApiError(401, f"Invalid API Key provided: {key[:8]}****")
        if key.startswith("rk_"):
            self._refuse_unpermitted(key, path, method)

    def _refuse_unpermitted(self, key: str, path: str, method: str) -> None:
        """As Stripe does, before it looks at anything else of the request."""
        below = path.removeprefix("/v1/")
        resource = next((name for at, name in PERMISSIONS.items() if f"{below}/".startswith(f"{at}/")), None)
        if resource is None:
            return
        needed = f"{resource}_{'read' if method == 'GET' else 'write'}"
        with self._lock:
            allowed = not self._rights.isdisjoint({needed, f"{resource}_write"})
        if not allowed:
            raise ApiError(
                403,
                f"The provided key '{key[:8]}*****' does not have the required permissions for this endpoint on "
                f"account '{self._account_id}'. Having the 'rak_{needed}' permission would allow this request to "
                "continue.",
            )


def _known(right: str) -> str:
    if right.rpartition("_")[0] not in PERMISSIONS.values() or not right.endswith(("_read", "_write")):
        raise ValueError(f"the stand-in knows no right {right}")
    return right
