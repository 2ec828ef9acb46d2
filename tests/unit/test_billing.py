"""gateway.billing: what Stripe's own library reads from the stand-in, and from shapes that it does not serve."""

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import stripe
from werkzeug.wrappers import Request, Response

from gateway import billing, events
from gateway.access import Item, Mark, Purchase, Subscription
from gateway.billing import Billing, Charged, Customer, price_map
from gateway.errors import (
    BillingIncomplete,
    GatewayError,
    SecretUnavailable,
    StripeKeyRejected,
    StripeRejected,
    StripeThrottled,
    StripeUnavailable,
)
from gateway.events import OrderItem
from gateway.secret import Secret
from gateway.settings import SettingMissing
from tests.local.stripe_account import StripeAccount
from tests.unit.door import KEY, Door, Vault

Json = dict[str, Any]
Reader = Callable[..., Billing]

NOW = 1_767_225_600  # 2026-01-01T00:00:00Z
MONTH_LATER = 1_769_904_000  # 2026-02-01
DAY = 86_400
NEW_KEY = "sk_test_second"
EMAIL = "payer@example.com"
MONTHLY = {"interval": "month"}
MISSING = {"code": "resource_missing", "type": "invalid_request_error"}


class Clock:
    """The account's time as a value."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Script:
    """Answers with prepared JSON by path below /v1/; `asked` are the paths."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[str] = []
        self._answers: dict[str, Response] = {}

    def answer(self, path: str, body: Json, status: int = 200) -> None:
        self._answers[path] = Response(json.dumps(body), status, content_type="application/json")

    def __call__(self, environ: Json, start_response: Any) -> Any:
        path = Request(environ).path.removeprefix("/v1/")
        self.asked.append(path)
        return self._answers[path](environ, start_response)


