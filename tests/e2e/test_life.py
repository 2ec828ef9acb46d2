"""What happens at Stripe in a customer's life, and how their user stands then."""

import time
from typing import Literal

import pytest
from botocore.exceptions import ClientError

from tests.e2e.conftest import Gateway, Json, until
from tests.local import stripe_billing
from tests.local.stripe_api import StripeApi

SCHEDULE_SECONDS = 2


def outcomes(gateway: Gateway, party: str) -> set[str]:
    return {row["outcome"] for row in gateway.orders(party)}


# ------------------------------------------------------------------ buying


def test_a_buyer_gets_a_user_one_mail_and_the_limit_they_paid_for(gateway: Gateway) -> None:
    session = gateway.buy("first@example.com", 3)
    user = gateway.user("first@example.com")
    assert user is not None
    assert (user.enabled, user.limit, user.status) == (True, 3, "ACTIVE")
    assert (user.provider, user.customer, user.disabled_by) == ("STRIPE", session["customer"], None)
    assert [mail.to for mail in gateway.stack.outbox].count("first@example.com") == 1
    assert gateway.sign_in("first@example.com")["AccessToken"]
    assert outcomes(gateway, session["customer"]) == {"enabled"}


def test_the_limit_follows_the_quantity_up_and_down(gateway: Gateway) -> None:
    subscription = gateway.subscriber("quantity@example.com", 2)["subscription"]
    for quantity in (7, 4, 0):
        gateway.stripe.change_quantity(subscription, quantity)
        gateway.settle()
        assert gateway.access("quantity@example.com") == (True, quantity, "ACTIVE")


def test_items_are_summed_and_those_without_a_mapping_give_nothing(gateway: Gateway) -> None:
    subscription = gateway.subscriber("items@example.com", 2)["subscription"]
    gateway.stripe.add_item(subscription, gateway.unmapped, 50)
    gateway.stripe.add_item(subscription, gateway.price({"dapps": "10"}), 3)
    gateway.settle()
    assert gateway.access("items@example.com") == (True, 32, "ACTIVE")


def test_whoever_buys_only_something_else_gets_no_user(gateway: Gateway) -> None:
    session = gateway.buy("elsewhere@example.com", 2, gateway.unmapped)
    assert gateway.user("elsewhere@example.com") is None
    assert outcomes(gateway, session["customer"]) == {"left_alone"}


def test_a_mapping_is_found_on_price_product_price_id_and_lookup_key(gateway: Gateway) -> None:
    product = gateway.stripe.create_product("Seats", {"dapps": "5"})["id"]
    for name, price, limit in (
        ("product", gateway.price({}, product=product), 5),
        ("price-first", gateway.price({"dapps": "7"}, product=product), 7),
        ("by-id", gateway.price({}, price_id="price_by_id"), 2),
        ("by-key", gateway.price({}, lookup_key="seats-monthly"), 3),
    ):
        gateway.subscriber(f"{name}@example.com", 2, price)
        assert gateway.access(f"{name}@example.com") == (True, 2 * limit, "ACTIVE"), name


def test_packages_are_rounded_as_the_price_says(gateway: Gateway) -> None:
    price = gateway.price({"dapps": "10"}, transform_quantity={"divide_by": 4, "round": "up"})
    gateway.subscriber("packages@example.com", 9, price)
    assert gateway.access("packages@example.com") == (True, 30, "ACTIVE")


def test_a_renewal_changes_nothing(gateway: Gateway) -> None:
    session = gateway.subscriber("renewal@example.com", 2)
    tokens = gateway.sign_in("renewal@example.com")
    gateway.stripe.renew(session["subscription"])
    gateway.settle()
    assert gateway.access("renewal@example.com") == (True, 2, "ACTIVE")
    assert gateway.refresh(tokens)
    assert all(row["state"] == "FULFILLED" for row in gateway.orders(session["customer"]))


def test_a_guest_who_pays_once_gets_a_user(gateway: Gateway) -> None:
    session = gateway.buy("guest@example.com", 4, gateway.one_time_seat, mode="payment")
    assert session["customer"] is None
    assert gateway.access("guest@example.com") == (True, 4, "ACTIVE")
    gateway.buy("guest@example.com", 2, gateway.one_time_seat, mode="payment")
    assert gateway.access("guest@example.com") == (True, 6, "ACTIVE")


