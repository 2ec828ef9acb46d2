"""mark_fulfilled.handler: what is told of a change, what is kept of the access, and which orders are done."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from gateway.access import MAX_INVITATIONS, Invitation, User
from gateway.errors import NoticeRejected, NoticeUnavailable, PersonBusy
from gateway.ledger import CLOCK_SKEW, Person
from gateway.notices import Notices
from tests.unit.steps import ARN, EMAIL, NOW, Json, Steps, Then, module

STOOD = {"enabled": True, "dapp_limit": 5, "payment_status": "ACTIVE"}
ADOPTED = {"enabled": True, "dapp_limit": 2, "payment_status": "VIP"}
TOPIC = "arn:aws:sns:us-east-1:123456789012:payment-status"
Mark = Callable[..., Json]
Counted = Callable[[], dict[str, float]]


@dataclass
class Company:
    """Who is told: the event bus and the topic, in the order of what they got."""

    told: list[Json] = field(default_factory=list)
    error: Exception | None = None

    def put_events(self, *, Entries: list[Json]) -> Json:  # noqa: N803
        if self.error is not None:
            raise self.error
        self.told += [json.loads(entry["Detail"]) for entry in Entries]
        return {"FailedEntryCount": 0}

    def publish(self, *, TopicArn: str, Message: str) -> None:  # noqa: N803
        assert TopicArn == TOPIC
        self.told.append(json.loads(Message))


@pytest.fixture
def company() -> Company:
    return Company()


@pytest.fixture
def mark(steps: Steps, company: Company) -> Mark:
    """MarkFulfilled's answer to a run over a user; keywords in capitals are settings."""

    def answer(user: User, **given: Any) -> Json:
        replaced = {name: given.pop(name) for name in list(given) if name.isupper() or name in ("ledger", "users")}
        notices = Notices(company, "company", company, replaced.get("TOPIC"))
        if not steps.order():
            steps.record()
        return steps.run("MarkFulfilled", steps.state(user, **given), notices=notices, **replaced)

    return answer


@pytest.fixture
def user(steps: Steps) -> User:
    """A new buyer, who signed in; nobody was told of them."""
    user = steps.buyer()
    steps.sign_in(str(user.sub))
    return replace(user, invited=False)


@pytest.fixture
def known(steps: Steps, user: User) -> User:
    """The same, and everybody was told."""
    steps.ledger.told(str(user.sub), STOOD, 1)
    return user


def person(steps: Steps, user: User) -> Person:
    found = steps.ledger.person(str(user.sub))
    assert found is not None
    return found


# ------------------------------------------------------------------ what is told


