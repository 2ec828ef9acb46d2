"""Others are told when somebody's access changes, once, and operators when Stripe says what they should know."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.conftest import BUS, TOPIC, Gateway, Json
from tests.e2e.test_cases import DELETED, UPDATED, quietly, run_what_is_open

PAYING = {"enabled": True, "dapp_limit": 2, "payment_status": "ACTIVE"}
RAISED = {"enabled": True, "dapp_limit": 5, "payment_status": "ACTIVE"}
CANCELLED = {"enabled": False, "dapp_limit": 0, "payment_status": "CANCELLED"}


def told(gateway: Gateway, email: str, **bus: str) -> list[Json]:
    """The details of all events about the user of this address, oldest first."""
    user = gateway.user(email)
    assert user is not None
    return [event["detail"] for event in gateway.published(user.sub, **bus)]


def changes(gateway: Gateway, email: str, **bus: str) -> list[tuple[Json | None, Json]]:
    """What they say: before and after."""
    return [(detail["before"], detail["after"]) for detail in told(gateway, email, **bus)]


# ------------------------------------------------------------------ once for every change


def test_a_whole_purchase_is_one_event_that_says_what_changed_and_why(gateway: Gateway) -> None:
    email = "told@example.com"
    session = gateway.buy(email, 2)
    user = gateway.user(email)
    assert user is not None
    (event,) = gateway.published(user.sub)
    assert (event["source"], event["detail-type"]) == ("stripe-cognito-gateway", "Access Changed")
    detail = event["detail"]
    orders = {row["event_id"]: row for row in gateway.orders(session["customer"])}
    assert {name: detail[name] for name in ("sub", "customer", "before", "after", "reason")} == {
        "sub": user.sub,
        "customer": session["customer"],
        "before": None,
        "after": PAYING,
        "reason": f"{session['subscription']} active",
    }
    assert abs(detail["at"] - orders[detail["event_id"]]["fulfilled_at"]) <= 5
    assert "@" not in json.dumps(event)


def test_a_doubled_event_a_renewal_and_a_recheck_are_told_nobody(gateway: Gateway) -> None:
    email = "quiet@example.com"
    bought = gateway.subscriber(email, 2)
    event = gateway.event(UPDATED, gateway.stripe.get("subscription", bought["subscription"]))
    for _ in range(2):
        gateway.send(event)
    gateway.settle()
    gateway.stripe.renew(bought["subscription"])
    gateway.settle()
    assert changes(gateway, email) == [(None, PAYING)]


def test_every_change_is_told_with_what_was_before(gateway: Gateway) -> None:
    email, stripe = "chain@example.com", gateway.stripe
    bought = gateway.subscriber(email, 2)
    with gateway.hearing(UPDATED):
        stripe.change_quantity(bought["subscription"], 5)
    with gateway.hearing(DELETED):
        stripe.cancel(bought["subscription"])
    gateway.subscriber(email, 2)
    assert changes(gateway, email) == [(None, PAYING), (PAYING, RAISED), (RAISED, CANCELLED), (CANCELLED, PAYING)]
    assert len({detail["event_id"] for detail in told(gateway, email)}) == 4


def test_a_guests_change_names_no_customer(gateway: Gateway) -> None:
    gateway.buy("told-guest@example.com", 2, gateway.one_time_seat, mode="payment")
    (detail,) = told(gateway, "told-guest@example.com")
    assert (detail["customer"], detail["after"]) == (None, PAYING)


def test_an_adopted_users_change_says_what_they_had(gateway: Gateway) -> None:
    email = "told-adopted@example.com"
    gateway.make_user(email, num_dapps="1", payment_status="ACTIVE")
    bought = gateway.subscriber(email, 2)
    with gateway.hearing(DELETED):
        gateway.stripe.cancel(bought["subscription"])
    had = PAYING | {"dapp_limit": 1}
    assert changes(gateway, email) == [(had, PAYING), (PAYING, had)]


def test_nothing_is_told_of_whoever_is_not_billings_business(gateway: Gateway) -> None:
    gateway.make_user("told-comped@example.com", num_dapps="100", payment_provider="ADMIN")
    before = len(gateway.published())
    gateway.subscriber("told-comped@example.com", 2)
    gateway.subscriber("told-elsewhere@example.com", 2, gateway.unmapped)
    assert len(gateway.published()) == before


# ------------------------------------------------------------------ to whom, and with the address or not


@pytest.fixture
def loudly(gateway: Gateway) -> Iterator[None]:
    """Deployed with the address in events, a bus of the company's own, and a topic of the older contract."""
    with gateway.stack.deployed_with(EmailInEvents="true", EventBusName=BUS, PaymentStatusTopicArn=TOPIC):
        yield