def test_a_delayed_payment_gives_access_when_it_arrives(gateway: Gateway) -> None:
    session = gateway.buy("debit@example.com", 4, gateway.one_time_seat, mode="payment", paid=False)
    assert gateway.user("debit@example.com") is None
    gateway.stripe.async_payment(session["id"])
    gateway.settle()
    assert gateway.access("debit@example.com") == (True, 4, "ACTIVE")


# ------------------------------------------------------------------ leaving and coming back


def test_whoever_cancels_is_disabled_and_really_loses_access(gateway: Gateway) -> None:
    email = "leaver@example.com"
    session = gateway.subscriber(email, 3)
    tokens = gateway.sign_in(email)
    gateway.refresh(tokens)
    gateway.stripe.cancel(session["subscription"])
    gateway.settle()
    user = gateway.user(email)
    assert user is not None
    assert (user.enabled, user.limit, user.status, user.disabled_by) == (False, 0, "CANCELLED", "billing")
    with pytest.raises(ClientError, match="NotAuthorized"):
        gateway.refresh(tokens)
    with pytest.raises(ClientError, match="NotAuthorized"):
        gateway.sign_in(email)
    with pytest.raises(ClientError, match="NotAuthorized"):
        gateway.stack.client("cognito-idp").get_user(AccessToken=tokens["AccessToken"])


def test_a_returning_buyer_is_the_same_person_whatever_the_case_of_the_address(gateway: Gateway) -> None:
    first = gateway.subscriber("returning@example.com", 3)
    before = gateway.user("returning@example.com")
    gateway.sign_in("returning@example.com")
    gateway.stripe.cancel(first["subscription"])
    gateway.settle()
    second = gateway.buy("Returning@Example.COM", 2)
    assert second["customer"] != first["customer"]
    after = gateway.user("returning@example.com")
    assert before is not None
    assert after is not None
    assert (after.sub, after.enabled, after.limit, after.status) == (before.sub, True, 2, "ACTIVE")
    assert (after.disabled_by, after.customer) == (None, first["customer"])
    assert set(gateway.person("returning@example.com")["parties"]) == {first["customer"], second["customer"]}
    assert gateway.sign_in("returning@example.com")["AccessToken"]
    assert [mail.to.lower() for mail in gateway.stack.outbox].count("returning@example.com") == 1


def test_two_subscriptions_are_summed_and_each_takes_only_its_own_away(gateway: Gateway) -> None:
    old = gateway.subscriber("two@example.com", 3)
    gateway.subscriber("two@example.com", 4)
    assert gateway.access("two@example.com") == (True, 7, "ACTIVE")
    gateway.stripe.cancel(old["subscription"])
    gateway.settle()
    assert gateway.access("two@example.com") == (True, 4, "ACTIVE")


def test_a_cancellation_in_the_future_acts_then_although_stripe_sends_nothing(gateway: Gateway) -> None:
    session = gateway.subscriber("later@example.com", 3)
    moment = int(time.time()) + 3
    gateway.stripe.cancel(session["subscription"], cancel_at=moment)
    gateway.settle()
    told = len(gateway.stripe.events)
    until(lambda: gateway.access("later@example.com") == (False, 0, "CANCELLED"))
    assert time.time() >= moment
    assert len(gateway.stripe.events) == told
    gateway.settle()
    (ours,) = [row for row in gateway.orders(session["customer"]) if row["event_type"] == "gateway.recheck"]
    assert (ours["state"], ours["outcome"]) == ("FULFILLED", "disabled")


def test_a_cancellation_taken_back_never_acts(gateway: Gateway) -> None:
    session = gateway.subscriber("stays@example.com", 3)
    gateway.stripe.cancel(session["subscription"], cancel_at=int(time.time()) + 3600)
    gateway.settle()
    assert gateway.person("stays@example.com")["recheck_at"] > time.time()
    gateway.stripe.keep(session["subscription"])
    gateway.settle()
    assert "recheck_at" not in gateway.person("stays@example.com")
    assert gateway.access("stays@example.com") == (True, 3, "ACTIVE")


def test_a_user_deleted_by_hand_is_made_again_by_the_next_payment(gateway: Gateway) -> None:
    session = gateway.subscriber("deleted@example.com", 3)
    gateway.delete_by_hand("deleted@example.com")
    gateway.stripe.renew(session["subscription"])
    gateway.settle()
    assert gateway.access("deleted@example.com") == (True, 3, "ACTIVE")


# ------------------------------------------------------------------ trials and failing payments


