"""The people of tests/local/population.py are as the gateway makes them: the same rows, the same users; billing finds
nothing to do for them. And what drifts is what is said to drift.
"""

import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from gateway.ledger import _shard
from tests.e2e.conftest import Gateway
from tests.local.population import (
    KINDS,
    SORTS,
    STRANGERS,
    Person,
    Population,
    counts,
    drift,
    populate,
    snapshot,
    subjects,
    touched,
    wrongs,
)
from tests.local.stripe_billing import DAY

Json = dict[str, Any]


@pytest.fixture(scope="module")
def population(gateway: Gateway) -> Population:
    """Three of each sort."""
    return populate(gateway.stack, gateway.stripe, 0, sorts=dict.fromkeys(SORTS | STRANGERS, 3))


@pytest.fixture
def crowd(gateway: Gateway) -> Population:
    """Two hundred people more."""
    return populate(gateway.stack, gateway.stripe, 200)


# ------------------------------------------------------------------ as the gateway makes them


def _subscribes(gateway: Gateway, made: Person, email: str, **more: Any) -> list[str]:
    """Buys as often as they did, oldest first; the ids of what was bought, then of the customers, newest first."""
    names: list[str] = []
    for quantity in reversed(made.quantities):
        session = gateway.buy(email, quantity, **more)
        names = [session["subscription"], session["customer"], *names]
    return names


def _two(gateway: Gateway, made: Person, email: str) -> list[str]:
    newer, older = made.quantities
    first = gateway.buy(email, older)
    second = gateway.buy(None, newer, customer=first["customer"])
    return [second["subscription"], first["subscription"], first["customer"]]


def _mixed(gateway: Gateway, made: Person, email: str) -> list[str]:
    first = gateway.buy(email, made.units)
    gateway.buy(None, 2, gateway.unmapped, customer=first["customer"])
    return [first["subscription"], first["customer"]]


def _other(gateway: Gateway, made: Person, email: str) -> list[str]:
    return [gateway.buy(email, 1, gateway.unmapped)["customer"]]


def _trialing(gateway: Gateway, made: Person, email: str) -> list[str]:
    return _subscribes(gateway, made, email, trial_days=30)


def _then(change: Callable[[Gateway, str, str], object]) -> Callable[[Gateway, Person, str], list[str]]:
    """Buys, and then this happens to (subscription, address)."""

    def happens(gateway: Gateway, made: Person, email: str) -> list[str]:
        names = _subscribes(gateway, made, email)
        change(gateway, names[0], email)
        gateway.settle()
        return names

    return happens


def _banned(gateway: Gateway, subscription: str, email: str) -> None:
    gateway.ban(email)
    session = gateway.stripe.get("subscription", subscription)
    gateway.send(gateway.event("customer.subscription.updated", session))


def _guest(gateway: Gateway, made: Person, email: str) -> list[str]:
    return [gateway.buy(email, made.units, gateway.one_time_seat, mode="payment")["id"]]


def _comped(gateway: Gateway, made: Person, email: str) -> list[str]:
    gateway.make_user(email, payment_provider="ADMIN", num_dapps="7")
    return _subscribes(gateway, made, email)


def _adopted(gateway: Gateway, made: Person, email: str) -> list[str]:
    gateway.make_user(email, num_dapps="1")
    return _subscribes(gateway, made, email)


REALLY: dict[str, Callable[[Gateway, Person, str], list[str]]] = {
    "active": _subscribes,
    "adopted": _adopted,
    "banned": _then(_banned),
    "canceled": _then(lambda gateway, subscription, _: gateway.stripe.cancel(subscription)),
    "comped": _comped,
    "guest": _guest,
    "held": _then(lambda gateway, _, email: gateway.ask("/hold", email, hold=True, reason="abuse")),
    "mixed": _mixed,
    "other": _other,
    "past_due": _then(lambda gateway, subscription, _: gateway.stripe.fail_payment(subscription)),
    "returning": _subscribes,
    "trialing": _trialing,
    "two": _two,
}
"""How the real gateway makes one like this; returns the ids that are theirs, in a fixed order."""