def test_events_can_go_to_another_bus_with_the_address_and_to_a_topic(gateway: Gateway, loudly: None) -> None:
    email = "loud@example.com"
    bought = gateway.subscriber(email, 2)
    with gateway.hearing(DELETED):
        gateway.stripe.cancel(bought["subscription"])
    assert told(gateway, email) == []
    assert [(each["email"], each["after"]) for each in told(gateway, email, bus=BUS)] == [
        (email, PAYING),
        (email, CANCELLED),
    ]
    assert gateway.messages(email) == [
        {"event": "PAYMENT_STATUS", "status": "ACTIVE", "email": email},
        {"event": "PAYMENT_STATUS", "status": "CANCELLED", "email": email},
    ]


# ------------------------------------------------------------------ while nobody can be told


def bus_fails(gateway: Gateway) -> None:
    gateway.stack.faults.add("events", "InternalException")


def bus_throttles(gateway: Gateway) -> None:
    gateway.stack.faults.add("events", "ThrottlingException")


def bus_refuses_entries(gateway: Gateway) -> None:
    gateway.stack.faults.add("events", "InternalFailure", status=200)


def topic_fails(gateway: Gateway) -> None:
    gateway.stack.faults.add("sns", "InternalError", status=500)


def topic_throttles(gateway: Gateway) -> None:
    gateway.stack.faults.add("sns", "Throttling", status=429)


@pytest.mark.parametrize("outage", [bus_fails, bus_throttles, bus_refuses_entries, topic_fails, topic_throttles])
def test_while_nobody_can_be_told_access_is_right_and_the_order_stays_open(
    gateway: Gateway, loudly: None, outage: Callable[[Gateway], None]
) -> None:
    email = f"{outage.__name__.replace('_', '-')}@example.com"
    customer, event = gateway.undelivered(email, 2)
    outage(gateway)
    gateway.send(event)
    gateway.settle()
    assert gateway.access(email) == (True, 2, "ACTIVE")
    order = gateway.order(event["id"])
    assert order["state"] == "UNFULFILLED"
    assert order["last_error"].partition(":")[0] in ("NoticeUnavailable", "NoticeThrottled")
    gateway.stack.faults.clear()
    run_what_is_open(gateway, [customer])
    assert gateway.order(event["id"])["state"] == "FULFILLED"
    assert gateway.messages(email) == [{"event": "PAYMENT_STATUS", "status": "ACTIVE", "email": email}]
    first, *again = told(gateway, email, bus=BUS)
    assert (first["before"], first["after"]) == (None, PAYING)
    # While it is the topic that is down the event may be repeated, which its id tells.
    assert {each["id"] for each in again} <= {first["id"]}
    assert again == [] or outage in (topic_fails, topic_throttles)


def test_what_waits_is_told_as_it_was_and_what_came_after_it_as_it_stands_in_the_end(gateway: Gateway) -> None:
    """A change on its way may have arrived already, so it is never taken back; the chain has no gap."""
    email = "meanwhile@example.com"
    bought = gateway.subscriber(email, 2)
    bus_fails(gateway)
    for quantity in (5, 7):
        with gateway.hearing(UPDATED):
            gateway.stripe.change_quantity(bought["subscription"], quantity)
    with gateway.hearing(DELETED):
        gateway.stripe.cancel(bought["subscription"])
    assert gateway.access(email) == (False, 0, "CANCELLED")
    assert changes(gateway, email) == [(None, PAYING)]
    gateway.stack.faults.clear()
    run_what_is_open(gateway, [bought["customer"]])
    assert changes(gateway, email) == [(None, PAYING), (PAYING, RAISED), (RAISED, CANCELLED)]
    assert gateway.open_orders(bought["customer"]) == []