class TestTelling:
    def test_is_one_event_for_a_new_user(self, steps: Steps, mark: Mark, user: User, company: Company) -> None:
        assert mark(user) == {"outcome": "enabled", "closed": 1}
        assert company.told == [
            {
                "id": f"{user.sub}-1",
                "sub": user.sub,
                "customer": "cus_1",
                "before": None,
                "after": STOOD,
                "reason": "sub_1 active",
                "event_id": "evt_1",
                "at": steps.clock.now,
            }
        ]
        assert (person(steps, user).told, person(steps, user).tellings) == (STOOD, 1)

    def test_is_done_once(self, mark: Mark, user: User, company: Company) -> None:
        for _ in range(3):
            mark(user)
        assert len(company.told) == 1

    def test_of_a_change_names_how_it_was_told_before(
        self, steps: Steps, mark: Mark, known: User, company: Company
    ) -> None:
        """However many steps it took, and whoever took them."""
        for limit in (7, 9):
            steps.users.update(str(known.sub), dapp_limit=limit)
        mark(replace(known, dapp_limit=9))
        (told,) = company.told
        after = {**STOOD, "dapp_limit": 9}
        assert (told["id"], told["before"], told["after"]) == (f"{known.sub}-2", STOOD, after)

    def test_of_a_guests_purchase_names_no_customer(
        self, steps: Steps, mark: Mark, user: User, company: Company
    ) -> None:
        mark(user, order_id="cs_1", customer_id=None, parties=["cs_1"])
        assert company.told[0]["customer"] is None

    @pytest.mark.parametrize(("limit", "tellings"), [(2, 0), (5, 1)])
    def test_of_an_adopted_user_begins_with_how_they_stood(
        self, steps: Steps, mark: Mark, company: Company, limit: int, tellings: int
    ) -> None:
        sub = str(steps.buyer(EMAIL, "cus_other").sub)
        steps.ledger.link(["cus_1"], sub, replacing=None, before=ADOPTED)
        steps.users.update(sub, dapp_limit=limit, payment_status="VIP")
        mark(steps.seen(sub))
        assert [told["before"] for told in company.told] == [ADOPTED] * tellings

    @pytest.mark.parametrize(
        ("changed", "wanted", "reason"),
        [
            ({}, True, "sub_1 active"),
            ({}, None, "left_alone; sub_1 active"),
            ({"enabled": False, "disabled_by": "billing"}, False, "sub_1 active"),
            ({"enabled": False}, True, "held; sub_1 active"),
            ({"provider": "ADMIN"}, True, "comped; sub_1 active"),
        ],
    )
    def test_says_why_it_is_so(
        self, mark: Mark, user: User, company: Company, changed: Json, wanted: bool | None, reason: str
    ) -> None:
        mark(replace(user, **changed), access={"wanted": wanted})
        assert company.told[0]["reason"] == reason

    def test_is_of_what_is_so_now(self, steps: Steps, mark: Mark, user: User, company: Company) -> None:
        """Not of what LookupUser saw."""
        steps.users.update(str(user.sub), dapp_limit=8)
        mark(user)
        assert company.told[0]["after"] == {**STOOD, "dapp_limit": 8}
        assert person(steps, user).told == {**STOOD, "dapp_limit": 8}

    def test_is_none_of_what_is_no_longer_so(self, steps: Steps, mark: Mark, known: User, company: Company) -> None:
        mark(replace(known, dapp_limit=9))
        assert company.told == []

    def test_is_none_of_a_user_deleted_meanwhile(self, steps: Steps, mark: Mark, user: User, company: Company) -> None:
        steps.cognito.admin_delete_user(UserPoolId=steps.pool_id, Username=user.sub)
        assert mark(user)["closed"] == 1
        assert company.told == []

    @pytest.mark.parametrize("user", [User(exists=False), User(True, "u-1", enabled=True)])
    def test_is_none_of_who_is_not_linked(self, mark: Mark, user: User, company: Company) -> None:
        assert mark(user)["outcome"] == "no_user"
        assert company.told == []


class TestTwoRuns:
    def test_tell_one_change_once(self, steps: Steps, mark: Mark, user: User, company: Company) -> None:
        """The other one tells it after this one has read the person."""
        other = Then(steps.ledger, "person", lambda: steps.ledger.told(str(user.sub), STOOD, 1))
        mark(user, ledger=other)
        assert company.told == []

    def test_wait_for_each_other(self, steps: Steps, mark: Mark, user: User, company: Company) -> None:
        steps.ledger.acquire(str(user.sub), "another invocation", int(steps.clock.now))
        with pytest.raises(PersonBusy):
            mark(user, access={"recheck_at": NOW * 2})
        assert (company.told, steps.order()["state"]) == ([], "RECEIVED")
        assert person(steps, user).recheck_at == NOW * 2  # which no notice may delay

    def test_need_not_wait_when_there_is_nothing_to_tell(
        self, steps: Steps, mark: Mark, known: User, company: Company
    ) -> None:
        steps.ledger.acquire(str(known.sub), "another invocation", int(steps.clock.now))
        assert mark(known)["closed"] == 1