@pytest.fixture
def vault() -> Vault:
    return Vault()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def account(clock: Clock) -> Iterator[StripeAccount]:
    account = StripeAccount(clock=clock, keys={KEY})
    yield account
    account.close()


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    door = Door()
    yield door
    door.close()


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library waits this long before it tries again."""
    monkeypatch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 0.0)


@pytest.fixture
def reader(account: StripeAccount, vault: Vault, door: Door) -> Reader:
    """Makes a Billing that reads the account."""
    door.serve(account)
    return lambda **options: reading(vault, door.url, **options)


@pytest.fixture
def script(door: Door) -> Script:
    door.app = Script(door.url)
    return door.app


@pytest.fixture
def price(account: StripeAccount) -> str:
    """A monthly price that says itself that it gives two dapps."""
    return priced(account, metadata={"dapps": "2"})


@pytest.fixture
def customer(account: StripeAccount) -> str:
    return str(account.create_customer(EMAIL, "Ann")["id"])


def reading(vault: Vault, url: str, *, livemode: bool = False, prices: dict[str, int] | None = None) -> Billing:
    return Billing(
        Secret(vault, "arn:key", lambda: vault.now),
        base=url,
        livemode=livemode,
        prices=price_map(json.dumps(prices or {})),
    )


def priced(account: StripeAccount, product: str | None = None, **price: Any) -> str:
    product = product or account.create_product("Seats")["id"]
    return str(account.create_price(product, 900, **{"recurring": MONTHLY, **price})["id"])


def subscribed(account: StripeAccount, customer: str, price: str, quantity: int = 3, **options: Any) -> str:
    return str(account.create_subscription(customer, price, quantity, **options)["id"])


def only_subscription(found: Customer) -> Subscription:
    (subscription,) = found.subscriptions
    return subscription


def paths(account: StripeAccount) -> list[str]:
    return [request["path"].removeprefix("/v1/") for request in account.requests]


def session(id_: str) -> events.Purchase:
    return events.Purchase(id_, "session", 0, ())


# ------------------------------------------------------------------ customers and their subscriptions


class TestCustomer:
    def test_with_a_subscription_takes_one_request(
        self, account: StripeAccount, reader: Reader, customer: str, price: str
    ) -> None:
        subscription = subscribed(account, customer, price)
        expected = Subscription(
            subscription,
            "active",
            (Item(price, 3, "2"),),
            period_start=NOW,
            period_end=MONTH_LATER,
            settled=True,
            created=NOW,
        )
        assert reader().customer(customer) == Customer(customer, EMAIL, False, (expected,))
        assert paths(account) == ["subscriptions"]

    def test_without_a_subscription_takes_two(self, account: StripeAccount, reader: Reader, customer: str) -> None:
        assert reader().customer(customer) == Customer(customer, EMAIL, False, ())
        assert paths(account) == ["subscriptions", f"customers/{customer}"]

    def test_may_have_no_address(self, account: StripeAccount, reader: Reader) -> None:
        assert reader().customer(account.create_customer(None)["id"]).email is None

    def test_comes_with_ended_subscriptions_too(
        self, account: StripeAccount, reader: Reader, customer: str, price: str
    ) -> None:
        ended = subscribed(account, customer, price)
        account.cancel(ended)
        abandoned = subscribed(account, customer, price, first_payment="failed")
        account.expire_incomplete(abandoned)
        live = subscribed(account, customer, price)
        found = reader().customer(customer)
        expected = {ended: "canceled", abandoned: "incomplete_expired", live: "active"}
        assert {each.id: each.status for each in found.subscriptions} == expected

    def test_comes_without_other_customers_subscriptions(
        self, account: StripeAccount, reader: Reader, customer: str, price: str
    ) -> None:
        subscribed(account, account.create_customer(EMAIL)["id"], price)
        assert reader().customer(customer).subscriptions == ()

    def test_comes_with_more_subscriptions_than_a_page_has(
        self, account: StripeAccount, reader: Reader, customer: str, price: str
    ) -> None:
        made = [subscribed(account, customer, price) for _ in range(101)]
        found = reader().customer(customer)
        assert sorted(each.id for each in found.subscriptions) == sorted(made)
        assert paths(account) == ["subscriptions"] * 2

    @pytest.mark.parametrize(("items", "pages"), [(10, 0), (11, 1), (20, 1), (101, 2)])
    def test_comes_with_every_item_of_a_subscription(
        self,
        account: StripeAccount,
        reader: Reader,
        customer: str,
        price: str,
        monkeypatch: pytest.MonkeyPatch,
        items: int,
        pages: int,
    ) -> None:
        monkeypatch.setattr("tests.local.stripe_billing.MAX_ITEMS", 200)
        lines = [{"price": price, "quantity": number} for number in range(items)]
        account.create_subscription(customer, items=lines)
        found = only_subscription(reader().customer(customer))
        assert sorted(item.quantity or 0 for item in found.items) == list(range(items))
        assert paths(account) == ["subscriptions"] + ["subscription_items"] * pages

    @pytest.mark.parametrize("had_a_subscription", [True, False])
    def test_that_was_deleted_says_so(
        self, account: StripeAccount, reader: Reader, customer: str, price: str, had_a_subscription: bool
    ) -> None:
        if had_a_subscription:
            subscribed(account, customer, price)
        account.delete_customer(customer)
        found = reader().customer(customer)
        assert (found.deleted, found.email) == (True, None)
        assert [each.status for each in found.subscriptions] == ["canceled"] * had_a_subscription

    @pytest.mark.parametrize(
        ("status", "answer", "deleted"),
        [
            (200, {"id": "cus_1", "object": "customer", "deleted": True}, True),
            (200, {"id": "cus_1", "object": "customer", "email": EMAIL, "livemode": False}, False),
            (404, {"error": {"code": "resource_missing", "type": "invalid_request_error"}}, False),
        ],
    )
    def test_whose_subscriptions_stripe_does_not_show_says_itself_whether_it_was_deleted(
        self, script: Script, vault: Vault, status: int, answer: Json, deleted: bool
    ) -> None:
        script.answer("subscriptions", {"error": {"code": "resource_missing", "type": "invalid_request_error"}}, 400)
        script.answer("customers/cus_1", answer, status)
        seen = reading(vault, script.url)
        if deleted:
            assert seen.customer("cus_1") == Customer("cus_1", None, True, ())
        else:
            with pytest.raises(BillingIncomplete, match="another account"):
                seen.customer("cus_1")

    def test_that_stripe_does_not_know_is_incomplete(self, reader: Reader) -> None:
        with pytest.raises(BillingIncomplete, match="another account"):
            reader().customer("cus_unknown")

    @pytest.mark.parametrize("has_a_subscription", [True, False])
    def test_of_the_other_mode_is_incomplete(
        self, account: StripeAccount, reader: Reader, customer: str, price: str, has_a_subscription: bool
    ) -> None:
        if has_a_subscription:
            subscribed(account, customer, price)
        with pytest.raises(BillingIncomplete, match="other mode"):
            reader(livemode=True).customer(customer)

    def test_of_live_mode_is_read_in_live_mode(self, account: StripeAccount, reader: Reader, price: str) -> None:
        account.livemode = True
        customer = account.create_customer(EMAIL)["id"]
        subscribed(account, customer, price)
        assert reader(livemode=True).customer(customer).email == EMAIL


class TestSubscription:
    @pytest.mark.parametrize(
        ("do", "status", "ends_at"),
        [
            (lambda account, id_: None, "active", None),
            (lambda account, id_: account.cancel(id_, cancel_at=NOW + DAY), "active", NOW + DAY),
            (lambda account, id_: account.cancel(id_, at_period_end=True), "active", MONTH_LATER),
            (lambda account, id_: (account.cancel(id_, at_period_end=True), account.keep(id_)), "active", None),
            (lambda account, id_: account.start_trial(id_, 14), "trialing", None),
            (lambda account, id_: account.pause(id_), "paused", None),
            (lambda account, id_: account.cancel(id_), "canceled", None),
            (lambda account, id_: (account.fail_payment(id_), account.exhaust_dunning(id_)), "unpaid", None),
        ],
    )
    def test_has_stripes_status_and_ends_when_it_is_to_be_canceled(
        self,
        account: StripeAccount,
        reader: Reader,
        customer: str,
        price: str,
        do: Callable[[StripeAccount, str], object],
        status: str,
        ends_at: int | None,
    ) -> None:
        do(account, subscribed(account, customer, price))
        found = only_subscription(reader().customer(customer))
        assert (found.status, found.ends_at, found.first_unpaid) == (status, ends_at, None)
        assert paths(account) == ["subscriptions"]  # invoices concern past_due alone

    def test_has_its_current_periods_start(
        self, account: StripeAccount, clock: Clock, reader: Reader, customer: str, price: str
    ) -> None:
        subscription = subscribed(account, customer, price)
        account.renew(subscription)
        clock.now += 40 * DAY
        account.add_item(subscription, price)
        found = only_subscription(reader().customer(customer))
        assert found.period_start == NOW + 40 * DAY  # the latest of its items

    def test_has_its_trials_end(self, account: StripeAccount, reader: Reader, customer: str, price: str) -> None:
        subscribed(account, customer, price, trial_days=7)
        assert only_subscription(reader().customer(customer)).trial_end == NOW + 7 * DAY

    @pytest.mark.parametrize(
        ("end", "for_nonpayment"),
        [
            (lambda account, id_: account.cancel(id_), False),
            (lambda account, id_: (account.fail_payment(id_), account.exhaust_dunning(id_, "canceled")), True),
        ],
    )
    def test_says_whether_it_ended_for_nonpayment(
        self,
        account: StripeAccount,
        reader: Reader,
        customer: str,
        price: str,
        end: Callable[[StripeAccount, str], object],
        for_nonpayment: bool,
    ) -> None:
        end(account, subscribed(account, customer, price))
        found = only_subscription(reader().customer(customer))
        assert (found.status, found.ended_for_nonpayment) == ("canceled", for_nonpayment)


def fail(account: StripeAccount, subscription: str) -> None:
    account.fail_payment(subscription)


def bill(outcome: Any, reason: str = "subscription_update") -> Callable[[StripeAccount, str], object]:
    return lambda account, subscription: account.bill(subscription, 100, outcome, reason)


def void_all(account: StripeAccount, subscription: str) -> None:
    """The open invoices are voided; the subscription stays past_due until Stripe says otherwise."""
    for invoice in account.all("invoice"):
        if invoice["status"] == "open":
            account.void_invoice(invoice["id"])


def pay_first(account: StripeAccount, subscription: str) -> None:
    account.pay_invoice(next(each["id"] for each in account.all("invoice") if each["status"] == "open"))


def closed(status: str, attempted: bool = False, due_date: int | None = None, **moments: int) -> Json:
    """An invoice that nobody is asked to pay any more."""
    return {"status": status, "attempted": attempted, "due_date": due_date, "status_transitions": moments}


class TestFirstUnpaid:
    """Since when a past_due subscription is unpaid; each happening comes a day after the one before it."""

    @pytest.mark.parametrize(
        ("happenings", "day"),
        [
            ([fail], 1),
            ([fail, fail, fail], 1),  # dunning tries again: the same invoice
            ([fail, bill("failed")], 1),
            ([bill("failed"), fail], 1),
            ([bill("draft"), fail], 2),
            ([bill("open"), fail], 2),  # not tried yet
            ([bill("paid"), fail], 2),
            ([bill("failed"), fail, pay_first], 2),  # the older one is paid
            ([fail, bill("failed"), bill("draft"), pay_first], 2),
            ([fail, void_all], None),
        ],
    )
    def test_is_when_the_oldest_open_invoice_that_was_tried_was_finalized(
        self,
        account: StripeAccount,
        clock: Clock,
        reader: Reader,
        customer: str,
        price: str,
        happenings: list[Callable[[StripeAccount, str], object]],
        day: int | None,
    ) -> None:
        subscription = subscribed(account, customer, price)
        for happening in happenings:
            clock.now += DAY
            happening(account, subscription)
        with account.changing(account.stored("subscription", subscription), "customer.subscription.updated") as stored:
            stored["status"] = "past_due"  # whatever paying one of two invoices made of it
        found = only_subscription(reader().customer(customer))
        assert found.first_unpaid == (None if day is None else NOW + day * DAY)
        assert paths(account) == ["subscriptions", "invoices"]

    def test_is_not_another_subscriptions(
        self, account: StripeAccount, clock: Clock, reader: Reader, customer: str, price: str
    ) -> None:
        older, newer = subscribed(account, customer, price), subscribed(account, customer, price)
        for subscription in (older, newer):
            clock.now += DAY
            account.fail_payment(subscription)
        found = {each.id: each.first_unpaid for each in reader().customer(customer).subscriptions}
        assert found == {older: NOW + DAY, newer: NOW + 2 * DAY}

    def test_of_an_invoice_that_is_sent_is_its_due_date(
        self, account: StripeAccount, clock: Clock, reader: Reader, customer: str, price: str
    ) -> None:
        made = account.create_subscription(customer, price, collection_method="send_invoice", days_until_due=10)
        clock.now += 11 * DAY
        account.overdue(made["latest_invoice"])
        found = only_subscription(reader().customer(customer))
        assert (found.status, found.first_unpaid) == ("past_due", NOW + 10 * DAY)

    @pytest.mark.parametrize(
        ("invoices", "first"),
        [
            ([{"attempted": True, "status_transitions": {"finalized_at": 5}}], 5),
            ([{"attempted": True}], None),
            ([{"attempted": True, "status_transitions": None}], None),
            ([{"status_transitions": {"finalized_at": 5}}], None),
            ([{"collection_method": "send_invoice", "due_date": 9, "status_transitions": {"finalized_at": 5}}], 9),
            ([{"collection_method": "send_invoice", "due_date": None, "status_transitions": {"finalized_at": 5}}], 5),
            ([{"collection_method": "send_invoice"}], None),
            ([{"attempted": True, "status_transitions": {"finalized_at": at}} for at in (8, 7, 9)], 7),
            ([], None),
        ],
    )
    def test_is_read_from_whatever_an_invoice_has(
        self, script: Script, vault: Vault, invoices: list[Json], first: int | None
    ) -> None:
        script.answer("subscriptions", page(old_subscription(status="past_due")))
        script.answer("customers/cus_1", CUSTOMER)
        script.answer("invoices", page(*({"object": "invoice", **each} for each in invoices)))
        assert only_subscription(reading(vault, script.url).customer("cus_1")).first_unpaid == first


def renew(**options: Any) -> Callable[[StripeAccount, str], object]:
    return lambda account, subscription: account.renew(subscription, **options)


def pause(behavior: Any) -> Callable[[StripeAccount, str], object]:
    return lambda account, subscription: account.pause_collection(subscription, behavior)


def unpaid(account: StripeAccount, subscription: str) -> None:
    account.exhaust_dunning(subscription, "unpaid")


def of_latest(deed: Callable[[StripeAccount, str], object]) -> Callable[[StripeAccount, str], object]:
    """What is done to the latest invoice."""
    return lambda account, subscription: deed(account, account.stored("subscription", subscription)["latest_invoice"])


bounce = of_latest(lambda account, invoice: account.conclude_payment(invoice, False))
write_off = of_latest(lambda account, invoice: account.mark_uncollectible(invoice))
void = of_latest(lambda account, invoice: account.void_invoice(invoice))
BOUNCED = [renew(delayed=True), bounce]  # a bank debit, which leaves the subscription active


class TestLatestInvoice:
    """Whether the latest that counts is written off, or paid; each happening comes a day after the one before it."""

    @pytest.mark.parametrize(
        ("happenings", "written_off", "settled"),
        [
            ([], False, True),
            ([renew()], False, True),
            ([renew(delayed=True)], False, False),
            (BOUNCED, False, False),
            ([*BOUNCED, write_off], True, False),
            ([*BOUNCED, void], True, False),
            ([*BOUNCED, write_off, bill("paid")], False, True),
            ([bill("open"), write_off], True, False),
            ([bill("open", "manual"), void], False, False),  # a mistake taken back: nobody failed to pay it
            ([bill("failed", "manual"), void], True, False),
            # A change that was given up unpaid: the period stays paid.
            ([bill("open"), void], False, True),
            ([bill("failed"), void], False, True),
            ([bill("failed"), void, bill("failed"), void, bill("draft")], False, True),
            ([*BOUNCED, write_off, bill("failed"), void], True, False),
            # What a pause closes was never to be paid.
            ([pause("mark_uncollectible"), renew()], False, False),
            ([pause("void"), renew()], False, False),
            # A draft says nothing: the invoice before it does.
            ([bill("draft")], False, True),
            ([pause("keep_as_draft"), renew()], False, True),
            ([*BOUNCED, write_off, bill("draft"), bill("draft")], True, False),
            ([fail, unpaid], False, False),
            ([fail, unpaid, renew()], False, False),
            ([fail, unpaid, renew(), pay_first], False, True),  # paid, and unpaid as long as the newer draft is there
        ],
    )
    def test_is_the_latest_that_counts(
        self,
        account: StripeAccount,
        clock: Clock,
        reader: Reader,
        customer: str,
        price: str,
        happenings: list[Callable[[StripeAccount, str], object]],
        written_off: bool,
        settled: bool,
    ) -> None:
        subscription = subscribed(account, customer, price)
        for happening in happenings:
            clock.now += DAY
            happening(account, subscription)
        found = only_subscription(reader().customer(customer))
        assert found.status == ("unpaid" if unpaid in happenings else "active")
        assert (found.written_off, found.settled) == (written_off, settled)

    @pytest.mark.parametrize(("outcome", "reads"), [("paid", []), ("open", []), ("draft", ["invoices"])])
    def test_is_read_with_the_subscription_unless_it_is_a_draft(
        self, account: StripeAccount, reader: Reader, customer: str, price: str, outcome: Any, reads: list[str]
    ) -> None:
        account.bill(subscribed(account, customer, price), 100, outcome)
        reader().customer(customer)
        assert paths(account) == ["subscriptions", *reads]

    @pytest.mark.parametrize(
        ("invoice", "written_off", "settled"),
        [
            (None, False, False),
            ({"status": "paid"}, False, True),
            ({"status": "open", "attempted": True}, False, False),
            ({"deleted": True}, False, False),
            ({"status": "uncollectible"}, True, False),
            ({"status": "uncollectible", "status_transitions": None}, True, False),
            (closed("uncollectible", attempted=True, finalized_at=NOW, marked_uncollectible_at=NOW), True, False),
            (closed("uncollectible", finalized_at=NOW, marked_uncollectible_at=NOW + 3600), False, False),
            (closed("uncollectible", finalized_at=NOW, marked_uncollectible_at=NOW + 3601), True, False),
            (closed("uncollectible", marked_uncollectible_at=NOW), True, False),
            (closed("uncollectible", finalized_at=NOW), True, False),
            (closed("void"), False, False),
            (closed("void", attempted=True), True, False),
            (closed("void", due_date=NOW, voided_at=NOW - 1), False, False),
            (closed("void", due_date=NOW, voided_at=NOW), True, False),
            (closed("void", due_date=NOW), False, False),
            (closed("void", voided_at=NOW), False, False),
        ],
    )
    @pytest.mark.parametrize("expanded", [True, False])
    def test_is_read_from_whatever_an_invoice_has(
        self,
        script: Script,
        vault: Vault,
        invoice: Json | None,
        written_off: bool,
        settled: bool,
        expanded: bool,
    ) -> None:
        named = {"id": "in_1", "object": "invoice", **invoice} if invoice is not None else None
        script.answer(
            "subscriptions", page(old_subscription(latest_invoice=named if expanded or not named else "in_1"))
        )
        script.answer("customers/cus_1", CUSTOMER)
        script.answer("invoices/in_1", named or {})
        found = only_subscription(reading(vault, script.url).customer("cus_1"))
        assert (found.written_off, found.settled) == (written_off, settled)
        assert ("invoices/in_1" in script.asked) is (named is not None and not expanded)

    @pytest.mark.parametrize("status", ["active", "unpaid"])
    def test_that_stripe_does_not_show_says_nothing(self, script: Script, vault: Vault, status: str) -> None:
        script.answer("subscriptions", page(old_subscription(status=status, latest_invoice="in_1")))
        script.answer("customers/cus_1", CUSTOMER)
        script.answer("invoices/in_1", {"error": MISSING}, 404)
        found = only_subscription(reading(vault, script.url).customer("cus_1"))
        assert (found.written_off, found.settled) == (False, False)

    def test_that_cannot_be_read_now_is_no_answer(self, script: Script, vault: Vault) -> None:
        script.answer("subscriptions", page(old_subscription(latest_invoice="in_1")))
        script.answer("customers/cus_1", CUSTOMER)
        script.answer("invoices/in_1", {"error": {"type": "invalid_request_error", "code": "rate_limit"}}, 429)
        with pytest.raises(StripeThrottled):
            reading(vault, script.url).customer("cus_1")

    def test_that_is_a_draft_may_be_the_only_one(self, script: Script, vault: Vault) -> None:
        draft = {"id": "in_1", "object": "invoice", "status": "draft"}
        script.answer("subscriptions", page(old_subscription(latest_invoice=draft)))
        script.answer("customers/cus_1", CUSTOMER)
        script.answer("invoices", page(draft))
        found = only_subscription(reading(vault, script.url).customer("cus_1"))
        assert (found.written_off, found.settled) == (False, False)

    @pytest.mark.parametrize("status", ["trialing", "past_due", "paused", "canceled", "incomplete", "new_status"])
    def test_of_any_other_status_is_not_asked_for(self, script: Script, vault: Vault, status: str) -> None:
        script.answer("subscriptions", page(old_subscription(status=status, latest_invoice="in_1")))
        script.answer("customers/cus_1", CUSTOMER)
        script.answer("invoices", page())
        found = only_subscription(reading(vault, script.url).customer("cus_1"))
        assert (found.written_off, found.settled) == (False, False)
        assert "invoices/in_1" not in script.asked


class TestPause:
    """Collection is paused, and whether anybody paid, or will pay, for the current period."""

    @pytest.mark.parametrize("behavior", ["void", "keep_as_draft", "mark_uncollectible"])
    @pytest.mark.parametrize(
        ("before", "after", "period_unpaid"),
        [
            ([], [], False),
            ([renew()], [], False),
            ([], [renew()], True),
            ([], [renew(), renew()], True),
            ([], [renew(), bill("paid")], True),  # something else was paid for
            ([BOUNCED[0]], [], False),  # a payment that is on its way
        ],
    )
    def test_began_before_or_after_the_current_period_was_billed(
        self,
        account: StripeAccount,
        clock: Clock,
        reader: Reader,
        customer: str,
        price: str,
        behavior: str,
        before: list[Callable[[StripeAccount, str], object]],
        after: list[Callable[[StripeAccount, str], object]],
        period_unpaid: bool,
    ) -> None:
        subscription = subscribed(account, customer, price)
        for happening in (*before, pause(behavior), *after):
            clock.now += DAY
            happening(account, subscription)
        found = only_subscription(reader().customer(customer))
        assert (found.status, found.pause, found.period_unpaid) == ("active", behavior, period_unpaid)

    def test_that_is_over_is_none(
        self, account: StripeAccount, clock: Clock, reader: Reader, customer: str, price: str
    ) -> None:
        subscription = subscribed(account, customer, price)
        for happening in (pause("void"), renew(), pause(None)):
            clock.now += DAY
            happening(account, subscription)
        found = only_subscription(reader().customer(customer))
        assert (found.pause, found.period_unpaid) == ("", False)
        assert paths(account) == ["subscriptions"]

    @pytest.mark.parametrize("status", ["trialing", "unpaid", "canceled"])
    def test_of_a_subscription_that_is_not_active_asks_nothing(self, script: Script, vault: Vault, status: str) -> None:
        row = old_subscription(status=status, pause_collection={"behavior": "void"})
        script.answer("subscriptions", page(row))
        script.answer("customers/cus_1", CUSTOMER)
        found = only_subscription(reading(vault, script.url).customer("cus_1"))
        assert (found.pause, found.period_unpaid) == ("void", False)
        assert script.asked == ["subscriptions", "customers/cus_1"]

    @pytest.mark.parametrize(
        ("invoices", "period_unpaid"),
        [
            ([], False),
            ([("manual", "void")], False),
            ([("subscription_update", "void"), ("subscription_cycle", "paid")], False),
            ([("subscription_update", "paid"), ("subscription_cycle", "void")], True),
            ([("subscription_cycle", "paid"), ("subscription_cycle", "void")], False),
            ([("subscription_cycle", "open")], False),
            ([("subscription_cycle", "draft")], True),
            ([("subscription_cycle", "uncollectible")], True),
            ([("subscription_create", "void")], True),
            ([("subscription_create", "paid")], False),
            ([(None, "void"), ("subscription_cycle", "void")], True),
        ],
    )
    def test_asks_the_newest_invoice_of_a_period(
        self, script: Script, vault: Vault, invoices: list[tuple[str | None, str]], period_unpaid: bool
    ) -> None:
        script.answer("subscriptions", page(old_subscription(pause_collection={"behavior": "keep_as_draft"})))
        script.answer("customers/cus_1", CUSTOMER)
        rows = [{"object": "invoice", "billing_reason": reason, "status": status} for reason, status in invoices]
        script.answer("invoices", page(*rows))
        assert only_subscription(reading(vault, script.url).customer("cus_1")).period_unpaid is period_unpaid


# ------------------------------------------------------------------ items: how many, and how many dapps each


class TestItem:
    def test_keeps_its_quantity(self, account: StripeAccount, reader: Reader, customer: str, price: str) -> None:
        subscription = subscribed(account, customer, price, 3)
        account.change_quantity(subscription, 8)
        account.add_item(subscription, priced(account, metadata={"dapps": "10"}), 0)
        found = only_subscription(reader().customer(customer)).items
        assert [(item.quantity, item.dapps) for item in found] == [(8, "2"), (0, "10")]

    def test_that_is_metered_has_no_quantity(self, account: StripeAccount, reader: Reader, customer: str) -> None:
        metered = priced(account, metadata={"dapps": "2"}, recurring={**MONTHLY, "usage_type": "metered"})
        subscribed(account, customer, metered)
        assert only_subscription(reader().customer(customer)).items == (Item(metered, None, "2"),)

    @pytest.mark.parametrize(
        ("transform", "divide_by", "round_up"),
        [
            (None, 1, False),
            ({"divide_by": 10, "round": "up"}, 10, True),
            ({"divide_by": 10, "round": "down"}, 10, False),
        ],
    )
    def test_keeps_how_its_quantity_is_packed(
        self,
        account: StripeAccount,
        reader: Reader,
        customer: str,
        transform: Json | None,
        divide_by: int,
        round_up: bool,
    ) -> None:
        packed = priced(account, metadata={"dapps": "1"}, transform_quantity=transform)
        subscribed(account, customer, packed, 25)
        (item,) = only_subscription(reader().customer(customer)).items
        assert item == Item(packed, 25, "1", divide_by, round_up)


class TestDeclaredQuantity:
    """Of a metered price, which has none: never silently 0 or 1."""

    @pytest.mark.parametrize(
        ("price", "product", "quantity", "reads_the_product"),
        [
            ({"dapps_quantity": "4"}, {}, 4, False),
            ({"dapps_quantity": "0"}, {}, 0, False),
            ({"dapps_quantity": "4"}, {"dapps_quantity": "5"}, 4, False),
            ({}, {"dapps_quantity": "5"}, 5, True),
            ({}, {}, None, True),
            # Whether it can be read is not for another answer to mend.
            ({"dapps_quantity": "four"}, {"dapps_quantity": "5"}, None, False),
            ({"dapps_quantity": ""}, {"dapps_quantity": "5"}, None, False),
            ({"dapps_quantity": "-4"}, {}, None, False),
            ({"dapps_quantity": "1.5"}, {}, None, False),
            ({}, {"dapps_quantity": "five"}, None, True),
        ],
    )
    def test_is_the_prices_then_the_products(
        self,
        account: StripeAccount,
        reader: Reader,
        customer: str,
        price: Json,
        product: Json,
        quantity: int | None,
        reads_the_product: bool,
    ) -> None:
        account.create_product("Calls", product, "prod_calls")
        metered = priced(
            account, "prod_calls", metadata={"dapps": "2", **price}, recurring={**MONTHLY, "usage_type": "metered"}
        )
        subscribed(account, customer, metered)
        assert only_subscription(reader().customer(customer)).items == (Item(metered, quantity, "2"),)
        assert paths(account) == ["subscriptions"] + ["products/prod_calls"] * reads_the_product

    def test_is_not_asked_for_beside_a_real_one(self, account: StripeAccount, reader: Reader, customer: str) -> None:
        subscribed(account, customer, priced(account, metadata={"dapps": "2", "dapps_quantity": "9"}), 3)
        assert only_subscription(reader().customer(customer)).items[0].quantity == 3
        assert paths(account) == ["subscriptions"]

    def test_of_a_price_that_gives_no_dapps_is_none(
        self, account: StripeAccount, reader: Reader, customer: str
    ) -> None:
        metered = priced(account, metadata={"dapps_quantity": "4"}, recurring={**MONTHLY, "usage_type": "metered"})
        subscribed(account, customer, metered)
        assert only_subscription(reader().customer(customer)).items == (Item(metered, None, None),)


class TestStray:
    """A price without a mapping, although another one of its product has one: it was forgotten."""

    @pytest.mark.parametrize(
        ("other", "prices", "stray"),
        [
            (None, {}, False),
            ({}, {}, False),
            ({"metadata": {"dapps": "2"}}, {}, True),
            ({"metadata": {"dapps": "two"}}, {}, True),
            ({"metadata": {"Dapps": "2"}}, {}, False),
            ({"price_id": "price_other"}, {"price_other": 3}, True),
            ({"lookup_key": "other"}, {"other": 3}, True),
            ({"lookup_key": "other"}, {"another": 3}, False),
        ],
    )
    def test_is_one_whose_product_is_mapped_by_another(
        self,
        account: StripeAccount,
        reader: Reader,
        customer: str,
        other: Json | None,
        prices: dict[str, int],
        stray: bool,
    ) -> None:
        account.create_product("Seats", {}, "prod_seats")
        if other is not None:
            priced(account, "prod_seats", **other)
        forgotten = priced(account, "prod_seats")
        priced(account, metadata={"dapps": "2"})  # another product's mapping does not matter
        subscribed(account, customer, forgotten)
        expected = (Item(forgotten, 3, None, stray=stray),)
        assert only_subscription(reader(prices=prices).customer(customer)).items == expected

    def test_is_one_of_a_product_whose_mapped_price_is_sold_no_more(
        self, account: StripeAccount, reader: Reader, customer: str
    ) -> None:
        account.create_product("Seats", {}, "prod_seats")
        account.update_price(priced(account, "prod_seats", metadata={"dapps": "2"}), active=False)
        subscribed(account, customer, priced(account, "prod_seats"))
        assert only_subscription(reader().customer(customer)).items[0].stray is True

    def test_is_one_of_a_product_that_was_deleted(self, account: StripeAccount, reader: Reader, customer: str) -> None:
        """Stripe lets a product go while subscriptions to it run. Nobody can tell whether they were mapped; and
        they hide nothing of what else is paid for."""
        account.create_product("Old", {}, "prod_old")
        old, sold = priced(account, "prod_old"), priced(account, metadata={"dapps": "2"})
        subscribed(account, customer, old)
        subscribed(account, customer, sold)
        del account.objects["product"]["prod_old"]
        found = reader().customer(customer).subscriptions
        assert {each.items[0] for each in found} == {Item(old, 3, None, stray=True), Item(sold, 3, "2")}

    def test_is_looked_for_among_all_prices_once_per_product(
        self, account: StripeAccount, reader: Reader, customer: str
    ) -> None:
        account.create_product("Seats", {}, "prod_seats")
        priced(account, "prod_seats", metadata={"dapps": "2"})
        for _ in range(100):
            forgotten = priced(account, "prod_seats")
        for _ in range(2):
            subscribed(account, customer, forgotten)
        found = reader().customer(customer)
        assert [each.items[0].stray for each in found.subscriptions] == [True, True]
        assert paths(account).count("prices") == 2  # two pages

    def test_is_none_where_the_product_says_it_for_all(
        self, account: StripeAccount, reader: Reader, customer: str
    ) -> None:
        account.create_product("Seats", {"dapps": "5"}, "prod_seats")
        priced(account, "prod_seats", metadata={"dapps": "2"})
        seat = priced(account, "prod_seats")
        subscribed(account, customer, seat)
        assert only_subscription(reader().customer(customer)).items == (Item(seat, 3, "5"),)

    @pytest.mark.parametrize(
        ("status", "asked"),
        [
            ("active", True),
            ("trialing", True),
            ("past_due", True),
            ("unpaid", True),
            ("paused", True),
            ("new_status", True),
            ("canceled", False),
            ("incomplete", False),
            ("incomplete_expired", False),
        ],
    )
    def test_matters_only_while_the_subscription_may_give_something(
        self, script: Script, vault: Vault, status: str, asked: bool
    ) -> None:
        script.answer(
            "subscriptions", page(old_subscription(item(price={"id": "p", "product": "prod_1"}), status=status))
        )
        script.answer("customers/cus_1", CUSTOMER)
        script.answer("products/prod_1", {"id": "prod_1", "object": "product", "metadata": {}})
        script.answer("prices", page({**MAPPED, "product": "prod_1"}))
        script.answer("invoices", page())
        found = only_subscription(reading(vault, script.url).customer("cus_1"))
        assert found.items[0].stray is asked
        assert ("prices" in script.asked) is asked

    @pytest.mark.parametrize(
        ("product", "asked"), [("prod_1", True), ({"id": "prod_1", "metadata": {}}, True), ({}, False), (None, False)]
    )
    def test_is_none_of_a_product_that_is_not_there(
        self, script: Script, vault: Vault, product: object, asked: bool
    ) -> None:
        script.answer("subscriptions", page(old_subscription(item(price={"id": "p", "product": product}))))
        script.answer("customers/cus_1", CUSTOMER)
        script.answer("products/prod_1", {"id": "prod_1", "object": "product", "deleted": True})
        script.answer("prices", {"error": MISSING}, 400)
        found = only_subscription(reading(vault, script.url).customer("cus_1"))
        assert found.items == (Item("p", 1, None),)
        assert ("prices" in script.asked) is asked


class TestMapping:
    @pytest.mark.parametrize(
        ("metadata", "prices", "product", "dapps", "reads"),
        [
            ({"dapps": "2"}, {}, {}, "2", []),
            ({"dapps": "2"}, {"price_seat": 3, "seat": 4}, {"dapps": "5"}, "2", []),
            ({"dapps": "0"}, {"price_seat": 3}, {"dapps": "5"}, "0", []),
            # Whether it can be read is for the rules to say: a typo must not fall through to another answer.
            ({"dapps": "two"}, {"price_seat": 3}, {"dapps": "5"}, "two", []),
            ({"dapps": ""}, {"price_seat": 3}, {"dapps": "5"}, "", []),
            ({}, {"price_seat": 3, "seat": 4}, {"dapps": "5"}, "3", []),
            ({}, {"price_seat": 0, "seat": 4}, {"dapps": "5"}, "0", []),
            ({}, {"seat": 4}, {"dapps": "5"}, "4", []),
            ({}, {"other": 9}, {"dapps": "5"}, "5", ["products/prod_seats"]),
            ({"Dapps": "2"}, {}, {"dapps": "five"}, "five", ["products/prod_seats"]),
            ({}, {}, {}, None, ["products/prod_seats", "prices"]),
        ],
    )
    def test_is_the_prices_then_dapp_prices_then_the_products(
        self,
        account: StripeAccount,
        reader: Reader,
        customer: str,
        metadata: Json,
        prices: dict[str, int],
        product: Json,
        dapps: str | None,
        reads: list[str],
    ) -> None:
        account.create_product("Seats", product, "prod_seats")
        seat = priced(account, "prod_seats", metadata=metadata, lookup_key="seat", price_id="price_seat")
        subscribed(account, customer, seat)
        (item,) = only_subscription(reader(prices=prices).customer(customer)).items
        assert (item.price, item.dapps) == ("price_seat", dapps)
        assert paths(account) == ["subscriptions", *reads]

    def test_reads_a_product_once_for_all_its_prices(
        self, account: StripeAccount, reader: Reader, customer: str
    ) -> None:
        account.create_product("Seats", {"dapps": "5"}, "prod_seats")
        account.create_product("Coffee", {}, "prod_coffee")
        for product in ("prod_seats", "prod_coffee", "prod_seats", "prod_coffee"):
            subscribed(account, customer, priced(account, product))
        found = reader().customer(customer)
        assert [each.items[0].dapps for each in found.subscriptions] == [None, "5", None, "5"]
        assert sorted(paths(account)) == ["prices", "products/prod_coffee", "products/prod_seats", "subscriptions"]

    def test_is_read_again_at_every_look(self, account: StripeAccount, reader: Reader, customer: str) -> None:
        account.create_product("Seats", {"dapps": "5"}, "prod_seats")
        subscribed(account, customer, priced(account, "prod_seats"))
        seen = reader()
        seen.customer(customer)
        account.update_product("prod_seats", metadata={"dapps": "6"})
        assert only_subscription(seen.customer(customer)).items[0].dapps == "6"


class TestPriceMap:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("{}", {}),
            ('{"price_1": 3, "seat": 0, "sku 1": 1000000}', {"price_1": "3", "seat": "0", "sku 1": "1000000"}),
        ],
    )
    def test_gives_dapps_as_text(self, text: str, expected: dict[str, str]) -> None:
        assert price_map(text) == expected

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "not JSON"),
            ("{", "not JSON"),
            ("price_1=3", "not JSON"),
            ("[]", "not a JSON object"),
            ("null", "not a JSON object"),
            ('"price_1"', "not a JSON object"),
            ('{"price_1": "3"}', "'price_1' no whole number"),
            ('{"price_1": 3, "price_2": 1.5}', "'price_2' no whole number"),
            ('{"price_1": 3.0}', "'price_1' no whole number"),
            ('{"price_1": -1}', "'price_1' no whole number"),
            ('{"price_1": true}', "'price_1' no whole number"),
            ('{"price_1": null}', "'price_1' no whole number"),
            ('{"price_1": {"dapps": 3}}', "'price_1' no whole number"),
            ('{"price_1": NaN}', "'price_1' no whole number"),
        ],
    )
    def test_refuses_anything_else_when_the_function_starts(self, text: str, message: str) -> None:
        with pytest.raises(SettingMissing, match=f"^DappPrices .*{message}"):
            price_map(text)


# ------------------------------------------------------------------ shapes of other API versions

CUSTOMER = {"id": "cus_1", "object": "customer", "email": EMAIL, "livemode": False}
GOLD = {"id": "gold", "object": "plan", "product": "prod_1"}
MAPPED = {"id": "new", "object": "price", "metadata": {"dapps": "2"}}


def page(*rows: Json, has_more: bool = False) -> Json:
    return {"object": "list", "data": list(rows), "has_more": has_more, "url": "/v1/rows"}


def old_subscription(*items: Json, **changed: Any) -> Json:
    """A subscription as API versions before 2025-03-31.basil serve it: the period is its own, a price is a plan."""
    rows = items or (item(plan={**GOLD, "metadata": {"dapps": "2"}}),)
    return {
        "id": "sub_1",
        "object": "subscription",
        "customer": "cus_1",
        "livemode": False,
        "status": "active",
        "cancel_at_period_end": False,
        "current_period_end": MONTH_LATER,
        "items": page(*rows),
        **changed,
    }


def item(**fields: Any) -> Json:
    return {"object": "subscription_item", "quantity": 1, **fields}


class TestOtherShapes:
    @pytest.mark.parametrize(
        ("changed", "ends_at"),
        [
            ({}, None),
            ({"cancel_at_period_end": True}, MONTH_LATER),
            ({"cancel_at_period_end": True, "cancel_at": None}, MONTH_LATER),
            ({"cancel_at_period_end": True, "cancel_at": MONTH_LATER - 5}, MONTH_LATER - 5),
            ({"cancel_at_period_end": False, "cancel_at": MONTH_LATER + 5}, MONTH_LATER + 5),
            ({"cancel_at_period_end": True, "current_period_end": None}, None),
            (
                {
                    "cancel_at_period_end": True,
                    "current_period_end": None,
                    "items": page(*(item(price=MAPPED, current_period_end=end) for end in (NOW, NOW + 9, None))),
                },
                NOW + 9,
            ),
        ],
    )
    def test_a_periods_end_is_the_subscriptions_or_its_items(
        self, script: Script, vault: Vault, changed: Json, ends_at: int | None
    ) -> None:
        script.answer("subscriptions", page({**old_subscription(), **changed}))
        script.answer("customers/cus_1", CUSTOMER)
        assert only_subscription(reading(vault, script.url).customer("cus_1")).ends_at == ends_at

    @pytest.mark.parametrize(
        ("changed", "end"),
        [
            ({}, MONTH_LATER),
            ({"current_period_end": None}, None),
            (
                {
                    "current_period_end": None,
                    "items": page(*(item(price=MAPPED, current_period_end=at) for at in (3, 9))),
                },
                9,
            ),
        ],
    )
    def test_a_periods_end_is_known_of_a_subscription_that_goes_on(
        self, script: Script, vault: Vault, changed: Json, end: int | None
    ) -> None:
        script.answer("subscriptions", page({**old_subscription(), **changed}))
        script.answer("customers/cus_1", CUSTOMER)
        found = only_subscription(reading(vault, script.url).customer("cus_1"))
        assert (found.period_end, found.ends_at) == (end, None)

    @pytest.mark.parametrize(
        ("changed", "start"),
        [
            ({}, None),
            ({"current_period_start": NOW}, NOW),
            ({"items": page(item(price=MAPPED, current_period_start=NOW + 5), item(price=MAPPED))}, NOW + 5),
            ({"items": page(*(item(price=MAPPED, current_period_start=start) for start in (3, 9, 5)))}, 9),
        ],
    )
    def test_a_periods_start_is_the_subscriptions_or_its_latest_items(
        self, script: Script, vault: Vault, changed: Json, start: int | None
    ) -> None:
        script.answer("subscriptions", page({**old_subscription(), **changed}))
        script.answer("customers/cus_1", CUSTOMER)
        assert only_subscription(reading(vault, script.url).customer("cus_1")).period_start == start

    @pytest.mark.parametrize(
        ("row", "expected"),
        [
            (item(plan={**GOLD, "metadata": {"dapps": "4"}}, quantity=3), Item("gold", 3, "4")),
            (item(plan=GOLD, quantity=3), Item("gold", 3, "6")),  # the product's
            (
                item(plan={**GOLD, "transform_usage": {"divide_by": 5, "round": "up"}}, quantity=12),
                Item("gold", 12, "6", 5, True),
            ),
            # The newer field counts when both are there.
            (item(price={"id": "new", "metadata": {"dapps": "7"}}, plan=GOLD), Item("new", 1, "7")),
            (item(price={"id": "new", "lookup_key": None}), Item("new", 1, None)),
            (item(price={"id": "new", "product": {"id": "prod_2", "metadata": {"dapps": "8"}}}), Item("new", 1, "8")),
            (item(price={"id": "new", "product": {"id": "prod_2", "deleted": True}}), Item("new", 1, None)),
            (item(price={"id": "new", "metadata": {"dapps": 9}}), Item("new", 1, "9")),
            (item(price={"id": "new", "metadata": {"dapps": "9"}}, quantity=True), Item("new", None, "9")),
            (item(price={"id": "new", "metadata": {"dapps": "9"}}, quantity="3"), Item("new", None, "9")),
            (item(price=None, plan=None), Item("", 1, None)),
        ],
    )
    def test_an_item_has_a_price_or_a_plan(self, script: Script, vault: Vault, row: Json, expected: Item) -> None:
        script.answer("subscriptions", page(old_subscription(row)))
        script.answer("customers/cus_1", CUSTOMER)
        product = {"id": "prod_1", "object": "product", "metadata": {"dapps": "6"}}
        script.answer("products/prod_1", product)
        script.answer("prices", page())
        assert only_subscription(reading(vault, script.url).customer("cus_1")).items == (expected,)

    def test_a_customer_that_was_not_expanded_is_read(self, script: Script, vault: Vault) -> None:
        script.answer("subscriptions", page(old_subscription(item(price={"id": "new"}))))
        script.answer("customers/cus_1", CUSTOMER)
        assert reading(vault, script.url).customer("cus_1").email == EMAIL
        assert script.asked == ["subscriptions", "customers/cus_1"]

    @pytest.mark.parametrize(
        ("details", "for_nonpayment"),
        [
            ({"reason": "payment_failed"}, True),
            ({"reason": "payment_disputed"}, True),
            ({"reason": "cancellation_requested"}, False),
            ({"reason": None}, False),
            (None, False),
        ],
    )
    def test_the_reason_of_an_end_may_be_missing(
        self, script: Script, vault: Vault, details: Json | None, for_nonpayment: bool
    ) -> None:
        row = old_subscription(status="canceled", cancellation_details=details, customer=CUSTOMER)
        script.answer("subscriptions", page(row))
        found = only_subscription(reading(vault, script.url).customer("cus_1"))
        assert found.ended_for_nonpayment is for_nonpayment

    @pytest.mark.parametrize(
        ("modes", "livemode", "taken"),
        [
            ((False, False), False, True),
            ((True, True), True, True),
            ((None, None), True, True),  # a deleted customer has none
            ((False, True), False, False),
            ((True, False), False, False),
            ((False, True), True, False),
        ],
    )
    def test_customer_and_subscriptions_are_of_our_mode(
        self, script: Script, vault: Vault, modes: tuple[bool | None, bool | None], livemode: bool, taken: bool
    ) -> None:
        customer = {**CUSTOMER, "livemode": modes[0]}
        script.answer("subscriptions", page(old_subscription(customer=customer, livemode=modes[1])))
        seen = reading(vault, script.url, livemode=livemode)
        with contextlib.nullcontext() if taken else pytest.raises(BillingIncomplete, match="other mode"):
            seen.customer("cus_1")


# ------------------------------------------------------------------ one-time orders


class TestCheckoutSession:
    @pytest.fixture
    def once(self, account: StripeAccount) -> str:
        product = account.create_product("Seat for ever", {"dapps": "5"}, "prod_once")["id"]
        return str(account.create_price(product, 5_000, price_id="price_once")["id"])

    @pytest.fixture
    def free(self, account: StripeAccount) -> str:
        product = account.create_product("Gift")["id"]
        return str(account.create_price(product, 0, {"dapps": "1"}, price_id="price_free")["id"])

    def test_that_is_paid_has_its_lines(self, account: StripeAccount, reader: Reader, once: str) -> None:
        made = account.checkout(EMAIL, once, 2, "payment")["id"]
        assert reader().purchase(session(made)) == Purchase(made, "paid", (Item(once, 2, "5"),), NOW)
        expected = [f"checkout/sessions/{made}", f"checkout/sessions/{made}/line_items", "products/prod_once"]
        assert paths(account) == expected

    def test_over_nothing_counts_as_paid(self, account: StripeAccount, reader: Reader, free: str) -> None:
        made = account.checkout(EMAIL, free, mode="payment")
        assert made["payment_status"] == "no_payment_required"
        assert reader().purchase(session(made["id"])) == Purchase(made["id"], "paid", (Item(free, 1, "1"),), NOW)

    @pytest.mark.parametrize(("succeeded", "status"), [(None, "open"), (False, "unpaid"), (True, "paid")])
    def test_that_is_paid_later_is_open_until_then(
        self, account: StripeAccount, reader: Reader, once: str, succeeded: bool | None, status: str
    ) -> None:
        made = account.checkout(EMAIL, once, mode="payment", paid=False)["id"]
        if succeeded is not None:
            account.async_payment(made, succeeded)
        assert reader().purchase(session(made)).status == status

    @pytest.mark.parametrize(("expired", "status"), [(True, "unpaid"), (False, "open")])
    def test_that_nobody_completed_is_open_until_it_expires_and_takes_one_request(
        self, account: StripeAccount, reader: Reader, free: str, expired: bool, status: str
    ) -> None:
        made = account.create_checkout_session([{"price": free}], "payment")["id"]
        if expired:
            account.expire_session(made)
        assert reader().purchase(session(made)) == Purchase(made, status, (), NOW)
        assert paths(account) == [f"checkout/sessions/{made}"]

    @pytest.mark.parametrize(("status", "found"), [("open", "open"), ("expired", "unpaid"), (None, "unpaid")])
    def test_over_nothing_counts_only_when_it_was_completed(
        self, script: Script, vault: Vault, status: str | None, found: str
    ) -> None:
        given = {"id": "cs_1", "object": "checkout.session", "livemode": False, "status": status}
        script.answer("checkout/sessions/cs_1", {**given, "payment_status": "no_payment_required"})
        assert reading(vault, script.url).purchase(session("cs_1")) == Purchase("cs_1", found, ())

    @pytest.mark.parametrize(
        ("intent", "status"),
        [
            ({"status": "processing"}, "open"),
            ({"status": "requires_payment_method"}, "unpaid"),
            ("pi_1", "unpaid"),
            (None, "unpaid"),
        ],
    )
    def test_that_is_complete_waits_only_for_a_payment_in_progress(
        self, script: Script, vault: Vault, intent: object, status: str
    ) -> None:
        given = {"id": "cs_1", "livemode": False, "status": "complete", "payment_status": "unpaid", "created": NOW}
        script.answer("checkout/sessions/cs_1", {**given, "payment_intent": intent})
        assert reading(vault, script.url).purchase(session("cs_1")) == Purchase("cs_1", status, (), NOW)

    def test_was_bought_when_it_was_paid_not_when_it_was_opened(
        self, account: StripeAccount, reader: Reader, clock: Clock, once: str
    ) -> None:
        """Opened before an account's deletion and paid after it, it is bought after it."""
        made = account.create_checkout_session([{"price": once}], "payment")["id"]
        clock.now += 3_600
        account.complete_checkout(made, EMAIL)
        assert reader().purchase(session(made)).created == NOW + 3_600

    def test_that_is_paid_by_a_delayed_method_was_bought_no_earlier_than_that(
        self, account: StripeAccount, reader: Reader, clock: Clock, once: str
    ) -> None:
        made = account.checkout(EMAIL, once, mode="payment", paid=False)["id"]
        clock.now += DAY
        account.async_payment(made, True)
        found = reader().purchase(session(made))
        assert found.status == "paid"
        assert found.created is not None
        assert found.created >= NOW

    @pytest.mark.parametrize(
        ("intent", "created"),
        [
            ({"latest_charge": {"created": NOW + 9}}, NOW + 9),
            ({"latest_charge": None}, NOW),
            ({"latest_charge": "ch_1"}, NOW),
            ("pi_1", NOW),
            (None, NOW),
        ],
    )
    def test_without_a_charge_was_bought_when_it_was_opened(
        self, script: Script, vault: Vault, intent: object, created: int
    ) -> None:
        given = {"id": "cs_1", "livemode": False, "status": "complete", "payment_status": "paid", "created": NOW}
        script.answer("checkout/sessions/cs_1", {**given, "payment_intent": intent})
        script.answer("checkout/sessions/cs_1/line_items", page())
        assert reading(vault, script.url).purchase(session("cs_1")) == Purchase("cs_1", "paid", (), created)

    def test_has_more_lines_than_a_page(self, account: StripeAccount, reader: Reader, once: str) -> None:
        lines = [{"price": once, "quantity": number} for number in range(1, 102)]
        made = account.create_checkout_session(lines, "payment")["id"]
        account.complete_checkout(made, EMAIL)
        found = reader().purchase(session(made))
        assert [item.quantity for item in found.items] == list(range(1, 102))
        assert paths(account).count("products/prod_once") == 1

    def test_of_another_account_is_incomplete(self, reader: Reader) -> None:
        with pytest.raises(BillingIncomplete, match="another account"):
            reader().purchase(session("cs_test_unknown"))

    def test_of_the_other_mode_is_incomplete(self, account: StripeAccount, reader: Reader, once: str) -> None:
        made = account.checkout(EMAIL, once, mode="payment")["id"]
        with pytest.raises(BillingIncomplete, match="other mode"):
            reader(livemode=True).purchase(session(made))

    def test_of_a_price_without_a_mapping_takes_nothing_away(
        self, account: StripeAccount, reader: Reader, free: str
    ) -> None:
        """A one-time purchase does not end at a renewal: no other prices are asked for."""
        mug = account.create_price(account.get("price", free)["product"], 900)["id"]
        made = account.checkout(EMAIL, mug, mode="payment")["id"]
        assert reader().purchase(session(made)).items == (Item(mug, 1, None),)
        assert "prices" not in paths(account)