def test_a_run_that_dies_after_telling_tells_the_same_thing_again(gateway: Gateway) -> None:
    """EventBridge promises no more either: whoever must not act twice looks at the id."""
    email = "repeated@example.com"
    customer, event = gateway.undelivered(email, 2)
    gateway.stack.faults.add("events", "killed", count=1, applied=True, kill=True)
    gateway.send(event)
    gateway.settle()
    run_what_is_open(gateway, [customer])
    first, *again = told(gateway, email)
    assert (first["before"], first["after"]) == (None, PAYING)
    assert {each["id"] for each in again} <= {first["id"]}
    assert gateway.open_orders(customer) == []


# ------------------------------------------------------------------ what an operator should know


def runs(gateway: Gateway) -> int:
    return len(gateway.stack.executions())


def test_a_notice_of_stripes_is_counted_and_starts_nothing(gateway: Gateway) -> None:
    stripe = gateway.stripe
    session = gateway.buy("noticed@example.com", 2, trial_days=14)
    orders, before = gateway.orders(session["customer"]), runs(gateway)
    for kind, happens in (
        ("customer.subscription.trial_will_end", lambda: stripe.trial_will_end(session["subscription"])),
        ("invoice.payment_action_required", lambda: stripe.require_action(session["invoice"])),
        ("invoice.upcoming", lambda: stripe.upcoming_invoice(session["subscription"])),
    ):
        with gateway.counting("StripeNotice"), gateway.hearing(kind):
            happens()
    with gateway.counting("FinalizationFailed"), gateway.hearing("invoice.finalization_failed"):
        stripe.fail_finalization(session["subscription"])
    assert (gateway.orders(session["customer"]), runs(gateway)) == (orders, before)


def test_a_changed_mapping_is_counted_and_nothing_else_of_the_catalogue_is(gateway: Gateway) -> None:
    stripe, before = gateway.stripe, runs(gateway)
    with gateway.hearing():
        product = stripe.create_product("Places")["id"]
        price = gateway.price({"dapps": "1"}, product=product)

    def change(**what: Any) -> Callable[[], Json]:
        return lambda: stripe.update_price(price, **what)

    for mapped, kind, happens in (
        (True, "price.updated", change(metadata={"dapps": "2"})),
        (False, "price.updated", change(metadata={"dapps": "2", "note": "x"})),
        (False, "price.updated", change(nickname="Place")),
        (True, "price.updated", change(lookup_key="places")),
        (True, "price.updated", change(metadata={})),
        (False, "product.updated", lambda: stripe.update_product(product, name="Spaces")),
        (True, "product.updated", lambda: stripe.update_product(product, metadata={"dapps": "3"})),
        (False, "product.created", lambda: stripe.create_product("Support")),
        (True, "price.created", lambda: {"id": gateway.price({"dapps": "9"}, product=product)}),
        (False, "price.deleted", lambda: stripe.delete_price(gateway.price({}, product=product))),
    ):
        with gateway.counting("MappingChanged", int(mapped)), gateway.hearing(kind):
            happens()
    assert runs(gateway) == before


def test_events_of_no_interest_are_counted_by_their_type(gateway: Gateway) -> None:
    before = runs(gateway)
    customer = quietly(gateway, gateway.stripe.create_customer, "ignored@example.com")
    with gateway.counting("IgnoredEvent", event_type="customer.created"):
        assert gateway.send(gateway.event("customer.created", customer)).status == 200
    with gateway.counting("IgnoredEvent", 0, event_type="customer.created"):
        assert gateway.send(gateway.event("balance.available", {"object": "balance"})).status == 200
    assert runs(gateway) == before