def test_a_trial_gives_access_and_its_end_decides(gateway: Gateway) -> None:
    paid = gateway.buy("trial@example.com", 3, trial_days=14)
    assert gateway.access("trial@example.com") == (True, 3, "ACTIVE")
    gateway.stripe.end_trial(paid["subscription"], "paid")
    gateway.settle()
    assert gateway.access("trial@example.com") == (True, 3, "ACTIVE")
    lost = gateway.buy("trial-lost@example.com", 3, trial_days=14)
    gateway.stripe.end_trial(lost["subscription"], "canceled")
    gateway.settle()
    assert gateway.access("trial-lost@example.com") == (False, 0, "FAILED")


def test_in_grace_the_limit_is_kept_and_never_raised(gateway: Gateway) -> None:
    subscription = gateway.subscriber("grace@example.com", 3)["subscription"]
    gateway.stripe.fail_payment(subscription)
    gateway.settle()
    assert gateway.access("grace@example.com") == (True, 3, "LAPSED")
    assert gateway.person("grace@example.com")["recheck_at"] > time.time() + 71 * 3600
    for quantity, limit in ((9, 3), (2, 2)):
        gateway.stripe.change_quantity(subscription, quantity)
        gateway.settle()
        assert gateway.access("grace@example.com") == (True, limit, "LAPSED")
    gateway.stripe.change_quantity(subscription, 9)
    gateway.stripe.recover_payment(subscription)
    gateway.settle()
    assert gateway.access("grace@example.com") == (True, 9, "ACTIVE")


@pytest.mark.parametrize("end", ["unpaid", "canceled"])
def test_whoever_never_pays_is_disabled_and_enabled_again_when_they_do(
    gateway: Gateway, end: Literal["unpaid", "canceled"]
) -> None:
    email = f"{end}@example.com"
    subscription = gateway.subscriber(email, 3)["subscription"]
    gateway.stripe.fail_payment(subscription)
    gateway.stripe.exhaust_dunning(subscription, end)
    gateway.settle()
    assert gateway.access(email) == (False, 0, "FAILED")
    if end == "unpaid":
        gateway.stripe.recover_payment(subscription)
        gateway.settle()
        assert gateway.access(email) == (True, 3, "ACTIVE")


def test_an_incomplete_subscription_never_makes_a_user(gateway: Gateway) -> None:
    customer = gateway.stripe.create_customer("incomplete@example.com")["id"]
    subscription = gateway.stripe.create_subscription(customer, gateway.seat, 3, first_payment="failed")
    gateway.settle()
    assert gateway.user("incomplete@example.com") is None
    gateway.stripe.expire_incomplete(subscription["id"])
    gateway.settle()
    assert gateway.user("incomplete@example.com") is None
    assert outcomes(gateway, customer) == {"left_alone"}
    gateway.stripe.create_subscription(customer, gateway.seat, 2)
    gateway.settle()
    assert gateway.access("incomplete@example.com") == (True, 2, "ACTIVE")


def test_an_incomplete_subscription_takes_nothing_from_a_user(gateway: Gateway) -> None:
    customer = gateway.subscriber("untouched@example.com", 3)["customer"]
    again = gateway.stripe.create_subscription(customer, gateway.seat, 2, first_payment="failed")
    gateway.stripe.expire_incomplete(again["id"])
    gateway.settle()
    assert gateway.access("untouched@example.com") == (True, 3, "ACTIVE")


# ------------------------------------------------------------------ legacy orders


def legacy(email: str, order_id: str, status: str, updated: int, quantity: int = 2) -> Json:
    return {
        "id": order_id,
        "object": "order",
        "amount": 4000,
        "charge": "ch_legacy",
        "currency": "usd",
        "customer": None,
        "email": email,
        "items": [
            {"object": "order_item", "type": "sku", "parent": "sku_seat", "quantity": quantity},
            {"object": "order_item", "type": "tax", "parent": None, "quantity": None},
        ],
        "metadata": {},
        "status": status,
        "updated": updated,
    }


@pytest.mark.parametrize("end", ["canceled", "returned"])
def test_a_legacy_order_gives_access_until_it_is_taken_back(gateway: Gateway, end: str) -> None:
    email, order_id = f"legacy-{end}@example.com", f"or_{end}"
    gateway.send(gateway.event("order.payment_succeeded", legacy(email, order_id, "paid", 1_000)))
    gateway.settle()
    assert gateway.access(email) == (True, 8, "ACTIVE")
    gateway.send(gateway.event("order.updated", legacy(email, order_id, end, 2_000)))
    gateway.settle()
    assert gateway.access(email) == (False, 0, "CANCELLED")