class TestCustomersOf:
    """All customers with one address: a deletion asks for those of whom the ledger has never heard."""

    def test_an_address_are_those_who_have_exactly_it(self, account: StripeAccount, reader: Reader) -> None:
        made = [account.create_customer(EMAIL)["id"] for _ in range(2)]
        for other in (EMAIL.upper(), "other@example.com", None):
            account.create_customer(other)
        assert sorted(reader().customers_of(EMAIL)) == sorted(made)

    def test_an_address_may_be_nobody(self, reader: Reader) -> None:
        assert reader().customers_of(EMAIL) == []

    def test_an_address_are_not_those_who_were_deleted(
        self, account: StripeAccount, reader: Reader, customer: str
    ) -> None:
        account.delete_customer(customer)
        assert reader().customers_of(EMAIL) == []

    def test_an_address_may_be_more_than_a_page(self, account: StripeAccount, reader: Reader) -> None:
        made = [account.create_customer(EMAIL)["id"] for _ in range(101)]
        assert sorted(reader().customers_of(EMAIL)) == sorted(made)
        assert paths(account) == ["customers"] * 2


class TestCancel:
    def test_ends_a_subscription_now(self, account: StripeAccount, reader: Reader, customer: str, price: str) -> None:
        made, other = subscribed(account, customer, price), subscribed(account, customer, price)
        reader().cancel(made, "key-1")
        found = {each.id: each.status for each in reader().customer(customer).subscriptions}
        assert found == {made: "canceled", other: "active"}

    def test_twice_is_once(self, account: StripeAccount, reader: Reader, customer: str, price: str) -> None:
        """A run that was killed in between repeats it with the same key; another one with its own."""
        made = subscribed(account, customer, price)
        for key in ("key-1", "key-1", "key-2"):
            reader().cancel(made, key)
        assert only_subscription(reader().customer(customer)).status == "canceled"

    def test_of_what_stripe_does_not_know_is_no_error(self, reader: Reader) -> None:
        reader().cancel("sub_unknown", "key-1")

    def test_names_its_key_to_stripe(self, door: Door, vault: Vault) -> None:
        seen: list[tuple[str, str, str | None]] = []

        def app(environ: Json, start_response: Any) -> Any:
            request = Request(environ)
            seen.append((request.method, request.path, request.headers.get("Idempotency-Key")))
            return Response(json.dumps({"id": "sub_1"}), content_type="application/json")(environ, start_response)

        door.app = app
        reading(vault, door.url).cancel("sub_1", "key-1")
        assert seen == [("DELETE", "/v1/subscriptions/sub_1", "key-1")]

    @pytest.mark.parametrize(("status", "name"), [(401, StripeKeyRejected), (429, StripeThrottled)])
    def test_that_stripe_refuses_is_not_done(
        self, script: Script, vault: Vault, status: int, name: type[GatewayError]
    ) -> None:
        script.answer("subscriptions/sub_1", {"error": {"type": "api_error", "message": "no"}}, status)
        with pytest.raises(name):
            reading(vault, script.url).cancel("sub_1", "key-1")