def _stands(population: Population, email: str, names: list[str]) -> Json:
    """The user and all rows, with ids by their place in `names`, and without moments and the runs' ids."""
    now = snapshot(population)
    users = [each for each in now.users.items() if each[1]["email"] == email]
    assert len(users) <= 1
    sub, user = users[0] if users else ("nobody", {})
    theirs = [row for key, row in now.rows.items() if key[0].partition("#")[2] in {sub, *names}]
    for row in theirs:
        row["parties"] = sorted(row.get("parties", ()), key=names.index)
        if "due" in row:
            assert row["due_at"] == row["recheck_at"] > time.time()
            assert row.pop("due") == _shard(row["sub"])
    user.pop("UserStatus", None)  # whether they have signed in since
    theirs.sort(key=lambda row: ([*names, sub].index(row["pk"].partition("#")[2]), row["sk"]))
    text = json.dumps([user, theirs])
    for place, name in enumerate(names):
        text = text.replace(name, f"<{place}>")
    text = text.replace(sub, "<sub>").replace(email, "<email>")
    text = re.sub(r":(evt|recheck)_\w+", ":<run>", re.sub(r"\b1\d{9}\b", "0", text))
    found: list[Any] = json.loads(text)
    return {"user": found[0], "rows": found[1]}


def _names(person: Person) -> list[str]:
    if person.sort == "returning":
        (newer, older), (first, second) = person.subscriptions, person.parties
        return [newer, second, older, first]
    return [*person.subscriptions, *person.parties]


@pytest.mark.parametrize("sort", SORTS)
def test_a_made_person_is_as_the_gateway_makes_one(gateway: Gateway, population: Population, sort: str) -> None:
    made = population.of(sort)[0]
    email = f"really-{sort.replace('_', '-')}@example.com"
    names = REALLY[sort](gateway, made, email)
    assert _stands(population, made.email, _names(made)) == _stands(population, email, names)


@pytest.mark.parametrize("sort", SORTS)
def test_a_look_at_a_made_person_changes_nothing(gateway: Gateway, population: Population, sort: str) -> None:
    before = snapshot(population)
    for made in population.of(sort)[1:]:
        for party in made.parties:
            if sort == "guest":
                session = gateway.stripe.get("checkout.session", party)
                gateway.send(gateway.event("checkout.session.completed", session))
            else:
                gateway.send(gateway.event("customer.updated", gateway.stripe.get("customer", party)))
    gateway.stack.wait_idle(60)
    assert [run.error for run in gateway.stack.executions() if run.status != "SUCCEEDED"] == []
    after = snapshot(population)
    for row in (*before.rows.values(), *after.rows.values()):
        row.pop("settled_at", None)  # when the run looked, of whom RunDue looks at again
    assert touched(population, before, after) == set()


def test_the_tests_know_every_sort() -> None:
    assert REALLY.keys() == SORTS.keys()


def test_subscriptions_are_up_to_three_years_old_and_in_their_current_period(
    gateway: Gateway, crowd: Population
) -> None:
    now, kept = gateway.stripe.now(), gateway.stripe.objects["subscription"]
    theirs = [each for each in kept.values() if each["customer"] in crowd.subjects]
    ages = [(now - each["created"]) / DAY for each in theirs]
    assert max(ages) < 3 * 366
    assert sum(age > 2 * 365 for age in ages) > len(ages) / 5
    for each in theirs:
        [item] = gateway.stripe.items_of(each["id"])
        assert each["status"] == "canceled" or item["current_period_start"] <= now < item["current_period_end"]
    assert {each["status"] for each in theirs} == {"active", "trialing", "past_due", "canceled"}
    assert len(crowd.of(*SORTS)) == 200


# ------------------------------------------------------------------ drift