class TestFailingNotice:
    @pytest.mark.parametrize("error", [NoticeUnavailable("no answer"), NoticeRejected("unknown bus")])
    def test_leaves_the_order_open_and_is_repeated(
        self, steps: Steps, mark: Mark, user: User, company: Company, error: Exception
    ) -> None:
        company.error = error
        with pytest.raises(type(error)):
            mark(user)
        assert (steps.order()["state"], person(steps, user).tellings) == ("RECEIVED", 0)
        company.error = None
        mark(user)
        assert [told["id"] for told in company.told] == [f"{user.sub}-1"]

    def test_that_was_sent_and_not_written_down_has_the_same_id_again(
        self, steps: Steps, mark: Mark, user: User, company: Company, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def killed(*args: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as here, pytest.raises(KeyboardInterrupt):
            here.setattr(steps.ledger, "told", killed)
            mark(user)
        steps.clock.now += 60
        mark(user)
        assert [told["id"] for told in company.told] == [f"{user.sub}-1"] * 2


class TestAddress:
    """Nobody gets one who did not ask for it."""

    def test_is_in_no_event(self, mark: Mark, user: User, company: Company, steps: Steps) -> None:
        mark(user, users=Then(steps.users, "email", pytest.fail))
        assert EMAIL not in json.dumps(company.told)

    def test_is_in_events_when_the_operator_wants_it(self, mark: Mark, user: User, company: Company) -> None:
        mark(user, WITH_EMAIL=True)
        (told,) = company.told
        assert told["email"] == EMAIL

    def test_is_in_the_older_message_which_comes_after_the_event(
        self, mark: Mark, user: User, company: Company
    ) -> None:
        mark(user, TOPIC=TOPIC)
        event, message = company.told
        assert "email" not in event
        assert message == {"event": "PAYMENT_STATUS", "status": "ACTIVE", "email": EMAIL}

    def test_goes_nowhere_by_default(self) -> None:
        found = module("MarkFulfilled")
        assert (found.WITH_EMAIL, found.TOPIC) == (False, None)


# ------------------------------------------------------------------ what is kept


class TestSettling:
    def test_keeps_what_the_access_consists_of(self, steps: Steps, mark: Mark, known: User) -> None:
        mark(known, access={"units": {"sub_1": 3, "cs_1": 2}})
        assert person(steps, known).granted == {"sub_1": 3, "cs_1": 2}

    @pytest.mark.parametrize(("recheck_at", "calls"), [(None, 0), (NOW * 2, 2)])
    def test_writes_when_something_is_new_or_due(
        self, steps: Steps, mark: Mark, known: User, monkeypatch: pytest.MonkeyPatch, recheck_at: int | None, calls: int
    ) -> None:
        """RunDue may have taken the moment off its list since."""
        mark(known, access={"recheck_at": recheck_at})
        settled: list[object] = []
        monkeypatch.setattr(steps.ledger, "settle", lambda *args, **kwargs: settled.append(kwargs["recheck_at"]))
        for _ in range(2):
            mark(known, access={"recheck_at": recheck_at})
        assert settled == [recheck_at] * calls

    def test_takes_a_moment_off_that_is_over(self, steps: Steps, mark: Mark, known: User) -> None:
        mark(known, access={"recheck_at": NOW * 2})
        mark(known)
        assert person(steps, known).recheck_at is None

    @pytest.mark.parametrize(
        ("changed", "access", "resent", "recheck_at"),
        [
            ({}, {}, 0, 3600),
            ({}, {"recheck_at": 60}, 0, 60),
            ({}, {"recheck_at": 7200}, 0, 3600),
            ({}, {}, MAX_INVITATIONS - 1, 3600),
            # Nobody would send it then, so nobody is to look again for it.
            ({}, {}, MAX_INVITATIONS, None),
            ({}, {"recheck_at": 7200}, MAX_INVITATIONS, 7200),
            ({"invited": False}, {}, 0, None),
            ({"enabled": False, "disabled_by": "billing"}, {}, 0, None),
            ({}, {"wanted": None}, 0, None),
            ({}, {"wanted": False}, 0, None),
            ({"provider": "ADMIN"}, {}, 0, None),
        ],
    )
    def test_looks_again_when_a_mail_that_did_not_leave_is_due(
        self, steps: Steps, mark: Mark, known: User, changed: Json, access: Json, resent: int, recheck_at: int | None
    ) -> None:
        now = int(steps.clock.now)
        steps.ledger.invited(str(known.sub), Invitation(now, resent, "in_0", now + 3600))
        if "recheck_at" in access:
            access = {**access, "recheck_at": now + access["recheck_at"]}
        mark(replace(known, **{"invited": True, **changed}), access=access)
        assert person(steps, known).recheck_at == (None if recheck_at is None else now + recheck_at)


# ------------------------------------------------------------------ what is done


class TestClosing:
    def test_keeps_how_it_ended(self, steps: Steps, mark: Mark, known: User) -> None:
        change = {"before": None, "after": STOOD}
        assert mark(known, change=change) == {"outcome": "enabled", "closed": 1}
        expected = {**change, "state": "FULFILLED", "outcome": "enabled", "reason": "sub_1 active"}
        assert steps.order().items() >= {**expected, "execution": f"{ARN}evt_1"}.items()

    def test_is_of_all_that_was_recorded_before_stripe_was_read(
        self, steps: Steps, mark: Mark, known: User, counted: Counted
    ) -> None:
        read_at = int(steps.clock.now)
        for event_id, customer, age in (
            ("evt_old", "cus_1", 60),
            ("evt_others", "cus_2", 60),
            ("evt_skew", "cus_1", CLOCK_SKEW),
            ("evt_late", "cus_1", CLOCK_SKEW - 2),
            ("evt_stranger", "cus_9", 60),
        ):
            steps.record(event_id, at=read_at - age, customer_id=customer)
        assert mark(known, parties=["cus_1", "cus_2"], read_at=read_at)["closed"] == 3
        states = {name: steps.order(f"evt_{name}")["state"] for name in ("old", "others", "skew", "late", "stranger")}
        assert [name for name, state in states.items() if state == "FULFILLED"] == ["old", "others"]
        assert counted() == {"OrderFulfilled": 3}

    def test_leaves_its_own_order_to_the_end(self, steps: Steps, mark: Mark, known: User) -> None:
        """As long as it is open, a run that dies is run again and closes the rest."""
        for number in (2, 3):
            steps.record(f"evt_{number}", at=int(steps.clock.now) - 60)

        def killed() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            mark(known, ledger=Then(steps.ledger, "close", killed))
        assert steps.order()["state"] == "RECEIVED"
        assert mark(known)["closed"] == 2

    def test_counts_no_order_twice(self, mark: Mark, known: User, counted: Counted) -> None:
        mark(known)
        assert counted() == {"OrderFulfilled": 1}
        assert mark(known)["closed"] == 0
        assert counted() == {"OrderFulfilled": 0}

    @pytest.mark.parametrize(
        ("changed", "wanted", "outcome", "metric"),
        [
            ({}, True, "enabled", None),
            ({"enabled": False, "disabled_by": "billing"}, False, "disabled", None),
            ({"enabled": False, "disabled_by": "operator"}, True, "held", "HeldPaying"),
            ({"enabled": False, "disabled_by": ""}, True, "held", "HeldPaying"),
            ({"enabled": False, "disabled_by": "operator"}, False, "held", None),
            ({"provider": "ADMIN"}, True, "comped", "CompedPaying"),
            ({"provider": "ADMIN"}, None, "comped", None),
            ({}, None, "left_alone", None),
            ({"linked": False}, False, "no_user", None),
        ],
    )
    def test_counts_those_who_pay_and_whom_billing_must_not_touch(
        self,
        mark: Mark,
        known: User,
        counted: Counted,
        changed: Json,
        wanted: bool | None,
        outcome: str,
        metric: str | None,
    ) -> None:
        assert mark(replace(known, **changed), access={"wanted": wanted})["outcome"] == outcome
        assert counted() == {"OrderFulfilled": 1} | ({} if metric is None else {metric: 1})

    def test_counts_who_pays_and_is_held_although_cognito_does_not_know(
        self, steps: Steps, mark: Mark, known: User, counted: Counted
    ) -> None:
        steps.ledger.hold(str(known.sub), {"reason": "spam", "requested_by": "jo", "at": 1})
        assert mark(known)["outcome"] == "held"
        assert counted() == {"OrderFulfilled": 1, "HeldPaying": 1}