@pytest.mark.parametrize("created", [None, NOW])
def test_a_legacy_order_was_made_when_its_event_said_so(reader: Reader, created: int | None) -> None:
    assert reader().purchase(events.Purchase("or_1", "paid", 1, (), created)).created == created


@pytest.mark.parametrize("status", ["created", "paid", "fulfilled", "canceled", "returned"])
def test_a_legacy_order_is_what_the_ledger_knows_with_todays_mapping(
    account: StripeAccount, reader: Reader, status: str
) -> None:
    lines = (OrderItem("sku_seat", 2), OrderItem("sku_mug", 1), OrderItem("sku_seat", None))
    known = events.Purchase("or_1", status, 17, lines)
    expected = (Item("sku_seat", 2, "5"), Item("sku_mug", 1, None), Item("sku_seat", None, "5"))
    assert reader(prices={"sku_seat": 5}).purchase(known) == Purchase("or_1", status, expected)
    assert account.requests == []  # its API is gone


# ------------------------------------------------------------------ what speaks against a charge


def told(kind: Any, id_: str, charge: str = "ch_1", pays: str | None = "sub_1") -> events.Mark:
    """A mark as the ledger remembers it."""
    return events.Mark(id_, kind, charge, pays, MONTH_LATER)


def of_card(case_type: str) -> Json:
    """What a dispute of a card payment is about."""
    return {"payment_method_details": {"card": {"case_type": case_type}, "type": "card"}}


