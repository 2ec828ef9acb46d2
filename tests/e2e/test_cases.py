"""The numbered cases of the access rules, each as a short story on the whole product."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from typing import Any

import pytest

from gateway.events import HANDLED_TYPES
from tests.e2e.conftest import API_KEY, WEBHOOK_SECRET, Gateway, Json, until
from tests.local.stripe_api import StripeApi

HOUR, DAY = 3600, 86_400
GRACE = 72 * HOUR

CHECKOUT, PAID, NOT_PAID = "checkout.session.completed", "invoice.paid", "invoice.payment_failed"
CREATED, UPDATED, DELETED = (f"customer.subscription.{verb}" for verb in ("created", "updated", "deleted"))
ENDED = (False, 0, "CANCELLED")
UNPAID = (False, 0, "FAILED")


def active(limit: int) -> tuple[bool, int, str]:
    """How a user stands who pays for so many dapps."""
    return True, limit, "ACTIVE"


def quietly(gateway: Gateway, change: Callable[..., Json], *what: Any, **how: Any) -> Json:
    """Something happens at Stripe, and nobody hears of it."""
    with gateway.hearing():
        return change(*what, **how)


def sale(gateway: Gateway, email: str, quantity: int = 2, price: str | None = None, **more: Any) -> Json:
    """A Checkout that one event tells of; the session."""
    with gateway.hearing(CHECKOUT):
        return gateway.stripe.checkout(email, price or gateway.seat, quantity, **more)


def hear(gateway: Gateway, kind: str, content: Json) -> Json:
    """One event arrives, and what follows from it happens; its order."""
    event = gateway.event(kind, content)
    assert gateway.send(event).status == 200
    gateway.settle()
    return gateway.order(event["id"])


def people(gateway: Gateway, *customers: str) -> set[str]:
    """The users that these customers are linked to."""
    rows = [row for customer in customers for row in gateway.rows(f"PARTY#{customer}", sk="PARTY")]
    return {row["sub"] for row in rows if "sub" in row}


def states(gateway: Gateway, party: str) -> set[str]:
    """The states that the orders of a customer are in."""
    return {row["state"] for row in gateway.orders(party)}


# ------------------------------------------------------------------ 1, 2: incomplete subscriptions


@pytest.mark.parametrize("first_seen", [CREATED, PAID, UPDATED])
def test_case_01_whichever_event_first_shows_access_makes_the_user(gateway: Gateway, first_seen: str) -> None:
    email = f"one-{first_seen.replace('.', '-')}@example.com"
    customer = quietly(gateway, gateway.stripe.create_customer, email)["id"]
    begun = quietly(gateway, gateway.stripe.create_subscription, customer, gateway.seat, 2, first_payment="awaited")
    assert begun["status"] == "incomplete"
    hear(gateway, CREATED, begun)
    assert gateway.user(email) is None
    paid = quietly(gateway, gateway.stripe.recover_payment, begun["id"])
    # The event may even show what was before: what Stripe says now counts.
    invoice = gateway.stripe.get("invoice", paid["latest_invoice"])
    hear(gateway, first_seen, {PAID: invoice, UPDATED: paid}.get(first_seen, begun))
    assert gateway.access(email) == active(2)


def test_case_02_a_subscription_never_paid_gives_nothing_and_takes_nothing(gateway: Gateway) -> None:
    stripe = gateway.stripe
    customer = stripe.create_customer("two-never@example.com")["id"]
    payer = gateway.subscriber("two-payer@example.com", 3)["customer"]
    former = gateway.subscriber("two-former@example.com", 3)
    with gateway.hearing(DELETED):
        stripe.cancel(former["subscription"])
    for each in (customer, payer, former["customer"]):
        for _ in range(2):  # a fresh one every day
            with gateway.hearing(CREATED):
                never = stripe.create_subscription(each, gateway.seat, 5, first_payment="failed")
        with gateway.hearing(UPDATED):
            stripe.expire_incomplete(never["id"])
    assert gateway.user("two-never@example.com") is None
    assert gateway.access("two-payer@example.com") == active(3)
    assert gateway.access("two-former@example.com") == ENDED
    assert states(gateway, customer) == {"FULFILLED"}


# ------------------------------------------------------------------ 3, 4: grace, and moments nobody announces


def test_case_03_grace_starts_once_and_recovery_restores_the_limit(gateway: Gateway) -> None:
    email, stripe = "three@example.com", gateway.stripe
    bought = gateway.subscriber(email, 3)
    subscription = bought["subscription"]
    older = stripe.get("invoice", stripe.get("subscription", subscription)["latest_invoice"])
    with gateway.hearing(NOT_PAID):
        failed = stripe.fail_payment(subscription)
    gateway.later(bought["customer"], 2 * DAY)
    end = stripe.get("invoice", failed["latest_invoice"])["status_transitions"]["finalized_at"] + GRACE
    assert gateway.access(email) == (True, 3, "LAPSED")
    assert gateway.person(email)["recheck_at"] == end

    hear(gateway, NOT_PAID, older | {"status": "open"})  # late, of an older invoice
    with gateway.hearing(NOT_PAID):
        stripe.fail_payment(subscription)  # a dunning retry
        stripe.renew(subscription)  # the next period is not paid either
        stripe.change_quantity(subscription, 9)
    assert gateway.access(email) == (True, 3, "LAPSED")
    assert gateway.person(email)["recheck_at"] == end

    with gateway.hearing(PAID):
        stripe.recover_payment(subscription)
    assert gateway.access(email) == active(9)
    assert "recheck_at" not in gateway.person(email)


def test_case_04_the_ends_of_grace_of_a_trial_and_of_a_subscription_act_although_stripe_sends_nothing(
    gateway: Gateway,
) -> None:
    stripe = gateway.stripe
    lapsing = gateway.subscriber("four-grace@example.com", 3)
    with gateway.hearing(NOT_PAID):
        stripe.fail_payment(lapsing["subscription"])
    trying = sale(gateway, "four-trial@example.com", 3, trial_days=14)
    leaving = gateway.subscriber("four-leaver@example.com", 3)
    with gateway.hearing(UPDATED):
        stripe.cancel(leaving["subscription"], cancel_at=int(time.time()) + DAY)
    told = len(stripe.events)
    for email, customer, length, now, then in (
        ("four-grace@example.com", lapsing["customer"], GRACE, (True, 3, "LAPSED"), UNPAID),
        # Stripe says that it still runs: an hour later nobody believes it.
        ("four-trial@example.com", trying["customer"], 14 * DAY, active(3), UNPAID),
        ("four-leaver@example.com", leaving["customer"], DAY, active(3), ENDED),
    ):
        gateway.later(customer, length - HOUR)
        assert gateway.access(email) == now
        gateway.later(customer, 2 * HOUR)
        assert gateway.access(email) == then
    assert len(stripe.events) == told


# ------------------------------------------------------------------ 5 to 8: late and misleading events


def test_case_05_an_old_subscription_deleted_after_a_new_one_began(gateway: Gateway) -> None:
    email, stripe = "five@example.com", gateway.stripe
    old = gateway.subscriber(email, 3)
    with gateway.hearing(CREATED):
        stripe.create_subscription(old["customer"], gateway.seat, 5)
    assert gateway.access(email) == active(8)
    with gateway.hearing(DELETED):
        stripe.cancel(old["subscription"])
    assert gateway.access(email) == active(5)


def test_case_06_a_final_invoice_over_nothing_does_not_enable(gateway: Gateway) -> None:
    email, stripe = "six@example.com", gateway.stripe
    subscription = gateway.subscriber(email, 3)["subscription"]
    with gateway.hearing(DELETED, PAID):
        stripe.cancel(subscription)
        final = stripe.bill(subscription, 0)
    assert final["status"] == "paid"
    assert gateway.access(email) == ENDED


def test_case_07_a_late_invoice_paid_on_an_ended_subscription_does_not_enable(gateway: Gateway) -> None:
    email, stripe = "seven@example.com", gateway.stripe
    subscription = gateway.subscriber(email, 3)["subscription"]
    with gateway.hearing(DELETED):
        owed = stripe.fail_payment(subscription)["latest_invoice"]
        stripe.exhaust_dunning(subscription, "canceled")
    assert gateway.access(email) == UNPAID
    with gateway.hearing(PAID):
        assert stripe.pay_invoice(owed)["status"] == "paid"
    assert gateway.access(email) == UNPAID


def test_case_08_an_old_invoice_paid_while_a_newer_draft_keeps_it_unpaid_is_reported(gateway: Gateway) -> None:
    email, stripe = "eight@example.com", gateway.stripe
    subscription = gateway.subscriber(email, 3)["subscription"]
    owed = quietly(gateway, stripe.fail_payment, subscription)["latest_invoice"]
    with gateway.hearing(UPDATED):
        stripe.exhaust_dunning(subscription, "unpaid")
    quietly(gateway, stripe.renew, subscription)
    with gateway.counting("AccessAlarm"), gateway.hearing(PAID):
        assert stripe.pay_invoice(owed)["status"] == "paid"
    assert stripe.get("subscription", subscription)["status"] == "unpaid"
    assert gateway.access(email) == UNPAID
    with gateway.hearing(PAID):
        stripe.recover_payment(subscription)
    assert gateway.access(email) == active(3)


# ------------------------------------------------------------------ 9 to 11: order, concurrency, repetition

PURCHASE = (CREATED, PAID, CHECKOUT, UPDATED)
"""The events of one purchase that start a run; all have the same `created`."""


def test_case_09_every_order_of_one_purchases_events_ends_alike(gateway: Gateway) -> None:
    def purchase(number: int, order: tuple[str, ...]) -> str:
        """A purchase whose events arrive in this order; the customer."""
        session = gateway.stripe.checkout(f"nine-{number}@example.com", gateway.seat, 2)
        told = {each["type"]: each for each in gateway.stripe.events if session["customer"] in str(each["data"])}
        for kind in order:
            assert gateway.send(told[kind]).status == 200
        return str(session["customer"])

    gateway.stripe.auto_deliver = False
    with ThreadPoolExecutor(2) as two_buyers:
        orders = list(permutations(PURCHASE))
        customers = list(two_buyers.map(purchase, range(len(orders)), orders))
    gateway.stack.wait_idle(120)
    rows = gateway.rows("ORDER#")
    for number, (order, customer) in enumerate(zip(orders, customers, strict=True)):
        email = f"nine-{number}@example.com"
        assert gateway.access(email) == active(2), order
        assert len(gateway.mails(email)) == 1, order
        assert gateway.person(email)["parties"] == {customer}, order
        assert [row["state"] for row in rows if row["party"] == customer] == ["FULFILLED"] * len(PURCHASE), order


def test_case_09_events_of_the_same_second_end_at_what_stripe_says(gateway: Gateway) -> None:
    bought = gateway.subscriber("nine-second@example.com", 1)
    changes = [quietly(gateway, gateway.stripe.change_quantity, bought["subscription"], n) for n in (4, 2, 7)]
    now = int(time.time())
    for change in reversed(changes):
        gateway.send(gateway.event(UPDATED, change, created=now))
    gateway.settle()
    assert gateway.access("nine-second@example.com") == active(7)


def test_case_10_concurrent_runs_of_one_person_end_at_stripes_truth(gateway: Gateway) -> None:
    """Proved over every interleaving of reads and writes, with a kill at every point, by
    tests/workflow/test_interleavings.py; here the real functions run side by side."""
    email, stripe = "ten@example.com", gateway.stripe
    first = gateway.subscriber(email, 2)
    second = stripe.checkout(email, gateway.seat, 3)
    stripe.change_quantity(first["subscription"], 5)
    stripe.cancel(second["subscription"])
    stripe.cancel(first["subscription"])
    stripe.create_subscription(first["customer"], gateway.seat, 2)
    back = stripe.create_subscription(second["customer"], gateway.seat, 4)
    gateway.settle()
    assert gateway.access(email) == active(6)
    assert gateway.emails().count(email) == 1
    stripe.delete_customer(first["customer"])
    stripe.change_quantity(back["id"], 9)
    stripe.cancel(back["id"])
    gateway.settle()
    assert gateway.access(email) == ENDED
    assert gateway.open_orders(first["customer"]) == gateway.open_orders(second["customer"]) == []


@pytest.mark.parametrize(
    ("function", "action"),
    [
        ("CreateUserFunction", "AdminCreateUser"),
        ("DisableUserFunction", "AdminUpdateUserAttributes"),
        ("DisableUserFunction", "AdminDisableUser"),
        ("EnableUserFunction", "AdminEnableUser"),
    ],
)
def test_case_10_a_run_killed_right_after_a_write_is_made_good_by_the_next(
    gateway: Gateway, function: str, action: str
) -> None:
    """Every point of death: tests/workflow/test_interleavings.py."""
    email, stripe = f"ten-{function}-{action}@example.com".lower(), gateway.stripe
    customer, event = gateway.undelivered(email, 2)
    if function != "CreateUserFunction":
        gateway.send(event)
        gateway.settle()
        (subscription,) = (each["id"] for each in stripe.all("subscription") if each["customer"] == customer)
        if function == "EnableUserFunction":
            with gateway.hearing(DELETED):
                stripe.cancel(subscription)
            again = quietly(gateway, stripe.create_subscription, customer, gateway.seat, 2)
            event = gateway.event(CREATED, again)
        else:
            event = gateway.event(DELETED, quietly(gateway, stripe.cancel, subscription))
    gateway.stack.faults.add("cognito-idp", "killed", action, function, count=1, applied=True, kill=True)
    gateway.send(event)
    gateway.settle()
    run_what_is_open(gateway, [customer])
    assert gateway.access(email) == (ENDED if function == "DisableUserFunction" else active(2))
    assert states(gateway, customer) == {"FULFILLED"}
    assert len(gateway.mails(email)) == 1


def test_case_11_the_same_purchase_told_in_many_ways_is_one_user_and_one_mail(gateway: Gateway) -> None:
    email, stripe = "eleven@example.com", gateway.stripe
    other = stripe.create_webhook_endpoint(f"{gateway.stack.api}/create", sorted(HANDLED_TYPES), secret=WEBHOOK_SECRET)
    try:
        session = gateway.buy(email, 2)
    finally:
        stripe.delete_webhook_endpoint(other["id"])
    told = [each for each in stripe.events if session["customer"] in str(each["data"]) and each["type"] in PURCHASE]
    for event in told:  # the same again, and as another Event object about the same change
        gateway.send(event)
        gateway.send(gateway.event(event["type"], event["data"]["object"]))
    gateway.settle()
    assert gateway.access(email) == active(2)
    assert gateway.emails().count(email) == 1
    assert len(gateway.mails(email)) == 1
    assert {len(gateway.runs(event["id"])) for event in told} == {1}
    assert {row["attempts"] for row in gateway.orders(session["customer"])} == {1}


# ------------------------------------------------------------------ 12, 13: quantities and items


def test_case_12_quantities_up_and_down_and_items_with_one_unmapped_among_them(gateway: Gateway) -> None:
    email, stripe = "twelve@example.com", gateway.stripe
    subscription = gateway.subscriber(email, 2)["subscription"]
    for quantity in (5, 3):
        with gateway.hearing(UPDATED):
            stripe.change_quantity(subscription, quantity)
        assert gateway.access(email) == active(quantity)
    quietly(gateway, stripe.add_item, subscription, gateway.price({"dapps": "10"}), 2)
    with gateway.hearing(UPDATED):
        stripe.add_item(subscription, gateway.unmapped, 50)
    assert gateway.access(email) == active(23)
    with gateway.hearing(UPDATED):
        stripe.remove_item(subscription, stripe.get("subscription", subscription)["items"]["data"][1]["id"])
    assert gateway.access(email) == active(3)


def test_case_12_a_quantity_that_waits_for_its_payment_counts_when_it_is_paid(gateway: Gateway) -> None:
    email, stripe = "twelve-pending@example.com", gateway.stripe
    subscription = gateway.subscriber(email, 2)["subscription"]
    for paid, limit in ((False, 2), (True, 8)):
        with gateway.hearing(UPDATED):
            stripe.propose_quantity(subscription, 8)
        assert gateway.access(email) == active(2)
        with gateway.hearing(f"customer.subscription.pending_update_{'applied' if paid else 'expired'}"):
            stripe.conclude_update(subscription, paid)
        assert gateway.access(email) == active(limit)


def test_case_13_a_downgrade_lowers_the_limit_and_deletes_nothing(gateway: Gateway) -> None:
    email = "thirteen@example.com"
    subscription = gateway.subscriber(email, 9)["subscription"]
    tokens, before = gateway.sign_in(email), gateway.user(email)
    with gateway.hearing(UPDATED):
        gateway.stripe.change_quantity(subscription, 2)
    after = gateway.user(email)
    assert before is not None
    assert after is not None
    assert (after.sub, after.enabled, after.limit, after.disabled_by) == (before.sub, True, 2, None)
    assert gateway.refresh(tokens)
    assert not [call for call in gateway.stack.calls if call.action.startswith("cognito-idp:AdminDelete")]


# ------------------------------------------------------------------ 14, 15: where Stripe says it


def test_case_14_cancel_at_counts_while_cancel_at_period_end_is_false(gateway: Gateway) -> None:
    email, moment = "fourteen@example.com", int(time.time()) + 20 * DAY
    bought = gateway.subscriber(email, 2)
    with gateway.hearing(UPDATED):
        scheduled = gateway.stripe.cancel(bought["subscription"], cancel_at=moment)
    assert (scheduled["cancel_at"], scheduled["cancel_at_period_end"]) == (moment, False)
    assert gateway.access(email) == active(2)
    assert gateway.person(email)["recheck_at"] == moment
    gateway.later(bought["customer"], 20 * DAY)
    assert gateway.access(email) == ENDED


def as_of_2024(answer: Json) -> Json:
    """An answer of Stripe's before 2025-03-31.basil: the period is the subscription's, the price is a plan."""
    for row in answer.get("data", [answer]):
        match row.get("object"):
            case "subscription":
                items = row["items"]["data"]
                for item in items:
                    del item["price"]
                row |= {name: items[0][name] for name in ("current_period_start", "current_period_end")}
                for item in items:
                    del item["current_period_start"], item["current_period_end"]
                if row["cancel_at_period_end"]:
                    row["cancel_at"] = None
                if isinstance(row["latest_invoice"], dict):
                    as_of_2024(row["latest_invoice"])
            case "invoice":
                parent = row.pop("parent")
                row["subscription"] = parent and parent["subscription_details"]["subscription"]
                for line in row["lines"]["data"]:
                    line["price"] = {"id": line.pop("pricing")["price_details"]["price"], "object": "price"}
    return answer


@pytest.mark.parametrize("shapes", [lambda answer: answer, as_of_2024], ids=["today", "2024"])
def test_case_15_fields_are_read_where_they_are_and_where_they_were(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, shapes: Callable[[Json], Json]
) -> None:
    email, stripe = f"fifteen-{shapes is as_of_2024}@example.com", gateway.stripe
    dispatch = StripeApi._dispatch
    monkeypatch.setattr(StripeApi, "_dispatch", lambda *call: shapes(dispatch(*call)))
    bought = gateway.subscriber(email, 2)
    subscription = stripe.get("subscription", bought["subscription"])
    end = subscription["items"]["data"][0]["current_period_end"]
    ending = quietly(gateway, stripe.cancel, bought["subscription"], at_period_end=True)
    hear(gateway, UPDATED, shapes(ending))
    assert gateway.access(email) == active(2)
    assert gateway.person(email)["recheck_at"] == end
    order = hear(gateway, PAID, shapes(stripe.get("invoice", subscription["latest_invoice"])))
    assert (order["state"], order["items"]) == ("FULFILLED", [{"price": gateway.seat, "quantity": 2}])
    quietly(gateway, stripe.keep, bought["subscription"])
    failed = quietly(gateway, stripe.fail_payment, bought["subscription"])
    hear(gateway, NOT_PAID, shapes(stripe.get("invoice", failed["latest_invoice"])))
    assert gateway.access(email) == (True, 2, "LAPSED")


# ------------------------------------------------------------------ 16 to 18: users that are not billing's


def test_case_16_a_ban_survives_whatever_is_paid(gateway: Gateway) -> None:
    stripe = gateway.stripe

    def pays_more(bought: Json) -> None:
        with gateway.hearing(UPDATED):
            stripe.change_quantity(bought["subscription"], 9)

    def cancels_then_pays(bought: Json) -> None:
        with gateway.hearing(DELETED):
            stripe.cancel(bought["subscription"])
        with gateway.hearing(CREATED):
            stripe.create_subscription(bought["customer"], gateway.seat, 4)

    def recovers_in_grace(bought: Json) -> None:
        with gateway.hearing(PAID):
            stripe.recover_payment(bought["subscription"])

    def buys_as_another_customer(bought: Json) -> None:
        sale(gateway, bought["email"])

    for name, in_grace, pays in (
        ("paying", False, pays_more),
        ("again", False, cancels_then_pays),
        ("grace", True, recovers_in_grace),
        ("another", False, buys_as_another_customer),
    ):
        email = f"sixteen-{name}@example.com"
        bought = gateway.subscriber(email, 3) | {"email": email}
        if in_grace:
            with gateway.hearing(NOT_PAID):
                stripe.fail_payment(bought["subscription"])
        gateway.disable_by_hand(email)
        before = gateway.user(email)
        with gateway.counting("HeldPaying"):
            pays(bought)
        assert gateway.user(email) == before, name


def test_case_16_a_ban_of_somebody_whom_billing_has_disabled_survives_their_payment(gateway: Gateway) -> None:
    email, stripe = "sixteen-lapsed@example.com", gateway.stripe
    bought = gateway.subscriber(email, 3)
    with gateway.hearing(DELETED):
        stripe.cancel(bought["subscription"])
    gateway.ban(email)
    with gateway.counting("HeldPaying"), gateway.hearing(CREATED):
        stripe.create_subscription(bought["customer"], gateway.seat, 4)
    user = gateway.user(email)
    assert user is not None
    assert (user.enabled, user.disabled_by) == (False, "operator")


def test_case_17_a_comped_user_who_subscribes_and_cancels_is_untouched_and_flagged(gateway: Gateway) -> None:
    email = "seventeen@example.com"
    before = gateway.make_user(email, num_dapps="100", payment_status="ACTIVE", payment_provider="ADMIN")
    with gateway.counting("CompedPaying"):
        bought = gateway.subscriber(email, 2)
    with gateway.counting("CompedPaying", 0), gateway.hearing(DELETED):
        gateway.stripe.cancel(bought["subscription"])
    assert gateway.user(email) == before
    assert {row["outcome"] for row in gateway.orders(bought["customer"])} == {"comped"}


@pytest.mark.parametrize("email_change", ["flag", "follow"])
def test_case_18_a_stranger_who_types_somebodys_address_into_checkout_never_harms_them(
    gateway: Gateway, email_change: str
) -> None:
    email, stripe = f"eighteen-{email_change}@example.com", gateway.stripe
    before = gateway.make_user(email, num_dapps="5", payment_status="ACTIVE")
    tokens = gateway.sign_in(email)
    with gateway.stack.deployed_with(EmailChange=email_change):
        stranger = sale(gateway, email)
        assert gateway.access(email) == active(5)
        with gateway.hearing(UPDATED):
            stripe.change_quantity(stranger["subscription"], 8)
        assert gateway.access(email) == active(8)
        with gateway.hearing("customer.updated"):
            stripe.update_customer(stranger["customer"], email=f"stranger-{email_change}@example.net")
        lost = stripe.charge_of(stranger["id"])["id"]
        for kind, happens in (
            (NOT_PAID, lambda: stripe.fail_payment(stranger["subscription"])),
            ("charge.dispute.closed", lambda: stripe.close_dispute(stripe.dispute(lost)["id"], "lost")),
            (UPDATED, lambda: stripe.exhaust_dunning(stranger["subscription"], "unpaid")),
            ("customer.deleted", lambda: stripe.delete_customer(stranger["customer"])),
        ):
            with gateway.hearing(kind):
                happens()
            user = gateway.user(email)
            assert user is not None
            assert (user.enabled, (user.limit or 0) >= 5) == (True, True), kind
    assert gateway.user(email) == before
    assert gateway.user(f"stranger-{email_change}@example.net") is None
    assert gateway.refresh(tokens)


# ------------------------------------------------------------------ 19 to 23: who is who


def test_case_19_a_returning_buyer_with_a_new_customer_is_the_same_person(gateway: Gateway) -> None:
    email = "nineteen@example.com"
    first = gateway.subscriber(email, 3)
    before = gateway.user(email)
    with gateway.hearing(DELETED):
        gateway.stripe.cancel(first["subscription"])
    second = sale(gateway, email)
    after = gateway.user(email)
    assert first["customer"] != second["customer"]
    assert before is not None
    assert after is not None
    assert (after.sub, after.enabled, after.limit, after.status) == (before.sub, *active(2))
    assert gateway.person(email)["parties"] == {first["customer"], second["customer"]}
    assert len(gateway.mails(email)) == 1


def test_case_20_a_user_who_exists_already_is_joined(gateway: Gateway) -> None:
    email = "twenty-exists@example.com"
    user = gateway.make_user(email)
    bought = gateway.subscriber(email, 2)
    assert gateway.access(email) == active(2)
    assert gateway.mails(email) == []
    assert people(gateway, bought["customer"]) == {user.sub}


def test_case_20_a_user_made_between_look_and_creation_is_joined(gateway: Gateway) -> None:
    email = "twenty-race@example.com"
    customer, event = gateway.undelivered(email, 2)
    gateway.stack.faults.add("dynamodb", "ThrottlingException", "PutItem", "CreateUserFunction", count=4)
    gateway.send(event)
    until(lambda: "CreateUser" in gateway.runs(event["id"])[0].states)
    user = gateway.make_user(email)
    gateway.settle()
    assert gateway.order(event["id"])["state"] == "FULFILLED"
    assert people(gateway, customer) == {user.sub}
    assert gateway.access(email) == active(2)


def test_case_20_a_mail_that_is_not_delivered_is_sent_again_an_hour_later_at_most_three_times(
    gateway: Gateway,
) -> None:
    email = "twenty-mail@example.com"
    _, event = gateway.undelivered(email, 2)
    gateway.stack.mail.fail(100)
    with gateway.counting("MailFailed"):
        gateway.send(event)
    assert gateway.order(event["id"])["state"] == "FULFILLED"
    assert gateway.access(email) == active(2)
    for _ in range(3):
        in_an_hour = gateway.person(email)["recheck_at"] - time.time()
        assert HOUR - 60 < in_an_hour <= HOUR
        gateway.run_due()  # not yet
        with gateway.counting("MailFailed"):
            gateway.an_hour_later(email)
    assert "recheck_at" not in gateway.person(email)
    gateway.stack.mail.restore()
    gateway.run_due()
    assert gateway.mails(email) == []


def test_case_20_a_mail_that_leaves_at_the_second_try_is_the_only_one(gateway: Gateway) -> None:
    email = "twenty-second@example.com"
    _, event = gateway.undelivered(email, 2)
    gateway.stack.mail.fail(1)
    gateway.send(event)
    gateway.settle()
    assert gateway.mails(email) == []
    gateway.an_hour_later(email)
    (mail,) = gateway.mails(email)
    assert mail.resend
    assert "recheck_at" not in gateway.person(email)
    assert gateway.sign_in(email)["AccessToken"]


def test_case_20_a_mail_over_the_quota_waits_in_the_queue(gateway: Gateway) -> None:
    email = "twenty-quota@example.com"
    customer, event = gateway.undelivered(email, 2)
    gateway.stack.mail.exhaust(100)
    gateway.send(event)
    gateway.settle()
    order = gateway.order(event["id"])
    assert (order["state"], order["last_error"].partition(":")[0]) == ("UNFULFILLED", "MailLimitReached")
    assert gateway.user(email) is None
    gateway.stack.mail.restore()
    gateway.set_order(event["id"], due_at=int(time.time()))
    gateway.run_due()
    assert gateway.access(email) == active(2)
    assert len(gateway.mails(email)) == 1
    assert states(gateway, customer) == {"FULFILLED"}


def test_case_20_throttling_backs_off_and_succeeds_within_the_run(gateway: Gateway) -> None:
    email = "twenty-throttled@example.com"
    _, event = gateway.undelivered(email, 2)
    fault = gateway.stack.faults.add("cognito-idp", "TooManyRequestsException", "AdminCreateUser", count=4)
    gateway.send(event)
    gateway.settle()
    order = gateway.order(event["id"])
    assert (fault.hits, order["state"], order["attempts"]) == (4, "FULFILLED", 1)
    assert len(gateway.mails(email)) == 1


def test_case_21_an_expired_invitation_is_sent_again_once_per_payment_and_at_most_three_times(
    gateway: Gateway,
) -> None:
    email, stripe = "twenty-one@example.com", gateway.stripe
    subscription = gateway.subscriber(email, 2)["subscription"]
    with gateway.hearing(PAID):
        stripe.renew(subscription)
    assert len(gateway.mails(email)) == 1  # not expired yet
    for before, sent in ((1, 2), (2, 3), (3, 4), (4, 4)):
        gateway.stack.backdate(email, days=8)
        expire_invitation(gateway, email)
        with gateway.hearing(UPDATED):  # an event, and no payment
            stripe.change_quantity(subscription, 2 + sent % 2)
        assert len(gateway.mails(email)) == before
        with gateway.hearing(PAID):
            paid = stripe.renew(subscription)
        expire_invitation(gateway, email)
        hear(gateway, PAID, stripe.get("invoice", paid["latest_invoice"]))  # the same payment again
        assert len(gateway.mails(email)) == sent
    assert [mail.resend for mail in gateway.mails(email)] == [False, True, True, True]
    assert states(gateway, gateway.user(email).customer or "") == {"FULFILLED"}  # type: ignore[union-attr]


def expire_invitation(gateway: Gateway, email: str) -> None:
    """As if the last invitation of which the ledger knows were older than a week, too."""
    person = gateway.person(email)
    if "invitation" in person:
        gateway.set_person(email, invitation=person["invitation"] | {"sent_at": int(time.time()) - 8 * DAY})


def test_case_21_whoever_has_signed_in_gets_no_other_invitation(gateway: Gateway) -> None:
    email = "twenty-one-inside@example.com"
    subscription = gateway.subscriber(email, 2)["subscription"]
    gateway.sign_in(email)
    gateway.stack.backdate(email, days=8)
    with gateway.hearing(PAID):
        gateway.stripe.renew(subscription)
    assert len(gateway.mails(email)) == 1


def test_case_22_an_address_in_another_case_is_the_same_person(gateway: Gateway) -> None:
    first = gateway.subscriber("Twenty-Two@Example.com", 2)["customer"]
    second = sale(gateway, "TWENTY-TWO@example.COM", 3)["customer"]
    assert gateway.access("twenty-two@example.com") == active(5)
    assert len(people(gateway, first, second)) == 1
    assert len(gateway.mails("twenty-two@example.com")) == 1


def test_case_23_metadata_that_names_somebody_elses_user_binds_nothing(gateway: Gateway) -> None:
    victim = gateway.subscriber("twenty-three-victim@example.com", 7)
    before = gateway.user("twenty-three-victim@example.com")
    assert before is not None
    claim = {
        "sub": before.sub,
        "user_id": before.sub,
        "username": before.sub,
        "email": before.email,
        "customer": victim["customer"],
        "custom:stripe_customer_id": victim["customer"],
    }
    session = sale(
        gateway,
        "twenty-three@example.com",
        client_reference_id=before.sub,
        metadata=claim,
        subscription_metadata=claim,
    )
    with gateway.hearing("customer.updated", DELETED):
        gateway.stripe.update_customer(session["customer"], metadata=claim, name=before.sub)
        gateway.stripe.cancel(session["subscription"])
    assert gateway.access("twenty-three@example.com") == ENDED
    assert gateway.user("twenty-three-victim@example.com") == before
    assert len(people(gateway, victim["customer"], session["customer"])) == 2


# ------------------------------------------------------------------ 24: not of this mode, not of this account


@pytest.mark.parametrize(
    ("mode", "envelope", "metric"),
    [
        ("test", {"livemode": True}, "WrongMode"),
        ("live", {"livemode": False}, "WrongMode"),
        ("test", {"account": "acct_another"}, "OtherAccount"),
    ],
)
def test_case_24_events_of_the_other_mode_or_account_are_counted_and_never_applied(
    gateway: Gateway, mode: str, envelope: Json, metric: str
) -> None:
    email = f"twenty-four-{mode}-{metric.lower()}@example.com"
    customer, event = gateway.undelivered(email, 2)
    with gateway.stack.deployed_with(StripeMode=mode), gateway.counting(metric):
        assert gateway.send(event | envelope).status == 200
    assert gateway.orders(customer) == []
    assert gateway.user(email) is None


# ------------------------------------------------------------------ 25: refunds and disputes


def payer(gateway: Gateway, email: str, kind: str) -> Json:
    """Somebody who has paid for two dapps, monthly or once; the session, with the charge."""
    once = {"mode": "payment", "price": gateway.one_time_seat}
    session = sale(gateway, email, **({} if kind == "monthly" else once))
    assert gateway.access(email) == active(2)
    return session | {"charge": gateway.stripe.charge_of(session["id"])["id"]}


@pytest.mark.parametrize("kind", ["monthly", "once"])
def test_case_25_a_refund_in_full_takes_access_away_a_part_does_not_and_a_failed_one_gives_it_back(
    gateway: Gateway, kind: str
) -> None:
    email, stripe = f"twenty-five-refund-{kind}@example.com", gateway.stripe
    paid = payer(gateway, email, kind)
    with gateway.hearing("charge.refunded"):
        stripe.refund(paid["charge"], 300)
    assert gateway.access(email) == active(2)
    with gateway.hearing("refund.created"):
        rest = stripe.refund(paid["charge"])
    assert gateway.access(email) == ENDED
    with gateway.hearing("refund.failed"):
        stripe.fail_refund(rest["id"])
    assert gateway.access(email) == active(2)


def test_case_25_a_refund_ends_with_the_period_that_it_was_paid_for(gateway: Gateway) -> None:
    email, stripe = "twenty-five-renewal@example.com", gateway.stripe
    paid = payer(gateway, email, "monthly")
    with gateway.hearing("charge.refunded"):
        stripe.refund(paid["charge"])
    assert gateway.access(email) == ENDED
    quietly(gateway, stripe.renew, paid["subscription"])
    gateway.later(paid["customer"], 20 * DAY)
    assert gateway.access(email) == ENDED
    gateway.later(paid["customer"], 11 * DAY)
    assert gateway.access(email) == active(2)


@pytest.mark.parametrize("kind", ["monthly", "once"])
def test_case_25_a_dispute_is_flagged_and_only_a_lost_one_takes_access_away(gateway: Gateway, kind: str) -> None:
    email, stripe = f"twenty-five-dispute-{kind}@example.com", gateway.stripe
    charge = payer(gateway, email, kind)["charge"]
    with gateway.counting("AccessAlarm"), gateway.hearing("charge.dispute.created"):
        won = stripe.dispute(charge)["id"]
    assert gateway.access(email) == active(2)
    with gateway.counting("AccessAlarm", 0), gateway.hearing("charge.dispute.funds_reinstated"):
        stripe.close_dispute(won, "won")
    assert gateway.access(email) == active(2)
    with gateway.hearing("charge.dispute.closed"):
        lost = stripe.dispute(charge)["id"]
        stripe.close_dispute(lost, "lost")
    assert gateway.access(email) == UNPAID


def test_case_25_of_two_disputes_at_once_each_counts(gateway: Gateway) -> None:
    email, stripe = "twenty-five-two@example.com", gateway.stripe
    charge = payer(gateway, email, "once")["charge"]
    with gateway.hearing("charge.dispute.closed"):
        first, second = stripe.dispute(charge, 400)["id"], stripe.dispute(charge, 600)["id"]
        stripe.close_dispute(first, "lost")
    assert gateway.access(email) == UNPAID
    with gateway.hearing("charge.dispute.closed"):
        stripe.close_dispute(second, "won")
    assert gateway.access(email) == UNPAID


def test_case_25_while_a_revoking_dispute_is_left_access_stays_away(gateway: Gateway) -> None:
    email, stripe = "twenty-five-strict@example.com", gateway.stripe
    charge = payer(gateway, email, "once")["charge"]
    with gateway.stack.deployed_with(Disputed="revoke"):
        with gateway.hearing("charge.dispute.created"):
            first, second = stripe.dispute(charge, 400)["id"], stripe.dispute(charge, 600)["id"]
        for dispute, expected in ((first, UNPAID), (second, active(2))):
            assert gateway.access(email) == UNPAID
            with gateway.hearing("charge.dispute.closed"):
                stripe.close_dispute(dispute, "won")
            assert gateway.access(email) == expected


@pytest.mark.parametrize(("status", "expected"), [("lost", UNPAID), ("won", active(2))])
def test_case_25_a_dispute_whose_end_is_delivered_before_its_beginning(
    gateway: Gateway, status: Any, expected: tuple[bool, int, str]
) -> None:
    email, stripe = f"twenty-five-{status}@example.com", gateway.stripe
    charge = payer(gateway, email, "once")["charge"]
    dispute = quietly(gateway, stripe.dispute, charge)
    closed = quietly(gateway, stripe.close_dispute, dispute["id"], status)
    hear(gateway, "charge.dispute.closed", closed)
    assert gateway.access(email) == expected
    hear(gateway, "charge.dispute.created", dispute)
    assert gateway.access(email) == expected


def test_case_25_marks_of_a_charge_that_pays_for_nothing_of_ours_touch_nobody(gateway: Gateway) -> None:
    email, stripe = "twenty-five-elsewhere@example.com", gateway.stripe
    bought = gateway.subscriber(email, 2)
    intent = stripe._new_intent(700, "usd", bought["customer"])
    charge = stripe._charge(intent, "succeeded", email)["id"]
    with gateway.hearing("charge.dispute.closed", "radar.early_fraud_warning.created", "charge.refunded"):
        stripe.close_dispute(stripe.dispute(charge)["id"], "lost")
        stripe.fraud_warning(charge)
        stripe.refund(charge)
    assert gateway.access(email) == active(2)
    assert states(gateway, bought["customer"]) == {"FULFILLED"}
    assert {row["state"] for row in gateway.rows("ORDER#", charge=charge)} == {"FULFILLED"}


# ------------------------------------------------------------------ 26: deleted at Stripe


def test_case_26_a_customer_deleted_and_made_again_under_a_new_id(gateway: Gateway) -> None:
    email, stripe = "twenty-six@example.com", gateway.stripe
    first = gateway.subscriber(email, 3)
    once = sale(gateway, email, 4, gateway.one_time_seat, mode="payment", customer=first["customer"])
    assert once["customer"] == first["customer"]
    before = gateway.user(email)
    assert gateway.access(email) == active(7)
    with gateway.hearing("customer.deleted"):
        stripe.delete_customer(first["customer"])
    assert gateway.access(email) == ENDED
    second = gateway.subscriber(email, 2)
    after = gateway.user(email)
    assert before is not None
    assert after is not None
    assert (after.sub, after.enabled, after.limit, after.status) == (before.sub, *active(2))
    assert gateway.person(email)["parties"] == {first["customer"], second["customer"]}


# ------------------------------------------------------------------ 27: something is down

OUTAGES = {
    "stripe-throttles": lambda gateway: gateway.stripe.faults.fail_next(10_000, 429),
    "stripe-fails": lambda gateway: gateway.stripe.faults.outage(),
    **{
        f"{service}-{'throttles' if throttled else 'fails'}": (
            lambda gateway, service=service, code=code: gateway.stack.faults.add(service, code)
        )
        for service, throttled, code in (
            ("cognito-idp", True, "TooManyRequestsException"),
            ("cognito-idp", False, "InternalErrorException"),
            ("dynamodb", True, "ProvisionedThroughputExceededException"),
            ("dynamodb", False, "InternalServerError"),
            ("states", True, "ThrottlingException"),
            ("lambda", False, "ServiceException"),
            ("secretsmanager", False, "InternalServiceError"),
            ("events", False, "InternalException"),
        )
    },
}
"""Ways in which something is down, for longer than all retries of a run. SNS: tests/e2e/test_notices.py."""


@pytest.mark.parametrize("outage", OUTAGES)
def test_case_27_whatever_is_down_nothing_is_lost_and_nothing_doubled(gateway: Gateway, outage: str) -> None:
    """Somebody buys and somebody cancels while it lasts. Which call of which step fails, and how often, is the matter
    of tests/e2e/test_durable.py and tests/workflow."""
    leaver, buyer = f"{outage}-leaver@example.com", f"{outage}-buyer@example.com"
    leaving = gateway.subscriber(leaver, 2)
    customer, bought = gateway.undelivered(buyer, 2)
    ended = gateway.event(DELETED, quietly(gateway, gateway.stripe.cancel, leaving["subscription"]))
    forget_secrets(gateway, outage)
    OUTAGES[outage](gateway)
    refused = [event for event in (bought, ended) if gateway.send(event).status != 200]
    gateway.stack.wait_idle(60)
    gateway.stripe.faults.restore()
    gateway.stack.faults.clear()
    forget_secrets(gateway, outage)

    for event in refused:  # Stripe delivers these again, for three days
        assert gateway.send(event).status == 200
    gateway.settle()
    run_what_is_open(gateway, (customer, leaving["customer"]))
    for email, party, expected in ((buyer, customer, active(2)), (leaver, leaving["customer"], ENDED)):
        assert gateway.access(email) == expected
        assert gateway.open_orders(party) == []
        assert gateway.emails().count(email) == len(gateway.mails(email)) == 1
        user = gateway.user(email)
        assert user is not None
        changes = [event["detail"] for event in gateway.published(user.sub)]
        assert [change["before"] for change in changes[1:]] == [change["after"] for change in changes[:-1]]
        last = changes[-1]["after"]
        assert (last["enabled"], last["dapp_limit"], last["payment_status"]) == expected
    assert gateway.leases() == []


def forget_secrets(gateway: Gateway, outage: str) -> None:
    """Secrets are read by new containers, and minutes later."""
    if outage.startswith("secretsmanager"):
        for function in ("WebhookFunction", "ReadBillingFunction"):
            gateway.replace_containers(function)


def run_what_is_open(gateway: Gateway, customers: Iterable[str]) -> None:
    """RunDue, once the waits of all open orders are over."""
    for customer in customers:
        for row in gateway.open_orders(customer):
            gateway.set_order(row["event_id"], due_at=int(time.time()))
    gateway.expire_leases()
    gateway.run_due()


# ------------------------------------------------------------------ 28: the wrong Stripe


def wrong_key(gateway: Gateway, bought: Json) -> Callable[[], None]:
    """The key was revoked."""
    gateway.stripe.faults.accept_keys({"sk_test_second"})
    return lambda: gateway.stripe.faults.accept_keys({API_KEY})


def another_account(gateway: Gateway, bought: Json) -> Callable[[], None]:
    """To the key's account, the customer does not exist."""
    kept = gateway.stripe.objects["customer"].pop(bought["customer"])
    return lambda: gateway.stripe.objects["customer"].update({bought["customer"]: kept})