def test_drift_is_what_it_is_said_to_be_and_touches_nobody_else(gateway: Gateway, crowd: Population) -> None:
    before, told = snapshot(crowd), len(gateway.stripe.events)
    drifted = drift(crowd, share=0.02)
    assert drifted.keys() == KINDS.keys()
    assert min(counts(drifted).values()) >= 3
    assert counts(drifted).total() == len(subjects(drifted))  # nobody drifts twice
    assert touched(crowd, before, snapshot(crowd)) == subjects(drifted)
    found = [wrong.partition(":")[0] for wrong in wrongs(crowd, drifted)]
    assert found == [f"{kind} of {subject}" for kind, people in drifted.items() for subject in people]
    assert gateway.stripe.wait_delivered(5)
    assert [row for row in gateway.rows("ORDER#") if row.get("party") in crowd.subjects] == []
    events = gateway.stripe.events[told:]
    lost = {_customer(event) for event in events if not gateway.stripe.delivered(event["id"])}
    assert {crowd.subjects[each] for each in lost if each} == drifted["missed_event"].keys()


def test_every_kind_of_drift_is_what_its_name_says(gateway: Gateway, crowd: Population) -> None:
    drifted, now = drift(crowd, share=0.02), snapshot(crowd)
    people = {each.subject: each for each in crowd.people}
    for subject in drifted["orphaned_link"]:
        assert now.users[subject]["custom:stripe_customer_id"] == people[subject].parties[0]
        assert (f"PERSON#{subject}", "PERSON") not in now.rows
        assert (f"PARTY#{people[subject].parties[0]}", "PARTY") not in now.rows
    for subject in drifted["user_deleted"]:
        assert subject not in now.users
        assert now.rows[f"PERSON#{subject}", "PERSON"]["active"]
    for subject in drifted["hold_lost"]:
        assert now.users[subject]["Enabled"]
        assert now.rows[f"PERSON#{subject}", "PERSON"]["held"]["reason"] == "abuse"
    for subject in drifted["access_without_payment"]:
        assert now.users[subject]["Enabled"]
        assert now.subscriptions[people[subject].subscriptions[0]]["status"] == "canceled"
    for subject, expected in drifted["paid_without_access"].items():
        assert subject not in now.users or not now.users[subject]["Enabled"]
        assert now.subscriptions[people[subject].subscriptions[0]]["items"][0]["quantity"] == expected.limit
    for subject, expected in drifted["wrong_limit"].items():
        assert now.users[subject]["Enabled"]
        assert now.users[subject]["custom:num_dapps"] != str(expected.limit)
    assert {people[each].sort for each in drifted["user_deleted"]} == {"active", "guest"}
    assert {people[each].sort for each in drifted["access_without_payment"]} == {"active", "canceled"}
    assert {people[each].sort for each in drifted["paid_without_access"]} == {"active", "newcomer"}


def _customer(event: Json) -> str | None:
    content = event["data"]["object"]
    found: str | None = content["id"] if content["object"] == "customer" else content.get("customer")
    return found


def test_a_look_mends_what_drifted_in_the_pool_and_at_stripe(gateway: Gateway, crowd: Population) -> None:
    told = len(gateway.stripe.events)
    drifted = drift(crowd, share=0.01)
    before = snapshot(crowd)
    people = {each.subject: each for each in crowd.people}
    looked_at = {kind: drifted[kind] for kind in ("access_without_payment", "paid_without_access", "wrong_limit")}
    for subject in subjects(looked_at):
        for party in people[subject].parties:
            gateway.send(gateway.event("customer.updated", gateway.stripe.get("customer", party)))
    gateway.stack.wait_idle(60)
    assert wrongs(crowd, looked_at) == []
    after = snapshot(crowd)
    assert touched(crowd, before, after) == subjects(looked_at)
    gateway.stripe.resend_undelivered(told)
    gateway.settle()
    missed = {"missed_event": drifted["missed_event"]}
    assert wrongs(crowd, missed) == []
    assert touched(crowd, after, snapshot(crowd)) - subjects(missed) == set()