def test_a_legacy_return_takes_the_access_back(gateway: Gateway) -> None:
    email = "legacy-return@example.com"
    gateway.send(gateway.event("order.payment_succeeded", legacy(email, "or_back", "paid", 1_000)))
    gateway.settle()
    assert gateway.access(email) == (True, 8, "ACTIVE")
    gateway.send(
        gateway.event("order_return.created", {"id": "orret_1", "order": "or_back", "amount": 4000, "created": 2_000})
    )
    gateway.settle()
    assert gateway.access(email) == (False, 0, "CANCELLED")


def test_an_older_version_of_a_legacy_order_changes_nothing(gateway: Gateway) -> None:
    email = "legacy-late@example.com"
    gateway.send(gateway.event("order.payment_succeeded", legacy(email, "or_late", "paid", 2_000)))
    gateway.settle()
    gateway.send(gateway.event("order.updated", legacy(email, "or_late", "canceled", 1_000)))
    gateway.settle()
    assert gateway.access(email) == (True, 8, "ACTIVE")
    gateway.send(gateway.event("order.updated", legacy(email, "or_late", "canceled", 3_000)))
    gateway.send(gateway.event("order.payment_succeeded", legacy(email, "or_late", "paid", 2_000, quantity=90)))
    gateway.settle()
    assert gateway.access(email) == (False, 0, "CANCELLED")


# ------------------------------------------------------------------ other people's users


def test_a_strangers_address_never_harms_the_user_who_has_it(gateway: Gateway) -> None:
    email = "owner@example.com"
    before = gateway.make_user(email, num_dapps="5", payment_status="ACTIVE")
    tokens = gateway.sign_in(email)
    stranger = gateway.buy(email, 2)
    assert gateway.access(email) == (True, 5, "ACTIVE")
    gateway.stripe.change_quantity(stranger["subscription"], 8)
    gateway.settle()
    assert gateway.access(email) == (True, 8, "ACTIVE")
    gateway.stripe.fail_payment(stranger["subscription"])
    gateway.stripe.update_customer(stranger["customer"], email="elsewhere@example.net")
    gateway.stripe.cancel(stranger["subscription"])
    gateway.settle()
    assert gateway.user(email) == before
    assert gateway.user("elsewhere@example.net") is None
    assert gateway.refresh(tokens)


def test_whoever_was_disabled_by_hand_stays_disabled_whatever_they_pay(gateway: Gateway) -> None:
    email = "banned@example.com"
    session = gateway.subscriber(email, 3)
    gateway.disable_by_hand(email)
    gateway.stripe.change_quantity(session["subscription"], 9)
    gateway.settle()
    gateway.stripe.cancel(session["subscription"])
    gateway.settle()
    again = gateway.buy(email, 2)
    user = gateway.user(email)
    assert user is not None
    assert (user.enabled, user.disabled_by) == (False, None)
    assert "held" in outcomes(gateway, session["customer"])
    assert outcomes(gateway, again["customer"]) == {"held"}


def test_a_comped_user_is_never_touched(gateway: Gateway) -> None:
    email = "comped@example.com"
    before = gateway.make_user(email, num_dapps="100", payment_status="ACTIVE", payment_provider="ADMIN")
    session = gateway.subscriber(email, 2)
    gateway.stripe.cancel(session["subscription"])
    gateway.settle()
    assert gateway.user(email) == before
    assert outcomes(gateway, session["customer"]) == {"comped"}


# ------------------------------------------------------------------ other shapes of Stripe's answers


def test_a_stripe_that_expands_nothing_is_asked_again(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StripeApi, "_expand", lambda *_: None)
    product = gateway.stripe.create_product("Seats", {"dapps": "5"})["id"]
    gateway.subscriber("bare@example.com", 2, gateway.price({}, product=product))
    assert gateway.access("bare@example.com") == (True, 10, "ACTIVE")


def test_every_page_of_a_subscriptions_items_counts(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stripe_billing, "MAX_ITEMS", 120)
    customer = gateway.stripe.create_customer("pages@example.com")["id"]
    gateway.stripe.create_subscription(customer, items=[{"price": gateway.seat, "quantity": 1}] * 120)
    gateway.settle()
    assert gateway.access("pages@example.com") == (True, 120, "ACTIVE")