def empty_list(gateway: Gateway, bought: Json) -> Callable[[], None]:
    """There is nothing, where there was a subscription."""
    kept = gateway.stripe.objects["subscription"].pop(bought["subscription"])
    return lambda: gateway.stripe.objects["subscription"].update({bought["subscription"]: kept})


@pytest.mark.parametrize("loss", [wrong_key, another_account, empty_list])
def test_case_28_the_wrong_stripe_disables_nobody(
    gateway: Gateway, loss: Callable[[Gateway, Json], Callable[[], None]]
) -> None:
    email = f"twenty-eight-{loss.__name__.replace('_', '-')}@example.com"
    bought = gateway.subscriber(email, 2)
    ended = gateway.stripe.get("subscription", bought["subscription"]) | {"status": "canceled"}
    bring_back = loss(gateway, bought)
    order = hear(gateway, DELETED, ended)
    assert order["state"] == "UNFULFILLED"
    assert order["last_error"].partition(":")[0] in ("StripeKeyRejected", "BillingIncomplete")
    assert gateway.access(email) == active(2)
    bring_back()
    run_what_is_open(gateway, [bought["customer"]])
    assert states(gateway, bought["customer"]) == {"FULFILLED"}
    assert gateway.access(email) == active(2)


# ------------------------------------------------------------------ 29, 30: two addresses, no user