class TestMark:
    @pytest.fixture
    def charge(self, account: StripeAccount, customer: str, price: str) -> str:
        return str(account.charge_of(subscribed(account, customer, price))["id"])

    @pytest.mark.parametrize(
        ("happen", "kind"),
        [
            (lambda account, charge: account.refund(charge), "refunded"),
            (lambda account, charge: account.refund(charge, status="pending"), "refunded"),
            (lambda account, charge: account.refund(charge, 1), None),
            (lambda account, charge: (account.refund(charge, 1), account.refund(charge)), "refunded"),
            (lambda account, charge: account.fail_refund(account.refund(charge)["id"]), None),
            (lambda account, charge: account.fail_refund(account.refund(charge, status="pending")["id"]), None),
        ],
        ids=["full", "pending", "part", "in parts", "failed", "failed later"],
    )
    def test_is_a_refund_only_while_all_of_the_charge_is_refunded(
        self,
        account: StripeAccount,
        reader: Reader,
        charge: str,
        happen: Callable[[StripeAccount, str], object],
        kind: Any,
    ) -> None:
        happen(account, charge)
        expected = None if kind is None else Mark(charge, kind, "sub_1", MONTH_LATER)
        assert reader().mark(told("refund", charge, charge)) == expected
        assert paths(account) == [f"charges/{charge}"]

    @pytest.mark.parametrize(
        ("opened", "closed", "kind"),
        [
            ("needs_response", None, "disputed"),
            ("warning_needs_response", None, "disputed"),
            ("needs_response", "won", None),
            ("needs_response", "lost", "dispute_lost"),
            ("warning_needs_response", "warning_closed", None),
        ],
    )
    def test_is_a_dispute_until_it_is_won_or_withdrawn(
        self, account: StripeAccount, reader: Reader, charge: str, opened: Any, closed: Any, kind: Any
    ) -> None:
        dispute = account.dispute(charge, status=opened)["id"]
        if closed is not None:
            account.close_dispute(dispute, closed)
        expected = None if kind is None else Mark(dispute, kind, "sub_1", MONTH_LATER)
        assert reader().mark(told("dispute", dispute, charge)) == expected
        assert paths(account) == [f"disputes/{dispute}"]

    @pytest.mark.parametrize(
        ("dispute", "kind"),
        [
            ({"status": "under_review"}, "disputed"),
            ({"status": "warning_under_review"}, "disputed"),
            ({"status": "appeal_needs_response"}, "dispute_lost"),
            ({"status": "new_status"}, "disputed"),
            ({"status": None}, "disputed"),
            ({}, "disputed"),
            # Prevented: the buyer has the money back, or the dispute was blocked.
            ({"status": "prevented", **of_card("resolution")}, "dispute_lost"),
            ({"status": "prevented", **of_card("block")}, None),
            ({"status": "prevented", "payment_method_details": {"card": None}}, None),
            ({"status": "prevented", "payment_method_details": None}, None),
            ({"status": "needs_response", **of_card("resolution")}, "disputed"),
        ],
    )
    def test_is_an_open_dispute_whatever_stripe_may_call_it_one_day(
        self, script: Script, vault: Vault, dispute: Json, kind: Any
    ) -> None:
        script.answer("disputes/du_1", {"id": "du_1", "object": "dispute", **dispute})
        expected = None if kind is None else Mark("du_1", kind, "sub_1", MONTH_LATER)
        assert reading(vault, script.url).mark(told("dispute", "du_1")) == expected

    def test_is_a_fraud_warning_for_good(self, account: StripeAccount, reader: Reader, charge: str) -> None:
        warning = account.fraud_warning(charge)["id"]
        expected = Mark(warning, "fraud_warning", "sub_1", MONTH_LATER)
        assert reader().mark(told("fraud_warning", warning, charge)) == expected
        assert paths(account) == [f"radar/early_fraud_warnings/{warning}"]

    @pytest.mark.parametrize("kind", ["refund", "dispute", "fraud_warning"])
    def test_on_a_charge_for_nothing_of_ours_asks_nothing(
        self, account: StripeAccount, reader: Reader, kind: str
    ) -> None:
        assert reader().mark(told(kind, "du_1", pays=None)) is None
        assert account.requests == []

    @pytest.mark.parametrize("kind", ["refund", "dispute", "fraud_warning"])
    def test_of_another_account_is_incomplete(self, reader: Reader, kind: str) -> None:
        with pytest.raises(BillingIncomplete, match="another account"):
            reader().mark(told(kind, "du_1"))


