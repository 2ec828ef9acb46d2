"""The tasks of the offboarding machine, and what the fulfillment machine makes of a deletion."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from gateway import events
from gateway.access import Live, User
from gateway.billing import Customer
from gateway.errors import (
    AccountAmbiguous,
    DeletionUnderWay,
    DidNotConverge,
    LedgerRejected,
    NoticeUnavailable,
    PersonBusy,
    StartUnavailable,
    StripeThrottled,
)
from gateway.executions import StateMachine
from gateway.ledger import ATTEMPT_SECONDS, Tombstone
from gateway.notices import Notices
from gateway.people import tombstone_id
from tests.unit import operators
from tests.unit.operators import OFFBOARDING, SILENT, Machine, subscription
from tests.unit.steps import EMAIL, KEY, NOW, Json, Steps, Then

ID = tombstone_id(EMAIL, KEY)
STOOD = {"enabled": True, "dapp_limit": 5, "payment_status": "ACTIVE"}
RUN = {"event_id": "evt_1", "order_id": "in_1", "customer_id": "cus_1"}
Task = Callable[..., Json]


@dataclass
class Stripe(operators.Stripe):
    """Stripe whose subscriptions can be canceled."""

    canceled: list[tuple[str, str]] = field(default_factory=list)

    def cancel(self, subscription_id: str, idempotency_key: str) -> None:
        self._fail()
        self.canceled.append((subscription_id, idempotency_key))
        for name, customer in self.customers.items():
            ended = (
                replace(each, status="canceled") if each.id == subscription_id else each
                for each in customer.subscriptions
            )
            self.customers[name] = replace(customer, subscriptions=tuple(ended))


@dataclass
class Bus:
    """EventBridge with memory."""

    told: list[Json] = field(default_factory=list)
    error: Exception | None = None

    def put_events(self, *, Entries: list[Json]) -> Json:  # noqa: N803
        if self.error is not None:
            raise self.error
        self.told += [json.loads(entry["Detail"]) for entry in Entries]
        return {"FailedEntryCount": 0}


@pytest.fixture
def stripe() -> Stripe:
    return Stripe()


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
def task(steps: Steps, stripe: Stripe, bus: Bus) -> Task:
    """A task's answer in the deletion of EMAIL's account."""

    def answer(state: str, given: Json | None = None, execution: str = f"{ID}-r1", **replaced: Any) -> Json:
        world = {"billing": stripe, "notices": Notices(bus, "company", None, None), **replaced}
        return steps.run(state, {"tombstone": ID, **(given or {})}, execution, **world)

    return answer


def ask(steps: Steps, *parties: str, sub: str | None = None, known: bool = True) -> Tombstone:
    """The deletion is asked for, and it is known what belongs to the account."""
    taken = steps.ledger.begin_deletion(ID, None, int(steps.clock.now), email=EMAIL, sub=sub, requested_by="jo")
    assert taken is not None
    return steps.ledger.join_deletion(ID, frozenset(parties), sub) if known else taken


@pytest.mark.parametrize(
    "state",
    ["WriteTombstone", "FindRemains", "CancelSubscriptions", "DeleteUser", "ErasePersonalData"],
)
def test_an_execution_started_by_hand_deletes_nothing(task: Task, state: str) -> None:
    with pytest.raises(LedgerRejected, match="started by hand"):
        task(state)


class TestWriteTombstone:
    def test_buries_all_that_belongs_to_the_address(self, steps: Steps, stripe: Stripe, task: Task) -> None:
        user = steps.buyer(EMAIL, "cus_1", "cus_2")
        steps.record("evt_guest", order_id="cs_3", customer_id=None)
        stripe.subscribes("cus_4")  # of whom only Stripe has heard
        ask(steps, known=False)
        assert task("WriteTombstone") == {"parties": 4, "user": True}
        found = steps.ledger.deletion(ID)
        assert (found.sub, found.parties) == (user.sub, {"cus_1", "cus_2", "cs_3", "cus_4"})
        assert found.account_known
        assert found.buried
        for name in found.parties:
            party = steps.ledger.party(name)
            assert (party.deleted_at, party.tombstone, party.deleting) == (found.deleted_at, ID, True)
        person = steps.ledger.person(str(user.sub))
        assert person is not None
        assert person.deleted_at == found.deleted_at

    def test_of_guests_alone_needs_no_user(self, steps: Steps, task: Task) -> None:
        steps.record(order_id="cs_3", customer_id=None)
        ask(steps, known=False)
        assert task("WriteTombstone") == {"parties": 1, "user": False}
        assert steps.ledger.party("cs_3").deleting

    def test_stamps_the_moment_until_everything_is_buried(self, steps: Steps, task: Task) -> None:
        """What a failed attempt left standing was still given access to; what it has buried stays as it is."""
        ask(steps, "cs_3")
        for later, moment in ((10, NOW + 10), (20, NOW + 10)):
            steps.clock.now = NOW + later
            task("WriteTombstone")
            assert steps.ledger.deletion(ID).deleted_at == moment

    def test_adds_who_was_linked_to_the_user_meanwhile(self, steps: Steps, task: Task) -> None:
        sub = str(steps.buyer().sub)
        ask(steps, "cus_1", sub=sub)
        steps.ledger.link(["cus_9"], sub, replacing=None)
        assert task("WriteTombstone") == {"parties": 2, "user": True}
        assert steps.ledger.party("cus_9").deleting

    def test_leaves_a_party_alive_that_is_another_users_by_now(self, steps: Steps, task: Task) -> None:
        """Only what it bought before goes."""
        sub = str(steps.buyer().sub)
        ask(steps, "cus_1", "cus_9", sub=sub)
        steps.ledger.link(["cus_9"], "u-other", replacing=None)
        task("WriteTombstone")
        party = steps.ledger.party("cus_9")
        assert (party.deleted_at, party.deleting, party.sub) == (steps.ledger.deletion(ID).deleted_at, False, "u-other")

    def test_of_what_turned_up_late_asks_for_no_account(self, steps: Steps, stripe: Stripe, task: Task) -> None:
        done = ask(steps, "cus_1")
        assert steps.ledger.close_deletion(ID, frozenset({"cus_1"}), NOW)
        assert steps.ledger.retry_deletion(replace(done, state="DONE"), NOW) is not None
        stripe.error = StripeThrottled("not to be asked")
        assert task("WriteTombstone") == {"parties": 1, "user": False}

    def test_without_address_and_account_buries_nothing(self, steps: Steps, task: Task) -> None:
        ask(steps, known=False)
        assert steps.ledger.close_deletion(ID, frozenset(), NOW)  # forgets the address
        assert task("WriteTombstone") == {"parties": 0, "user": False}

    def test_of_an_ambiguous_address_buries_nobody(self, steps: Steps, task: Task) -> None:
        steps.buyer("new@example.com")
        steps.ledger.note_party("cus_1", email=EMAIL, subscribed=True)
        ask(steps, known=False)
        with pytest.raises(AccountAmbiguous):
            task("WriteTombstone")
        assert steps.ledger.party("cus_1").deleted_at is None

    @pytest.mark.parametrize("subject", [ID, "sub", "cs_3"])
    def test_waits_for_whoever_is_writing(self, steps: Steps, task: Task, subject: str) -> None:
        sub = str(steps.buyer().sub)
        ask(steps, "cus_1", "cs_3", sub=sub)
        steps.ledger.acquire(sub if subject == "sub" else subject, "another", int(steps.clock.now))
        with pytest.raises(PersonBusy):
            task("WriteTombstone")
        assert steps.ledger.deletion(ID).buried is False


class TestFindRemains:
    def test_counts_its_looks_and_ends_after_ten(self, steps: Steps, task: Task) -> None:
        ask(steps)
        answer = {"parties": [], "cancel": False, "user": False, "personal": False, "renewed": []}
        assert task("FindRemains") == answer | {"pass": 1}
        assert task("FindRemains", {"remains": {"pass": 9}}) == answer | {"pass": 10}
        with pytest.raises(DidNotConverge, match="10 looks"):
            task("FindRemains", {"remains": {"pass": 10}})

    def test_sees_what_is_left(self, steps: Steps, stripe: Stripe, task: Task) -> None:
        sub = str(steps.buyer().sub)
        now = int(steps.clock.now)
        stripe.subscribes("cus_1", subscription(created=now), subscription("sub_2", created=now + 1))
        ask(steps, "cus_1", sub=sub)
        expected = {"pass": 1, "parties": ["cus_1"], "cancel": True, "user": True, "personal": True}
        assert task("FindRemains") == expected | {"renewed": ["cus_1"]}


class TestCancelSubscriptions:
    def test_ends_what_was_bought_before_and_counts(self, steps: Steps, stripe: Stripe, task: Task) -> None:
        later = subscription("sub_3", created=NOW + 1)
        stripe.subscribes("cus_1", subscription(created=NOW), later, operators.OTHER_PRODUCT)
        stripe.subscribes("cus_2", subscription("sub_2", created=NOW))
        ask(steps, "cus_1", "cus_2", "cs_3")
        assert task("CancelSubscriptions") == {"canceled": 2}
        assert stripe.canceled == [(each, f"{ID}-{each}") for each in ("sub_1", "sub_2")]
        assert steps.ledger.deletion(ID).canceled == 2
        assert task("CancelSubscriptions") == {"canceled": 0}

    def test_that_fails_keeps_what_it_has_canceled(self, steps: Steps, stripe: Stripe, task: Task) -> None:
        stripe.subscribes("cus_1", subscription(created=NOW), subscription("sub_2", created=NOW))
        ask(steps, "cus_1")

        def fail() -> None:
            stripe.error = StripeThrottled("429")

        with pytest.raises(StripeThrottled):
            task("CancelSubscriptions", ledger=Then(steps.ledger, "count_canceled", fail))
        assert steps.ledger.deletion(ID).canceled == 1


class TestDeleteUser:
    def test_tells_others_and_deletes(self, steps: Steps, task: Task, bus: Bus) -> None:
        sub = str(steps.buyer().sub)
        steps.ledger.told(sub, STOOD, 1)
        ask(steps, "cus_1", sub=sub)
        assert task("DeleteUser") == {"deleted": True}
        assert steps.users.get(sub) is None
        notice = {"id": f"{sub}-2", "sub": sub, "before": STOOD, "after": None, "at": int(steps.clock.now)}
        assert bus.told == [notice | {"customer": None, "reason": "the account was deleted", "event_id": None}]

    def test_of_nobody_is_nothing(self, steps: Steps, task: Task, bus: Bus) -> None:
        ask(steps)
        assert (task("DeleteUser"), bus.told) == ({"deleted": False}, [])

    def test_who_is_gone_already_is_nothing(self, steps: Steps, task: Task, bus: Bus) -> None:
        ask(steps, sub="u-gone")
        assert (task("DeleteUser"), bus.told) == ({"deleted": False}, [])

    def test_of_whom_the_ledger_knows_nothing_tells_nothing(self, steps: Steps, task: Task, bus: Bus) -> None:
        sub, _ = steps.users.create(EMAIL, dapp_limit=0, payment_status="", customer_id=None)
        ask(steps, sub=sub)
        assert (task("DeleteUser"), bus.told, steps.users.get(sub)) == ({"deleted": True}, [], None)

    def test_leaves_the_user_disabled_when_nobody_can_be_told(self, steps: Steps, task: Task, bus: Bus) -> None:
        sub = str(steps.buyer().sub)
        steps.ledger.told(sub, STOOD, 1)
        ask(steps, "cus_1", sub=sub)
        bus.error = SILENT
        with pytest.raises(NoticeUnavailable):
            task("DeleteUser")
        assert steps.seen(sub).enabled is False
        bus.error = None
        task("DeleteUser")
        assert [(each["id"], each["after"]) for each in bus.told] == [(f"{sub}-2", None)]

    @pytest.mark.parametrize("before", [None, {"enabled": True, "dapp_limit": 2, "payment_status": "VIP"}])
    def test_is_told_once_whenever_it_is_killed(self, steps: Steps, task: Task, bus: Bus, before: Json | None) -> None:
        sub, _ = steps.users.create(EMAIL, dapp_limit=5, payment_status="ACTIVE", customer_id=None)
        steps.ledger.link(["cus_1"], sub, replacing=None, before=before)
        steps.ledger.told(sub, STOOD, 1)
        ask(steps, "cus_1", sub=sub)

        def killed() -> None:
            raise StripeThrottled("the Lambda ends here")

        with pytest.raises(StripeThrottled):
            task("DeleteUser", ledger=Then(steps.ledger, "told", killed))
        assert task("DeleteUser") == {"deleted": True}
        assert [each["id"] for each in bus.told] == [f"{sub}-2"]

    def test_waits_for_whoever_is_writing(self, steps: Steps, task: Task) -> None:
        sub = str(steps.buyer().sub)
        ask(steps, sub=sub)
        steps.ledger.acquire(sub, "another", int(steps.clock.now))
        with pytest.raises(PersonBusy):
            task("DeleteUser")
        assert steps.seen(sub).enabled


class TestErasePersonalData:
    def test_leaves_nothing_that_names_somebody(self, steps: Steps, task: Task) -> None:
        sub = str(steps.buyer().sub)
        steps.ledger.set_live(sub, Live(True, 200), NOW)
        for number in range(101):
            assert steps.ledger.reserve_dapp(sub, f"PatPayer-{number}", NOW)
        steps.record(name="Pat Payer", metadata={"a": "b"})
        bought = replace(events.recheck("u", "cus_1", NOW, livemode=False), email=EMAIL)
        steps.ledger.remember_purchase(replace(bought, purchase=events.Purchase("cs_1", "session", 0, ())))
        ask(steps, "cus_1", sub=sub, known=False)
        task("WriteTombstone")
        assert task("ErasePersonalData") == {"orders": 1}
        rows = steps.dynamodb.scan(TableName="orders", ConsistentRead=True)["Items"]
        kept = [row for row in rows if not row["pk"]["S"].startswith("TOMBSTONE#")]
        assert not any(word in json.dumps(kept) for word in (EMAIL, "Pat Payer", "PatPayer"))
        assert steps.ledger.party("cus_1").tombstone == ID
        person = steps.ledger.person(sub)
        assert person is not None
        assert person.erased
        assert (
            task("FindRemains", billing=Stripe(customers={"cus_1": Customer("cus_1", EMAIL, True, ())}))["personal"]
            is False
        )

    def test_spares_a_customer_who_is_linked_to_another_user_by_now(self, steps: Steps, task: Task) -> None:
        sub = str(steps.buyer().sub)
        ask(steps, "cus_1", sub="u-gone")
        steps.ledger.bury("cus_1", NOW, ID, deleting=True)
        task("ErasePersonalData")
        known = steps.ledger.party("cus_1")
        assert (known.sub, known.email, known.deleting) == (sub, EMAIL, False)

    def test_leaves_who_bought_again_alone(self, steps: Steps, task: Task) -> None:
        ask(steps, "cus_1")
        steps.ledger.bury("cus_1", NOW, ID, deleting=False)
        steps.ledger.note_party("cus_1", email=EMAIL, subscribed=True, deleted_at=NOW)
        steps.record(at=NOW + 3_600)
        assert task("ErasePersonalData") == {"orders": 0}
        assert (steps.ledger.party("cus_1").email, steps.order()["email"]) == (EMAIL, EMAIL)


class TestMarks:
    """How a deletion ends."""

    def test_deleted_forgets_the_address(
        self, steps: Steps, task: Task, counted: Callable[[], dict[str, float]]
    ) -> None:
        ask(steps, "cus_1")
        assert task("MarkDeleted", {"remains": {"parties": ["cus_1"], "renewed": []}}) == {"deleted": True}
        found = steps.ledger.deletion(ID)
        assert (found.state, found.email, counted()) == ("DONE", None, {"AccountDeleted": 1})

    def test_deleted_looks_again_when_more_has_turned_up(
        self, steps: Steps, task: Task, counted: Callable[[], dict[str, float]]
    ) -> None:
        ask(steps, "cus_1", "cus_2")
        assert task("MarkDeleted", {"remains": {"parties": ["cus_1"], "renewed": []}}) == {"deleted": False}
        assert (steps.ledger.deletion(ID).state, counted()) == ("RUNNING", {"AccountDeleted": 0})

    def test_deleted_has_everybody_looked_at_who_bought_again(self, steps: Steps, task: Task) -> None:
        ask(steps, "cus_1", "cus_2")
        for _ in range(2):  # a repetition of the task makes no other orders
            task("MarkDeleted", {"remains": {"parties": ["cus_1", "cus_2"], "renewed": ["cus_1", "cus_2"]}})
        orders = {name: list(steps.ledger.open_orders(name, NOW + 1)) for name in ("cus_1", "cus_2")}
        assert orders == {"cus_1": [f"recheck_{ID}0_{NOW}"], "cus_2": [f"recheck_{ID}1_{NOW}"]}
        assert len(f"recheck_{ID}99_{NOW}-r14") <= 80

    def test_not_deleted_keeps_why(
        self, steps: Steps, task: Task, counted: Callable[[], dict[str, float]], lines: list[str]
    ) -> None:
        ask(steps, "cus_1")
        cause = json.dumps({"errorMessage": "429", "errorType": "StripeThrottled"})
        assert task("MarkNotDeleted", {"error": {"Error": "StripeThrottled", "Cause": cause}}) == {}
        found = steps.ledger.deletion(ID)
        assert (found.state, found.last_error, found.email) == ("FAILED", "StripeThrottled: 429", EMAIL)
        assert counted() == {"DeletionFailed": 1}
        assert any('"ERROR"' in line and "StripeThrottled: 429" in line for line in lines)


class TestResumeDeletion:
    """Something turned up that was bought before an account was deleted."""

    @pytest.fixture
    def machine(self) -> Machine:
        return Machine()

    @pytest.fixture
    def resume(self, steps: Steps, machine: Machine) -> Task:
        def answer(*left_over: str, **replaced: Any) -> Json:
            world = {"offboarding": StateMachine(machine, OFFBOARDING), **replaced}
            return steps.run("ResumeDeletion", steps.state(left_over=list(left_over)), **world)

        return answer

    def test_starts_the_deletion_again_with_it(self, steps: Steps, machine: Machine, resume: Task) -> None:
        ask(steps, "cus_1")
        assert steps.ledger.close_deletion(ID, frozenset({"cus_1"}), NOW)
        steps.ledger.bury("cus_2", NOW, ID, deleting=False)
        assert resume("cus_2") == {"started": 1}
        found = steps.ledger.deletion(ID)
        assert (found.state, found.attempts, found.parties) == ("RUNNING", 2, {"cus_1", "cus_2"})
        assert machine.executions == {f"{ID}-r2": {"tombstone": ID}}

    @pytest.mark.parametrize(("age", "name"), [(0, "r1"), (ATTEMPT_SECONDS - 1, "r1"), (ATTEMPT_SECONDS, "r2")])
    def test_adds_it_to_one_that_is_under_way(
        self, steps: Steps, machine: Machine, resume: Task, age: int, name: str
    ) -> None:
        ask(steps, "cus_1")
        steps.ledger.bury("cus_2", NOW, ID, deleting=False)
        steps.clock.now = NOW + age
        assert resume("cus_2") == {"started": 1}
        assert machine.calls == [f"{ID}-{name}"]
        assert steps.ledger.deletion(ID).parties == {"cus_1", "cus_2"}

    def test_of_a_party_that_no_deletion_knows_starts_nothing(self, machine: Machine, resume: Task) -> None:
        assert (resume("cus_2"), machine.calls) == ({"started": 0}, [])

    def test_that_another_one_takes_starts_nothing(self, steps: Steps, machine: Machine, resume: Task) -> None:
        done = ask(steps, "cus_1")
        assert steps.ledger.close_deletion(ID, frozenset({"cus_1"}), NOW)
        steps.ledger.bury("cus_2", NOW, ID, deleting=False)

        def first() -> None:
            assert steps.ledger.retry_deletion(done, NOW) is not None

        assert resume("cus_2", ledger=Then(steps.ledger, "join_late", first)) == {"started": 0}
        assert machine.calls == []

    def test_that_does_not_start_fails_the_run(self, steps: Steps, machine: Machine, resume: Task) -> None:
        ask(steps, "cus_1")
        steps.ledger.bury("cus_1", NOW, ID, deleting=False)
        machine.errors.append(SILENT)
        with pytest.raises(StartUnavailable):
            resume("cus_1")


class TestFulfillment:
    """What the other machine makes of it."""

    def read(self, steps: Steps, stripe: Stripe) -> Json:
        return steps.run("ReadBilling", RUN, billing=stripe)

    def test_reads_nothing_of_what_was_bought_before(self, steps: Steps, stripe: Stripe) -> None:
        stripe.subscribes("cus_1", subscription(status="canceled", created=NOW - 9))
        steps.ledger.bury("cus_1", NOW, ID, deleting=False)
        found = self.read(steps, stripe)
        assert (found["deleted_at"], found["erased"], found["resume"]) == (NOW, True, False)
        assert (found["access"]["wanted"], found["access"]["units"]) == (None, {})
        assert steps.ledger.party("cus_1").email is None  # what Stripe still tells is not kept

    def test_finds_what_is_still_billed(self, steps: Steps, stripe: Stripe) -> None:
        stripe.subscribes("cus_1", subscription(created=NOW))
        steps.ledger.bury("cus_1", NOW, ID, deleting=False)
        found = self.read(steps, stripe)
        assert (found["left_over"], found["resume"], found["erased"]) == (["cus_1"], True, True)

    def test_counts_what_was_bought_since(self, steps: Steps, stripe: Stripe) -> None:
        stripe.subscribes("cus_1", subscription(created=NOW + 1))
        steps.ledger.bury("cus_1", NOW, ID, deleting=False)
        found = self.read(steps, stripe)
        assert (found["access"]["units"], found["erased"], found["deleted_at"]) == ({"sub_1": 5}, False, NOW)
        assert steps.ledger.party("cus_1").email == EMAIL

    @pytest.mark.parametrize(
        ("created", "party_at", "erased"), [(NOW, NOW, True), (NOW - 9, NOW, True), (NOW + 1, None, False)]
    )
    def test_buries_a_customer_of_the_deleted_address_of_whom_nobody_knew(
        self, steps: Steps, stripe: Stripe, created: int, party_at: int | None, erased: bool
    ) -> None:
        ask(steps)
        stripe.subscribes("cus_1", subscription(created=created))
        found = self.read(steps, stripe)
        party = steps.ledger.party("cus_1")
        assert (found["deleted_at"], found["erased"], found["resume"]) == (NOW, erased, erased)
        assert (party.deleted_at, party.tombstone) == (party_at, ID if erased else None)
        assert party.deleting is False

    def test_does_not_bury_who_is_linked_to_a_user(self, steps: Steps, stripe: Stripe) -> None:
        ask(steps)
        steps.ledger.link(["cus_1"], "u-1", replacing=None)
        stripe.subscribes("cus_1", subscription(created=NOW - 9))
        found = self.read(steps, stripe)
        assert (found["deleted_at"], found["access"]["units"]) == (None, {"sub_1": 5})

    def test_keeps_the_later_of_two_deletions(self, steps: Steps, stripe: Stripe) -> None:
        ask(steps)
        steps.ledger.bury("cus_1", NOW + 5, "another", deleting=False)
        stripe.subscribes("cus_1", subscription(created=NOW + 1))
        assert self.read(steps, stripe)["deleted_at"] == NOW + 5

    def test_waits_for_the_deletion_before_it_gives_access(self, steps: Steps) -> None:
        steps.ledger.bury("cus_1", NOW, ID, deleting=True)
        with pytest.raises(DeletionUnderWay):
            steps.run("LookupUser", steps.state())
        assert steps.run("LookupUser", steps.state(access={"wanted": None}))["user"]["exists"] is False

    def test_waits_for_the_deletion_of_the_user_that_the_address_leads_to(self, steps: Steps) -> None:
        sub = str(steps.buyer().sub)
        steps.ledger.bury_person(sub, NOW)
        with pytest.raises(DeletionUnderWay):
            steps.run("LookupUser", steps.state())

    @pytest.mark.parametrize("known", [None, NOW])
    def test_creates_no_user_for_an_address_that_is_deleted_meanwhile(self, steps: Steps, known: int | None) -> None:
        steps.ledger.note_party("cus_1", email=EMAIL, subscribed=True)
        ask(steps)
        answer = steps.run("CreateUser", steps.state(User(exists=False), deleted_at=known))
        assert (answer["after"] is None) is (known is None)
        assert (steps.users.find(EMAIL) is None) is (known is None)

    def test_creates_no_user_while_a_deletion_holds_the_address(self, steps: Steps) -> None:
        steps.ledger.note_party("cus_1", email=EMAIL, subscribed=True)
        steps.ledger.acquire(ID, "a deletion", NOW)
        with pytest.raises(PersonBusy):
            steps.run("CreateUser", steps.state(User(exists=False)))
        assert steps.users.find(EMAIL) is None

    @pytest.mark.parametrize(
        "state", ["SetDappLimit", "DisableUser", "EnableUser", "LinkUser", "ChangeEmail", "ResendInvitation"]
    )
    def test_writes_to_nobody_who_was_deleted_since_it_read(self, steps: Steps, state: str) -> None:
        user = steps.buyer()
        steps.ledger.bury("cus_1", int(steps.clock.now), ID, deleting=True)
        before = steps.seen(str(user.sub))
        steps.run(state, steps.state(user, access={"dapp_limit": 9}))
        assert steps.seen(str(user.sub)) == before

    def test_closes_the_orders_of_a_deleted_account_without_a_name(self, steps: Steps, bus: Bus) -> None:
        bought = replace(events.recheck("u", "cus_1", NOW, livemode=False), email=EMAIL)
        steps.ledger.remember_purchase(replace(bought, purchase=events.Purchase("cs_1", "session", 0, ())))
        steps.record()
        given = steps.state(User(exists=False), access={"wanted": None}, deleted_at=NOW, erased=True)
        answer = steps.run("MarkFulfilled", given, notices=Notices(bus, "company", None, None))
        assert (answer["outcome"], bus.told) == ("deleted", [])
        assert "email" not in steps.order()
        assert steps.ledger.party("cus_1").email is None

    @pytest.mark.parametrize(
        ("linked", "deleting", "kept"), [(False, False, False), (True, False, True), (False, True, True)]
    )
    def test_forgets_an_address_that_a_run_without_knowledge_of_the_deletion_has_learnt(
        self, steps: Steps, bus: Bus, linked: bool, deleting: bool, kept: bool
    ) -> None:
        """That of a linked one is known for good reason; what is being deleted is erased by the deletion."""
        steps.ledger.claim_email("cus_1", EMAIL)
        if linked:
            steps.ledger.link(["cus_1"], "u-1", replacing=None)
        if deleting:
            steps.ledger.bury("cus_1", NOW, ID, deleting=True)
        steps.record()
        given = steps.state(User(exists=False), access={"wanted": None}, deleted_at=NOW, erased=True)
        steps.run("MarkFulfilled", given, notices=Notices(bus, "company", None, None))
        assert steps.ledger.party("cus_1").claimed_email == (EMAIL if kept else None)

    def test_tells_and_settles_nothing_of_a_person_who_is_being_deleted(self, steps: Steps, bus: Bus) -> None:
        user = steps.buyer()
        steps.record()
        steps.ledger.bury_person(str(user.sub), NOW)
        steps.run("MarkFulfilled", steps.state(user), notices=Notices(bus, "company", None, None))
        assert bus.told == []

    def test_tells_nothing_of_a_person_whose_deletion_begins_meanwhile(self, steps: Steps, bus: Bus) -> None:
        user = steps.buyer()
        steps.record()
        deletion = Then(steps.ledger, "settle", lambda: steps.ledger.bury_person(str(user.sub), NOW))
        steps.run("MarkFulfilled", steps.state(user), ledger=deletion, notices=Notices(bus, "company", None, None))
        assert bus.told == []