@pytest.mark.parametrize(
    ("service", "action", "function"),
    [
        ("cognito-idp", "AdminGetUser", "LookupUserFunction"),  # the first run waits before it looks for the user
        ("dynamodb", "TransactWriteItems", "CreateUserFunction"),  # … after it has made one, and linked nobody
    ],
)
def test_case_29_two_runs_that_saw_two_addresses_of_one_customer_make_one_user(
    gateway: Gateway, service: str, action: str, function: str
) -> None:
    old, new = f"twenty-nine-{service}@example.com", f"twenty-nine-{service}@example.net"
    customer, event = gateway.undelivered(old, 2)
    code = "TooManyRequestsException" if service == "cognito-idp" else "ThrottlingException"
    fault = gateway.stack.faults.add(service, code, action, function, count=3)
    gateway.send(event)
    until(lambda: fault.hits)
    with gateway.hearing("customer.updated"):
        gateway.stripe.update_customer(customer, email=new)
    assert len({old, new} & set(gateway.emails())) == 1
    assert len(people(gateway, customer)) == 1
    assert len([*gateway.mails(old), *gateway.mails(new)]) == 1
    assert states(gateway, customer) == {"FULFILLED"}


def test_case_30_a_user_deleted_by_hand_is_made_again_by_the_next_payment(gateway: Gateway) -> None:
    email = "thirty@example.com"
    bought = gateway.subscriber(email, 3)
    before = gateway.user(email)
    gateway.delete_by_hand(email)
    with gateway.hearing(PAID):
        gateway.stripe.renew(bought["subscription"])
    after = gateway.user(email)
    assert before is not None
    assert after is not None
    assert after.sub != before.sub
    assert gateway.access(email) == active(3)
    assert people(gateway, bought["customer"]) == {after.sub}
    assert len(gateway.mails(email)) == 2