class TestCharged:
    def test_for_a_subscription_until_the_end_of_the_period_that_it_paid_for(
        self, account: StripeAccount, clock: Clock, reader: Reader, customer: str, price: str
    ) -> None:
        subscription = subscribed(account, customer, price)
        first = account.charge_of(subscription)["id"]
        clock.now = MONTH_LATER
        account.renew(subscription)
        second = account.charge_of(subscription)["id"]
        invoice = account.stored("subscription", subscription)["latest_invoice"]
        seen = reader()
        assert seen.charged(first) == Charged(customer, subscription, MONTH_LATER)
        account.requests.clear()
        assert seen.charged(second) == Charged(customer, subscription, MONTH_LATER + 28 * DAY)
        assert paths(account) == [f"charges/{second}", "checkout/sessions", "invoice_payments", f"invoices/{invoice}"]

    def test_for_a_subscription_that_was_bought_in_checkout(
        self, account: StripeAccount, reader: Reader, price: str
    ) -> None:
        made = account.checkout(EMAIL, price)
        found = reader().charged(account.charge_of(made["id"])["id"])
        assert found == Charged(made["customer"], made["subscription"], MONTH_LATER)

    @pytest.mark.parametrize("guest", [True, False])
    def test_for_a_one_time_purchase_in_checkout(
        self, account: StripeAccount, reader: Reader, customer: str, guest: bool
    ) -> None:
        once = account.create_price(account.create_product("Seat for ever")["id"], 5_000)["id"]
        made = account.checkout(EMAIL, once, mode="payment", customer=None if guest else customer)["id"]
        charge = account.charge_of(made)["id"]
        assert reader().charged(charge) == Charged(None if guest else customer, made)
        assert paths(account) == [f"charges/{charge}", "checkout/sessions"]

    def test_of_another_account_is_incomplete(self, reader: Reader) -> None:
        with pytest.raises(BillingIncomplete, match="another account"):
            reader().charged("ch_unknown")

    def test_of_the_other_mode_is_incomplete(
        self, account: StripeAccount, reader: Reader, customer: str, price: str
    ) -> None:
        charge = account.charge_of(subscribed(account, customer, price))["id"]
        with pytest.raises(BillingIncomplete, match="other mode"):
            reader(livemode=True).charged(charge)

    @pytest.mark.parametrize(
        ("charge", "found", "asked"),
        [
            ({}, Charged(None), []),
            ({"customer": "cus_1"}, Charged("cus_1"), []),
            ({"customer": {"id": "cus_1"}}, Charged("cus_1"), []),
            # Before 2025-03-31.basil a charge named its invoice.
            ({"customer": "cus_1", "invoice": "in_1"}, Charged("cus_1", "sub_1", 9), ["invoices/in_1"]),
            ({"invoice": {"id": "in_1"}}, Charged("cus_9", "sub_1", 9), ["invoices/in_1"]),
            (
                {"customer": "cus_1", "invoice": "in_1", "payment_intent": "pi_1"},
                Charged("cus_1", "sub_1", 9),
                ["checkout/sessions", "invoices/in_1"],
            ),
            (
                {"customer": "cus_1", "payment_intent": {"id": "pi_1"}},
                Charged("cus_1", "sub_1", 9),
                ["checkout/sessions", "invoice_payments", "invoices/in_1"],
            ),
        ],
    )
    def test_is_read_from_whatever_a_charge_has(
        self, script: Script, vault: Vault, charge: Json, found: Charged, asked: list[str]
    ) -> None:
        script.answer("charges/ch_1", {"id": "ch_1", "object": "charge", **charge})
        script.answer("checkout/sessions", page())
        script.answer("invoice_payments", page({"object": "invoice_payment", "invoice": "in_1"}))
        script.answer("invoices/in_1", {**INVOICE, "customer": "cus_9", "subscription": "sub_1"})
        assert reading(vault, script.url).charged("ch_1") == found
        assert script.asked == ["charges/ch_1", *asked]

    @pytest.mark.parametrize(
        ("invoice", "pays", "until"),
        [
            ({"subscription": "sub_1"}, "sub_1", 9),
            ({"subscription": {"id": "sub_1"}}, "sub_1", 9),
            ({"parent": {"subscription_details": {"subscription": "sub_1"}}}, "sub_1", 9),
            ({"parent": {"subscription_details": {"subscription": {"id": "sub_1"}}}}, "sub_1", 9),
            ({"parent": {"subscription_details": {"subscription": "sub_2"}}, "subscription": "sub_1"}, "sub_2", 9),
            # An invoice for something else.
            ({"parent": {"quote_details": {"quote": "qt_1"}, "subscription_details": None}}, None, 9),
            ({"parent": None}, None, 9),
            ({"subscription": "sub_1", "lines": {"object": "list", "data": []}}, "sub_1", None),
            ({"subscription": "sub_1", "lines": None}, "sub_1", None),
            ({"subscription": "sub_1", "lines": {"object": "list", "data": [{"period": None}]}}, "sub_1", None),
        ],
    )
    def test_is_read_from_whatever_an_invoice_has(
        self, script: Script, vault: Vault, invoice: Json, pays: str | None, until: int | None
    ) -> None:
        script.answer("charges/ch_1", {"id": "ch_1", "object": "charge", "customer": "cus_1", "invoice": "in_1"})
        script.answer("invoices/in_1", {**INVOICE, **invoice})
        assert reading(vault, script.url).charged("ch_1") == Charged("cus_1", pays, until)

    @pytest.mark.parametrize(
        ("reason", "amount", "paid", "whole"),
        [
            ("subscription_cycle", 900, 900, True),
            ("subscription_create", 900, 900, True),
            ("subscription_cycle", 901, 900, True),
            ("subscription_cycle", 899, 900, False),  # one of several payments
            ("subscription_update", 900, 900, False),  # a change in between: what was paid before stays paid
            (None, 900, 900, True),
            (None, None, 900, False),
            (None, 900, None, True),
            (None, None, None, True),
        ],
    )
    def test_paid_for_the_period_alone_or_not(
        self, script: Script, vault: Vault, reason: str | None, amount: int | None, paid: int | None, whole: bool
    ) -> None:
        script.answer("charges/ch_1", {"id": "ch_1", "object": "charge", "invoice": "in_1", "amount": amount})
        invoice = {**INVOICE, "subscription": "sub_1", "billing_reason": reason, "amount_paid": paid}
        script.answer("invoices/in_1", invoice)
        assert reading(vault, script.url).charged("ch_1") == Charged(None, "sub_1", 9, whole)

    def test_for_a_change_of_a_subscription_leaves_the_period_paid(
        self, account: StripeAccount, reader: Reader, customer: str, price: str
    ) -> None:
        subscription = subscribed(account, customer, price)
        account.bill(subscription, 100, "paid")
        charge = account.charge_of(subscription)["id"]
        assert reader().charged(charge) == Charged(customer, subscription, MONTH_LATER, whole=False)

    def test_has_more_lines_than_are_in_the_invoice(
        self, account: StripeAccount, reader: Reader, customer: str, price: str
    ) -> None:
        yearly = priced(account, metadata={"dapps": "1"}, recurring={"interval": "year"})
        items = [*({"price": price, "quantity": number} for number in range(1, 12)), {"price": yearly}]
        subscription = account.create_subscription(customer, items=items)["id"]
        found = reader().charged(account.charge_of(subscription)["id"])
        assert found == Charged(customer, subscription, NOW + 365 * DAY)
        assert paths(account)[-1].endswith("/lines")

    @pytest.mark.parametrize(
        ("charge", "session_", "customer"),
        [(None, "cus_1", "cus_1"), (None, {"id": "cus_1"}, "cus_1"), ("cus_2", "cus_1", "cus_2"), (None, None, None)],
    )
    def test_is_the_sessions_customers_when_the_charge_names_none(
        self, script: Script, vault: Vault, charge: str | None, session_: object, customer: str | None
    ) -> None:
        script.answer("charges/ch_1", {"id": "ch_1", "object": "charge", "customer": charge, "payment_intent": "pi_1"})
        script.answer("checkout/sessions", page({"id": "cs_1", "object": "checkout.session", "customer": session_}))
        assert reading(vault, script.url).charged("ch_1") == Charged(customer, "cs_1")

    def test_by_a_payment_that_belongs_to_no_invoice_paid_for_nothing_of_ours(
        self, script: Script, vault: Vault
    ) -> None:
        script.answer("charges/ch_1", {"id": "ch_1", "object": "charge", "customer": "cus_1", "payment_intent": "pi_1"})
        script.answer("checkout/sessions", page())
        script.answer("invoice_payments", page())
        assert reading(vault, script.url).charged("ch_1") == Charged("cus_1")


