"""The Stripe account itself: what a key may do there, its prices, and its webhook endpoints."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gateway.billing import Billing, price_map
from gateway.errors import BillingIncomplete, StripeKeyRejected, StripeRejected
from gateway.secret import Secret
from gateway.settings import required

_Ask = Callable[[Any], Any]

_ONE = {"limit": 1}
# The rights that a restricted key needs, as Stripe's dashboard calls them, and what only a key with that right may ask.
_READS: dict[str, _Ask] = {
    "Charges and Refunds: Read": lambda api: api.charges.list(_ONE),
    "Checkout Sessions: Read": lambda api: api.checkout.sessions.list(_ONE),
    "Customers: Read": lambda api: api.customers.list(_ONE),
    "Disputes: Read": lambda api: api.disputes.list(_ONE),
    "Events: Read": lambda api: api.events.list(_ONE),
    "Invoices: Read": lambda api: api.invoices.list(_ONE),
    "Payment Intents: Read": lambda api: api.payment_intents.list(_ONE),
    "Prices: Read": lambda api: api.prices.list(_ONE),
    "Products: Read": lambda api: api.products.list(_ONE),
    "Radar: Read": lambda api: api.radar.early_fraud_warnings.list(_ONE),
    "Webhook Endpoints: Read": lambda api: api.webhook_endpoints.list(_ONE),
}
# Asked of what does not exist: nothing can be changed, and whoever lacks the right is told so.
_WRITES: dict[str, _Ask] = {
    "Subscriptions: Write": lambda api: api.subscriptions.cancel("sub_that_is_none"),
    "Webhook Endpoints: Write": lambda api: api.webhook_endpoints.update("we_that_is_none", {}),
}
# What the gateway never does: to read what it does not need, or to write, which is again asked of what does not exist.
# Stripe's own ids have no such words in them; where merchants may choose an id, the update is an empty one.
# Setup Intents, Payment Links, Credit Notes and Promotion Codes can be read by whoever reads Checkout Sessions and
# Invoices (https://docs.stripe.com/stripe-apps/reference/permissions), so of these only writing is too much.
_NEVER: dict[str, _Ask] = {
    "Application Fees": lambda api: api.application_fees.list(_ONE),
    "Balance": lambda api: api.balance.retrieve(),
    "Charges and Refunds: Write": lambda api: api.charges.update("ch_that_is_none", {}),
    "Checkout Sessions: Write": lambda api: api.checkout.sessions.expire("cs_that_is_none"),
    "Connected Accounts": lambda api: api.accounts.list(_ONE),
    "Coupons": lambda api: api.coupons.list(_ONE),
    "Credit Notes: Write": lambda api: api.credit_notes.update("cn_that_is_none", {}),
    "Customers: Write": lambda api: api.customers.update("cus_that_is_none", {}),
    "Disputes: Write": lambda api: api.disputes.update("dp_that_is_none", {}),
    "Files": lambda api: api.files.list(_ONE),
    "Invoices: Write": lambda api: api.invoices.update("in_that_is_none", {}),
    "Payment Intents: Write": lambda api: api.payment_intents.cancel("pi_that_is_none"),
    "Payment Links: Write": lambda api: api.payment_links.update("plink_that_is_none", {}),
    "Payment Methods": lambda api: api.payment_methods.list(_ONE),
    "Payouts": lambda api: api.payouts.list(_ONE),
    "Prices: Write": lambda api: api.prices.update("price_that_is_none", {}),
    "Products: Write": lambda api: api.products.update("prod_that_is_none", {}),
    "Promotion Codes: Write": lambda api: api.promotion_codes.update("promo_that_is_none", {}),
    "Quotes": lambda api: api.quotes.list(_ONE),
    "Setup Intents: Write": lambda api: api.setup_intents.cancel("seti_that_is_none"),
    "Top-ups": lambda api: api.topups.list(_ONE),
    "Transfers": lambda api: api.transfers.list(_ONE),
}
_MANY_PAGES = 50  # of prices
_NOTE = "stack"  # in an endpoint's metadata: the ARN of the stack that made it


class Account(Billing):
    """The account, through the stripe library."""

    def rights_missing(self, *, writes_endpoints: bool) -> list[str]:
        """The rights that the key lacks, as the dashboard calls them; all of them when Stripe takes no such key."""
        needed = {**_READS, **_WRITES}
        if not writes_endpoints:
            del needed["Webhook Endpoints: Write"]
        return [right for right, ask in needed.items() if not self._may(ask)]

    def rights_to_spare(self) -> list[str]:
        """What the key may do although the gateway never does it, as the dashboard calls it."""
        spare = []
        for right, ask in _NEVER.items():
            with contextlib.suppress(StripeRejected):  # an account without it, for example without Connect
                if self._may(ask):
                    spare.append(right)
        return spare

    def dapps_by_price(self) -> Iterator[dict[str, str | None]]:
        """The active prices, latest first, a page at a time: price id -> what it says of dapps per unit, None where
        it is of another product."""
        after: str | None = None
        wanted = {"active": True, "expand": ["data.product"]}
        for _ in range(_MANY_PAGES):
            rows, after = self._page(lambda api, paged: api.prices.list({**wanted, **paged}), after)
            yield {row["id"]: self._dapps(row, self._listed) for row in rows}
            if after is None:
                return

    def endpoints(self) -> list[dict[str, Any]]:
        """The account's webhook endpoints, as Stripe has them."""
        found = self._list(lambda api: api.webhook_endpoints.list({"limit": 100}))
        for each in found:
            self._require_mode(each, str(each["id"]))
        return found

    def add_endpoint(self, url: str, types: Iterable[str], version: str, stack: str, key: str) -> tuple[str, str]:
        """Make an endpoint for these event types, in this API version; its id and signing secret, which Stripe tells
        only now, and again to whoever repeats this with the same idempotency key."""
        wanted = {
            "url": url,
            "enabled_events": sorted(types),
            "api_version": version,
            "description": "Stripe-Cognito gateway",
            "metadata": {_NOTE: stack},
        }
        made = self._read(lambda api: api.webhook_endpoints.create(wanted, {"idempotency_key": key}))
        return str(made["id"]), str(made["secret"])

    def change_endpoint(self, endpoint: str, url: str, types: Iterable[str]) -> None:
        """Have an endpoint get these event types, at this URL, and enable it."""
        wanted = {"url": url, "enabled_events": sorted(types), "disabled": False}
        self._read(lambda api: api.webhook_endpoints.update(endpoint, wanted))

    def disable_endpoint(self, endpoint: str) -> bool:
        """Have Stripe send no more to an endpoint; False when this account has none of that id."""
        try:
            self._read(lambda api: api.webhook_endpoints.update(endpoint, {"disabled": True}))
        except BillingIncomplete:
            return False
        return True

    def remove_disabled(self, stack: str, *, but: str) -> None:
        """Delete the disabled endpoints that a stack of this name made here before: Stripe allows sixteen in all."""
        for each in self.endpoints():
            made_by = str((each.get("metadata") or {}).get(_NOTE, ""))
            if each["status"] == "disabled" and each["id"] != but and _named(made_by) == _named(stack):
                self._delete(each["id"])

    def _delete(self, endpoint: str) -> None:
        self._read(lambda api: api.webhook_endpoints.delete(endpoint))

    def _may(self, ask: _Ask) -> bool:
        try:
            self._read(ask)
        except StripeKeyRejected:
            return False
        except BillingIncomplete:  # it does not exist, but the question was allowed
            return True
        return True


def account_with(api_key: Secret) -> Account:
    """The account as the template's parameters say; SettingMissing as for billing_with."""
    return Account(
        api_key,
        base=required("STRIPE_API_BASE"),
        livemode=required("STRIPE_MODE") == "live",
        prices=price_map(required("DAPP_PRICES")),
    )


def _named(stack: str) -> str:
    """A stack's ARN without the part that is another one each time a stack of that name is made."""
    return stack.rpartition("/")[0]