# ------------------------------------------------------------------ rules that have no number


def test_a_delayed_payment_that_fails_in_the_end_is_written_off_and_ends_access(gateway: Gateway) -> None:
    """Stripe leaves such a subscription active all the while."""
    email, stripe = "delayed@example.com", gateway.stripe
    bought = gateway.subscriber(email, 2)
    invoice = quietly(gateway, stripe.renew, bought["subscription"], delayed=True)["latest_invoice"]
    with gateway.hearing(NOT_PAID):
        stripe.conclude_payment(invoice, succeeded=False)
    assert gateway.access(email) == active(2)
    with gateway.hearing("invoice.marked_uncollectible"):
        stripe.mark_uncollectible(invoice)
    assert stripe.get("subscription", bought["subscription"])["status"] == "active"
    assert gateway.access(email) == UNPAID
    with gateway.hearing(PAID):
        stripe.pay_invoice(invoice)
    assert gateway.access(email) == active(2)


@pytest.mark.parametrize(
    ("behavior", "then"), [("void", ENDED), ("keep_as_draft", active(2)), ("mark_uncollectible", active(2))]
)
def test_a_paused_collection_by_void_lasts_as_long_as_was_paid_and_any_other_as_long_as_it_likes(
    gateway: Gateway, behavior: Any, then: tuple[bool, int, str]
) -> None:
    email, stripe = f"pause-{behavior.replace('_', '-')}@example.com", gateway.stripe
    bought = gateway.subscriber(email, 2)
    with gateway.hearing(UPDATED):
        stripe.pause_collection(bought["subscription"], behavior)
    assert gateway.access(email) == active(2)
    gateway.later(bought["customer"], 31 * DAY)
    with gateway.hearing(UPDATED):
        stripe.renew(bought["subscription"])
    assert gateway.access(email) == then
    with gateway.hearing(UPDATED):
        stripe.pause_collection(bought["subscription"], None)
    quietly(gateway, stripe.renew, bought["subscription"])
    with gateway.hearing(UPDATED):
        stripe.set_metadata(bought["subscription"], {"note": "x"})
    assert gateway.access(email) == active(2)