INVOICE = {
    "id": "in_1",
    "object": "invoice",
    "lines": {"object": "list", "data": [{"period": {"start": 1, "end": end}} for end in (5, 9, 7)]},
}


# ------------------------------------------------------------------ whole lists, a page at a time

SPAN = (NOW - 30 * DAY, NOW + DAY)
LISTS: dict[str, Callable[..., tuple[list[Any], str | None]]] = {
    "subscriptions": lambda seen, after=None: seen.subscriptions_made(*SPAN, after),
    "checkout/sessions": lambda seen, after=None: seen.one_time_sessions(*SPAN, after),
    "events": lambda seen, after=None: seen.events(["invoice.paid"], *SPAN, after, undelivered=False),
}
ROWS: dict[str, Callable[[str], Json]] = {
    "subscriptions": lambda name: {**old_subscription(), "id": name},
    "checkout/sessions": lambda name: {"id": name, "object": "checkout.session", "livemode": False, "mode": "payment"},
    "events": lambda name: {"id": name, "object": "event", "livemode": False},
}


def every(read: Callable[[str | None], tuple[list[Any], str | None]]) -> list[Any]:
    """All pages of a list."""
    rows, after = read(None)
    while after is not None:
        more, after = read(after)
        rows += more
    return rows


@pytest.mark.parametrize("path", LISTS)
class TestPage:
    """What holds for a page of any list."""

    def test_is_asked_for_by_span_a_hundred_rows_and_the_last_row_before(
        self, door: Door, vault: Vault, path: str
    ) -> None:
        asked: list[dict[str, str]] = []

        def app(environ: Json, start_response: Any) -> Any:
            request = Request(environ)
            assert (request.method, request.path) == ("GET", f"/v1/{path}")
            asked.append(request.args.to_dict())
            body = json.dumps(page(ROWS[path]("x_1"), ROWS[path]("x_2"), has_more=len(asked) == 1))
            return Response(body, content_type="application/json")(environ, start_response)

        door.app = app
        seen = reading(vault, door.url)
        assert LISTS[path](seen)[1] == "x_2"
        rows, last = LISTS[path](seen, "x_2")
        assert (len(rows), last) == (2, None)
        span = {"created[gte]": str(SPAN[0]), "created[lt]": str(SPAN[1]), "limit": "100"}
        assert [each.items() >= span.items() for each in asked] == [True, True]
        assert [each.get("starting_after") for each in asked] == [None, "x_2"]

    @pytest.mark.parametrize("has_more", [True, False])
    def test_without_rows_says_that_there_are_none_only_if_there_are_no_more(
        self, script: Script, vault: Vault, path: str, has_more: bool
    ) -> None:
        script.answer(path, page(has_more=has_more))
        seen = reading(vault, script.url)
        if has_more:
            with pytest.raises(StripeUnavailable, match="cannot be read"):
                LISTS[path](seen)
        else:
            assert LISTS[path](seen) == ([], None)

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"object": "list"},
            {"object": "list", "has_more": False},
            {"object": "list", "has_more": False, "data": None},
            {"object": "list", "has_more": False, "data": {}},
            {"object": "list", "data": []},
            {"object": "list", "data": [], "has_more": None},
            {"object": "list", "data": [], "has_more": "false"},
            {"object": "list", "data": [], "has_more": 0},
        ],
    )
    def test_that_is_half_an_answer_is_no_answer(self, script: Script, vault: Vault, path: str, body: Json) -> None:
        """Nobody may take it for "nobody pays"."""
        script.answer(path, body)
        with pytest.raises(StripeUnavailable, match="cannot be read"):
            LISTS[path](reading(vault, script.url))

    @pytest.mark.parametrize(("livemode", "row_is"), [(True, False), (False, True)])
    def test_of_the_other_mode_is_incomplete(
        self, script: Script, vault: Vault, path: str, livemode: bool, row_is: bool
    ) -> None:
        good, bad = ({**ROWS[path](name), "livemode": mode} for name, mode in (("x_1", livemode), ("x_2", row_is)))
        script.answer(path, page(good, bad))
        with pytest.raises(BillingIncomplete, match="x_2 in the other mode"):
            LISTS[path](reading(vault, script.url, livemode=livemode))

    @pytest.mark.parametrize(
        ("status", "name"),
        [(429, StripeThrottled), (500, StripeUnavailable), (401, StripeKeyRejected), (400, StripeRejected)],
    )
    def test_that_stripe_refuses_has_our_name_for_it(
        self, account: StripeAccount, reader: Reader, path: str, status: int, name: type[GatewayError]
    ) -> None:
        account.faults.fail_next(9, status, path)
        with pytest.raises(name) as caught:
            LISTS[path](reader())
        assert type(caught.value) is name