def test_a_forgotten_mapping_takes_nothing_away_and_alarms(gateway: Gateway) -> None:
    email, stripe = "forgotten@example.com", gateway.stripe
    bought = gateway.subscriber(email, 2)
    with gateway.hearing():
        forgotten = gateway.price({})
    with gateway.counting("AccessAlarm"), gateway.hearing(UPDATED):
        stripe.change_price(bought["subscription"], forgotten)
    assert gateway.access(email) == active(2)
    with gateway.counting("AccessAlarm", 0), gateway.hearing(DELETED):
        stripe.cancel(bought["subscription"])
    assert gateway.access(email) == ENDED


def test_a_metered_price_gives_what_it_declares_and_takes_nothing_away_without(gateway: Gateway) -> None:
    stripe, metered = gateway.stripe, {"usage_type": "metered"}
    declared = gateway.price({"dapps": "5", "dapps_quantity": "3"}, recurring=metered)
    gateway.subscriber("metered@example.com", price=declared)
    assert gateway.access("metered@example.com") == active(15)
    bought = gateway.subscriber("undeclared@example.com", 2)
    quietly(gateway, stripe.change_price, bought["subscription"], gateway.price({"dapps": "5"}, recurring=metered))
    with gateway.counting("AccessAlarm"), gateway.hearing(UPDATED):
        del stripe.items_of(bought["subscription"])[0]["quantity"]
        stripe.set_metadata(bought["subscription"], {"note": "x"})
    assert gateway.access("undeclared@example.com") == active(2)


def test_a_fraud_warning_is_flagged_or_revokes_as_the_operator_wishes(gateway: Gateway) -> None:
    email = "warned@example.com"
    paid = payer(gateway, email, "once")
    with gateway.counting("AccessAlarm"), gateway.hearing("radar.early_fraud_warning.created"):
        gateway.stripe.fraud_warning(paid["charge"])
    assert gateway.access(email) == active(2)
    session = gateway.stripe.get("checkout.session", paid["id"])
    with gateway.stack.deployed_with(FraudWarning="revoke"):
        hear(gateway, CHECKOUT, session)
        assert gateway.access(email) == UNPAID
    hear(gateway, CHECKOUT, session)
    assert gateway.access(email) == active(2)


def test_a_changed_address_is_followed_only_where_it_is_the_payers_alone_and_free(gateway: Gateway) -> None:
    stripe = gateway.stripe

    def moves(bought: Json, email: str) -> None:
        with gateway.hearing("customer.updated"):
            stripe.update_customer(bought["customer"], email=email)

    flagged = gateway.subscriber("stays-put@example.com", 2)
    with gateway.counting("EmailDiffers", None):
        moves(flagged, "elsewhere@example.com")
    assert gateway.user("elsewhere@example.com") is None
    with gateway.stack.deployed_with(EmailChange="follow"):
        bought = gateway.subscriber("old-address@example.com", 2)
        before = gateway.user("old-address@example.com")
        moves(bought, "new-address@example.com")
        after = gateway.user("new-address@example.com")
        assert before is not None
        assert after is not None
        assert (after.sub, gateway.user("old-address@example.com")) == (before.sub, None)
        assert not gateway.verified("new-address@example.com")
        with gateway.counting("EmailConflict", None):
            moves(bought, "stays-put@example.com")
        assert gateway.user("new-address@example.com") == after
        gateway.subscriber("joint-address@example.com", 2)
        moves(sale(gateway, "joint-address@example.com"), "third-address@example.com")
        assert gateway.access("joint-address@example.com") == active(4)
        assert gateway.user("third-address@example.com") is None


def test_a_governed_user_who_existed_before_is_disabled_when_the_payment_ends(gateway: Gateway) -> None:
    email = "governed@example.com"
    gateway.make_user(email, num_dapps="5", payment_status="ACTIVE")
    with gateway.stack.deployed_with(AdoptedUsers="govern"):
        bought = gateway.subscriber(email, 2)
        assert gateway.access(email) == active(2)
        with gateway.hearing(DELETED):
            gateway.stripe.cancel(bought["subscription"])
        assert gateway.access(email) == ENDED
        gateway.subscriber(email, 3)
        assert gateway.access(email) == active(3)