class TestSubscriptionsMade:
    def test_are_all_of_them_with_their_customers_latest_first(
        self, account: StripeAccount, reader: Reader, clock: Clock, price: str
    ) -> None:
        made = []
        for number in range(3):
            buyer = account.create_customer(f"{number}@example.com")["id"]
            made.append((buyer, subscribed(account, buyer, price)))
            clock.now += 1
        account.cancel(made[1][1])
        rows, last = reader().subscriptions_made(*SPAN, None)
        assert [(buyer, each.id) for buyer, each in rows] == made[::-1]
        assert [each.status for _, each in rows] == ["active", "canceled", "active"]
        assert last is None

    def test_are_as_their_customer_shows_them(
        self, account: StripeAccount, reader: Reader, clock: Clock, customer: str, price: str
    ) -> None:
        subscribed(account, customer, price)
        (found,) = reader().subscriptions_made(*SPAN, None)[0]
        assert found == (customer, only_subscription(reader().customer(customer)))

    @pytest.mark.parametrize(
        ("since", "until", "found"), [(NOW, NOW + 1, 1), (NOW + 1, NOW + 2, 0), (NOW - 1, NOW, 0), (NOW, NOW, 0)]
    )
    def test_were_made_from_the_first_moment_on_and_before_the_last(
        self,
        account: StripeAccount,
        reader: Reader,
        customer: str,
        price: str,
        since: int,
        until: int,
        found: int,
    ) -> None:
        subscribed(account, customer, price)
        assert len(reader().subscriptions_made(since, until, None)[0]) == found

    def test_are_each_on_one_page(self, account: StripeAccount, reader: Reader, customer: str, price: str) -> None:
        made = [subscribed(account, customer, price) for _ in range(101)]
        seen = reader()
        account.requests.clear()
        found = [each.id for _, each in every(lambda after: seen.subscriptions_made(*SPAN, after))]
        assert sorted(found) == sorted(made)
        assert paths(account) == ["subscriptions"] * 2

    def test_that_are_made_meanwhile_move_no_page(
        self, account: StripeAccount, reader: Reader, clock: Clock, customer: str, price: str
    ) -> None:
        """They come first, where the list was read already; the next search meets them."""
        made = [subscribed(account, customer, price) for _ in range(101)]
        seen = reader()
        first, after = seen.subscriptions_made(*SPAN, None)
        clock.now += 1
        subscribed(account, customer, price)
        rest, last = seen.subscriptions_made(*SPAN, after)
        assert (sorted(each.id for _, each in first + rest), last) == (sorted(made), None)

    def test_read_a_product_once_for_all_pages_and_again_in_the_next_list(
        self, account: StripeAccount, reader: Reader, customer: str
    ) -> None:
        product = account.create_product("Seats", {"dapps": "2"}, "prod_1")["id"]
        plain = priced(account, product)
        for _ in range(101):
            subscribed(account, customer, plain)
        seen = reader()
        account.requests.clear()
        first = every(lambda after: seen.subscriptions_made(*SPAN, after))
        assert paths(account) == ["subscriptions", "products/prod_1", "subscriptions"]
        assert {each.items[0].dapps for _, each in first} == {"2"}
        account.update_product(product, metadata={"dapps": "3"})
        again = every(lambda after: seen.subscriptions_made(*SPAN, after))
        assert {each.items[0].dapps for _, each in again} == {"3"}

    def test_remember_no_more_products_than_some(
        self,
        account: StripeAccount,
        reader: Reader,
        customer: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Some shops make one for every sale: flat memory, at the price of reading one again."""
        plain = [
            priced(account, account.create_product("Seats", {"dapps": "2"}, f"prod_{n}")["id"]) for n in range(101)
        ]
        for each in plain:
            subscribed(account, customer, each)
        read = {}
        for most in (1000, 100, 99):
            monkeypatch.setattr(billing, "_MANY_PRODUCTS", most)
            seen = reader()
            _, after = seen.subscriptions_made(*SPAN, None)
            account.requests.clear()
            seen.subscriptions_made(*SPAN, after)
            seen.subscriptions_made(*SPAN, after)
            read[most] = sum(path.startswith("products/") for path in paths(account))
        assert read == {1000: 1, 100: 2, 99: 1}

    @pytest.mark.parametrize(
        ("customer", "name"), [("cus_1", "cus_1"), ({"id": "cus_1"}, "cus_1"), (None, ""), ({}, "")]
    )
    def test_may_name_their_customer_in_any_way(
        self, script: Script, vault: Vault, customer: object, name: str
    ) -> None:
        script.answer("subscriptions", page({**old_subscription(), "customer": customer}))
        ((found, _),) = reading(vault, script.url).subscriptions_made(*SPAN, None)[0]
        assert found == name


class TestOneTimeSessions:
    def test_are_the_complete_ones_in_which_something_was_bought_once(
        self, account: StripeAccount, reader: Reader, price: str
    ) -> None:
        product = account.create_product("Seat for ever", {"dapps": "5"})["id"]
        once = str(account.create_price(product, 5_000)["id"])
        paid = account.checkout(EMAIL, once, 2, "payment")["id"]
        unpaid = account.checkout(EMAIL, once, mode="payment", paid=False)["id"]
        account.checkout(EMAIL, price)
        account.create_checkout_session([{"price": once}], "payment")
        account.expire_session(account.create_checkout_session([{"price": once}], "payment")["id"])
        rows, last = reader().one_time_sessions(*SPAN, None)
        assert sorted(each["id"] for each in rows) == sorted([paid, unpaid])
        assert last is None

    def test_are_few_on_a_page_of_many(self, script: Script, vault: Vault) -> None:
        other = {**ROWS["checkout/sessions"]("cs_2"), "mode": "subscription"}
        script.answer("checkout/sessions", page(ROWS["checkout/sessions"]("cs_1"), other, has_more=True))
        rows, last = reading(vault, script.url).one_time_sessions(*SPAN, None)
        assert ([each["id"] for each in rows], last) == (["cs_1"], "cs_2")


class TestEvents:
    def test_are_those_of_the_types_that_were_asked_for(
        self, account: StripeAccount, reader: Reader, customer: str, price: str
    ) -> None:
        subscribed(account, customer, price)
        found, last = reader().events(["invoice.paid", "customer.created"], *SPAN, None, undelivered=False)
        assert sorted(each["type"] for each in found) == ["customer.created", "invoice.paid"]
        assert last is None
        assert all(each["data"]["object"]["livemode"] is False for each in found)

    def test_may_be_asked_for_by_twenty_types(self, reader: Reader) -> None:
        """So many are in one request of a search for missed events."""
        types = sorted(events.SOUGHT_TYPES)[:20]
        assert reader().events(types, *SPAN, None, undelivered=False) == ([], None)
        with pytest.raises(StripeRejected):
            reader().events(sorted(events.SOUGHT_TYPES)[:21], *SPAN, None, undelivered=False)

    @pytest.mark.parametrize("undelivered", [True, False])
    def test_may_be_those_that_no_endpoint_took(self, door: Door, vault: Vault, undelivered: bool) -> None:
        asked: list[dict[str, str]] = []

        def app(environ: Json, start_response: Any) -> Any:
            asked.append(Request(environ).args.to_dict())
            return Response(json.dumps(page()), content_type="application/json")(environ, start_response)

        door.app = app
        reading(vault, door.url).events(["a.b", "c.d"], *SPAN, None, undelivered=undelivered)
        assert asked[0].get("delivery_success") == ("false" if undelivered else None)
        assert (asked[0]["types[0]"], asked[0]["types[1]"]) == ("a.b", "c.d")


class TestFirstMadeAt:
    @pytest.mark.parametrize("sessions", [True, False])
    def test_of_nothing_is_none_and_takes_one_request(
        self, account: StripeAccount, reader: Reader, sessions: bool
    ) -> None:
        assert reader().first_made_at(NOW + 1, sessions=sessions) is None
        assert paths(account) == ["checkout/sessions" if sessions else "subscriptions"]

    @pytest.mark.parametrize("made", [1_293_840_000, 1_300_000_000, NOW - 90 * DAY, NOW - DAY, NOW - 1, NOW])
    def test_is_at_most_a_day_before_the_first_subscription(
        self, account: StripeAccount, reader: Reader, clock: Clock, customer: str, price: str, made: int
    ) -> None:
        clock.now = made
        account.cancel(subscribed(account, customer, price))
        clock.now = NOW
        subscribed(account, customer, price)
        seen = reader()
        account.requests.clear()
        found = seen.first_made_at(NOW + 1)
        assert found is not None
        assert made - DAY <= found <= made
        assert len(account.requests) <= 15

    def test_may_be_that_of_the_first_completed_session(
        self, account: StripeAccount, reader: Reader, clock: Clock, price: str
    ) -> None:
        clock.now = NOW - 50 * DAY
        account.create_checkout_session([{"price": price}], "subscription")
        clock.now = NOW - 9 * DAY
        account.checkout(EMAIL, price)
        clock.now = NOW
        found = reader().first_made_at(NOW, sessions=True)
        assert found is not None
        assert NOW - 10 * DAY <= found <= NOW - 9 * DAY

    def test_that_stripe_does_not_tell_is_an_error(self, account: StripeAccount, reader: Reader) -> None:
        account.faults.fail_next(9, 500, "subscriptions")
        with pytest.raises(StripeUnavailable):
            reader().first_made_at(NOW)


# ------------------------------------------------------------------ when Stripe does not answer, or not as wished

READS: dict[str, Callable[[Billing], object]] = {
    "subscriptions": lambda seen: seen.customer("cus_1"),
    "checkout/sessions/cs_1": lambda seen: seen.purchase(session("cs_1")),
    "charges/ch_1": lambda seen: seen.charged("ch_1"),
    "disputes/du_1": lambda seen: seen.mark(told("dispute", "du_1")),
}


@pytest.mark.parametrize("path", READS)
class TestErrors:
    @pytest.mark.parametrize(
        ("status", "name", "message", "requests"),
        [
            (400, StripeRejected, r"\(400\)", 1),
            (401, StripeKeyRejected, "Secrets Manager", 1),
            (402, StripeUnavailable, "402", 1),
            (403, StripeKeyRejected, "rights", 1),
            (404, StripeRejected, r"\(404\)", 1),
            (409, StripeUnavailable, "409", 2),
            (429, StripeThrottled, "429", 1),
            (500, StripeUnavailable, "500", 2),
            (503, StripeUnavailable, "503", 2),
        ],
    )
    def test_have_our_names(
        self,
        account: StripeAccount,
        reader: Reader,
        path: str,
        status: int,
        name: type[GatewayError],
        message: str,
        requests: int,
    ) -> None:
        account.faults.fail_next(9, status, path)
        with pytest.raises(name, match=message) as caught:
            READS[path](reader())
        assert type(caught.value) is name
        assert len(account.requests) == requests

    @pytest.mark.parametrize(
        ("status", "error", "name"),
        [
            (400, MISSING, BillingIncomplete),
            (404, MISSING, BillingIncomplete),
            (400, {"code": "parameter_invalid", "type": "invalid_request_error"}, StripeRejected),
            (400, {"type": "invalid_request_error"}, StripeRejected),
            (400, {"type": "idempotency_error"}, StripeUnavailable),
            (401, {"type": "invalid_request_error"}, StripeKeyRejected),
            (403, {"type": "invalid_request_error"}, StripeKeyRejected),
            (429, {"type": "invalid_request_error", "code": "rate_limit"}, StripeThrottled),
            (500, {"type": "api_error"}, StripeUnavailable),
        ],
    )
    def test_say_nothing_of_the_request(
        self, script: Script, vault: Vault, path: str, status: int, error: Json, name: type[GatewayError]
    ) -> None:
        text = f"No such customer: 'cus_1', session 'cs_1', charge 'ch_1', dispute 'du_1', {EMAIL}, {KEY}"
        for each in (path, "customers/cus_1"):
            script.answer(each, {"error": {**error, "message": text, "param": "cus_1"}}, status=status)
        with pytest.raises(name) as caught:
            READS[path](reading(vault, script.url))
        assert not any(value in str(caught.value) for value in ("cus_1", "cs_1", "ch_1", "du_1", EMAIL, KEY))
        assert caught.value.__suppress_context__
        assert caught.value.__cause__ is None

    def test_that_pass_at_once_are_not_noticed(self, account: StripeAccount, reader: Reader, path: str) -> None:
        account.faults.fail_next(1, 500, path)
        with pytest.raises(BillingIncomplete):  # the second try is answered: nobody here has these ids
            READS[path](reader())
        assert paths(account)[:2] == [path, path]

    @pytest.mark.parametrize("body", [b"", b"<html>", b'{"object": "list"'])
    @pytest.mark.parametrize("status", [200, 502])
    def test_of_something_else_than_stripe_are_unavailability(
        self, door: Door, vault: Vault, path: str, status: int, body: bytes
    ) -> None:
        door.app = Response(body, status, content_type="text/html")
        with pytest.raises(StripeUnavailable, match=str(status)):
            READS[path](reading(vault, door.url))

    @pytest.mark.parametrize("body", [b"[]", b"null", b'"ok"', b"0"])
    def test_of_no_object_are_unavailability(self, door: Door, vault: Vault, path: str, body: bytes) -> None:
        door.app = Response(body, 200, content_type="application/json")
        with pytest.raises(StripeUnavailable):
            READS[path](reading(vault, door.url))

    def test_of_nobody_there_are_unavailability(self, vault: Vault, path: str) -> None:
        with socket.socket() as taken:  # bound, so nobody else gets it, and not listening
            taken.bind(("127.0.0.1", 0))
            with pytest.raises(StripeUnavailable, match="nothing"):
                READS[path](reading(vault, f"http://127.0.0.1:{taken.getsockname()[1]}"))

    def test_of_silence_are_unavailability(
        self, account: StripeAccount, reader: Reader, monkeypatch: pytest.MonkeyPatch, path: str
    ) -> None:
        monkeypatch.setattr(billing, "_TIMEOUT", (0.05, 0.05))
        account.faults.hang_next(2, 60, path)  # ends with the account
        with pytest.raises(StripeUnavailable, match="nothing"):
            READS[path](reader())


class TestKey:
    def test_that_was_rotated_is_read_again_and_the_call_repeated(
        self, account: StripeAccount, reader: Reader, vault: Vault, customer: str
    ) -> None:
        seen = reader()
        seen.customer(customer)
        account.faults.accept_keys({NEW_KEY})
        vault.text, vault.now = NEW_KEY, vault.now + 60
        account.requests.clear()
        assert seen.customer(customer).email == EMAIL
        assert [request["status"] for request in account.requests] == [401, 200, 200]
        assert vault.calls == 2

    def test_that_was_rotated_within_the_minute_waits_for_the_next_run(
        self, account: StripeAccount, reader: Reader, vault: Vault, customer: str
    ) -> None:
        seen = reader()
        seen.customer(customer)
        account.faults.accept_keys({NEW_KEY})
        vault.text, vault.now = NEW_KEY, vault.now + 59
        with pytest.raises(StripeKeyRejected, match="401"):
            seen.customer(customer)
        vault.now += 1
        assert seen.customer(customer).email == EMAIL

    @pytest.mark.parametrize(
        ("text", "faults", "name", "requests"),
        [
            (KEY, 0, StripeKeyRejected, 1),  # the same again
            ("sk_test_third", 0, StripeKeyRejected, 2),  # another that is as bad
            (NEW_KEY, 429, StripeThrottled, 2),
            (NEW_KEY, 403, StripeKeyRejected, 2),
        ],
    )
    def test_that_is_no_better_is_not_tried_for_ever(
        self,
        account: StripeAccount,
        reader: Reader,
        vault: Vault,
        customer: str,
        text: str,
        faults: int,
        name: type[GatewayError],
        requests: int,
    ) -> None:
        seen = reader()
        seen.customer(customer)
        account.faults.accept_keys({NEW_KEY})
        account.requests.clear()
        vault.text, vault.now = text, vault.now + 60
        if faults:
            account.faults.fail_next(1, 401)
            account.faults.fail_next(1, faults)
        with pytest.raises(name):
            seen.customer(customer)
        assert len(account.requests) == requests

    def test_that_is_missing_is_the_secrets_fault(self, account: StripeAccount, reader: Reader, vault: Vault) -> None:
        vault.text = " "
        with pytest.raises(SecretUnavailable):
            reader().customer("cus_1")
        assert account.requests == []
