"""delete_account.handler: what POST /delete starts, waits for, and answers; offboarding itself is proven elsewhere."""

from typing import Any

import pytest

from gateway.errors import SecretUnavailable, StripeUnavailable
from gateway.ledger import ATTEMPT_SECONDS
from tests.unit.operators import CALLER, DENIED, HOSTILE, OTHER_PRODUCT, SILENT, THROTTLED, Operators, subscription
from tests.unit.steps import EMAIL, NOW, Json

OTHER = "other@example.com"
DAY = 86_400
EXECUTION = "arn:aws:states:us-east-1:123456789012:execution:offboarding:"


@pytest.fixture
def operators(dynamodb: Any, cognito: Any, pool_id: str, mail: object, monkeypatch: pytest.MonkeyPatch) -> Operators:
    return Operators(dynamodb, cognito, pool_id, monkeypatch)


def ask(operators: Operators, email: str = EMAIL, seconds: list[float] | None = None, **fields: Any) -> Any:
    return operators.ask("DeleteAccount", {"email": email, **fields}, seconds=seconds)


def runs(operators: Operators) -> list[str]:
    return sorted(operators.offboarding.executions)


def goes(operators: Operators, name: str = "") -> None:
    """Offboarding goes well: nothing is left of the account."""
    operators.close(*operators.ledger.all_orders("cus_1"))
    for event_id in operators.ledger.all_orders("cus_1"):
        operators.ledger.erase_order(event_id)
    sub = operators.ledger.party("cus_1").sub
    if sub is not None:
        operators.users.delete(sub)
        operators.ledger.erase_person(sub, NOW)
    operators.ledger.bury("cus_1", int(operators.clock.now), operators.tombstone, deleting=True)
    operators.ledger.erase_party("cus_1", sub)
    operators.ledger.count_canceled(operators.tombstone, 1)
    assert operators.ledger.close_deletion(operators.tombstone, frozenset(), int(operators.clock.now))


def fails(operators: Operators) -> None:
    operators.ledger.fail_deletion(operators.tombstone, execution="arn:run", error="StripeKeyRejected: 401")


class TestDryRun:
    @pytest.fixture
    def account(self, operators: Operators) -> str:
        """A payer with two customers, one of whom only Stripe knows, and with a product that is not ours."""
        user = operators.buyer(EMAIL, "cus_1", "cus_2")
        operators.stripe.subscribes("cus_1", subscription(), subscription("sub_old", "canceled"), OTHER_PRODUCT)
        operators.stripe.subscribes("cus_2", subscription("sub_2", "past_due"), email=OTHER)
        operators.stripe.subscribes("cus_new", subscription("sub_new"))
        operators.stripe.subscribes("cus_other", subscription("sub_other2"), email=OTHER)
        operators.orders(3)
        operators.failed("evt_done", int(operators.clock.now))
        operators.close("evt_done")
        operators.failed("evt_other", int(operators.clock.now), customer_id="cus_other", email=OTHER)
        assert user.sub is not None
        return user.sub

    def test_lists_what_would_go_and_what_would_not(self, operators: Operators, account: str) -> None:
        status, said = ask(operators, dry_run=True)
        outlives = said.pop("outlives")
        assert (status, said) == (
            200,
            {
                "email": EMAIL,
                "dry_run": True,
                "user": account,
                "customers": ["cus_1", "cus_2", "cus_new"],
                "subscriptions": ["sub_1", "sub_2", "sub_new"],
                "subscriptions_of_other_products": ["sub_other"],
                "orders": 4,
            },
        )
        now = int(operators.clock.now)
        assert {each["what"].split(",")[0]: each["until"] for each in outlives} == {
            "the ledger's point-in-time backups": now + 35 * DAY,
            "logs": now + 90 * DAY,
            "Step Functions' execution history": now + 90 * DAY,
            "tokens already issued": None,
            "Stripe's own records of the customer": None,
        }

    def test_changes_nothing(self, operators: Operators, account: str) -> None:
        before = operators.everything()
        for _ in range(2):
            assert ask(operators, dry_run=True)[0] == 200
        assert operators.everything() == before
        assert operators.offboarding.calls == operators.machine.calls == []
        writes = [name for name in operators.table.calls if not name.endswith(("query", "get_item"))]
        assert writes == []
        assert set(operators.pool.calls) == {"admin_get_user"}

    def test_of_one_whom_only_stripe_knows_lists_them(self, operators: Operators) -> None:
        operators.stripe.subscribes("cus_1", subscription())
        status, said = ask(operators, dry_run=True)
        assert (status, said["user"], said["customers"], said["orders"]) == (200, None, ["cus_1"], 0)

    def test_of_a_user_who_never_bought_lists_them(self, operators: Operators) -> None:
        sub = operators.stranger()
        _, said = ask(operators, dry_run=True)
        assert (said["user"], said["customers"], said["subscriptions"]) == (sub, [], [])

    def test_of_nobody_is_unknown(self, operators: Operators) -> None:
        assert ask(operators, dry_run=True)[0] == 404

    def test_without_stripe_is_told_to_wait(self, operators: Operators, account: str) -> None:
        operators.stripe.error = StripeUnavailable("Stripe answered 500")
        assert ask(operators, dry_run=True)[0] == 503


class TestDeletion:
    @pytest.fixture(autouse=True)
    def account(self, operators: Operators) -> None:
        operators.buyer()
        operators.stripe.subscribes("cus_1", subscription())
        operators.orders(2)

    def test_is_waited_for(self, operators: Operators) -> None:
        operators.clock.meanwhile = [lambda: None, lambda: None, lambda: goes(operators)]
        began = int(operators.clock.now)
        status, said = ask(operators)
        outlives = said.pop("outlives")
        execution = f"{EXECUTION}{operators.tombstone}-r1"
        assert (status, said) == (
            200,
            {
                "email": EMAIL,
                "deletion": operators.tombstone,
                "state": "DONE",
                "deleted_at": began,
                "subscriptions_canceled": 1,
                "execution": execution,
                "console": "https://us-east-1.console.aws.amazon.com/states/home?region=us-east-1"
                f"#/v2/executions/details/{execution}",
            },
        )
        assert outlives[0]["until"] == began + 35 * DAY
        assert operators.clock.slept == [0.5] * 3
        assert operators.offboarding.executions == {f"{operators.tombstone}-r1": {"tombstone": operators.tombstone}}
        assert operators.machine.calls == []

    def test_that_ends_at_once_is_not_waited_for(self, operators: Operators) -> None:
        operators.offboarding.started = lambda name: goes(operators)
        assert ask(operators)[0] == 200
        assert operators.clock.slept == []

    def test_is_recorded_with_who_asked(self, operators: Operators) -> None:
        operators.offboarding.started = lambda name: goes(operators)
        ask(operators)
        row = operators.row(f"TOMBSTONE#{operators.tombstone}", "TOMBSTONE")
        assert (row["requested_by"], row["state"]) == (CALLER, "DONE")
        assert "email" not in row

    def test_that_takes_long_goes_on(self, operators: Operators) -> None:
        status, said = ask(operators, seconds=[10, 5, 4.1, 3.9])
        assert (status, said["state"]) == (202, "RUNNING")
        assert said["message"] == "it goes on; ask again, or see the console"
        assert said["console"].endswith(f"{operators.tombstone}-r1")
        assert operators.clock.slept == [0.5] * 3

    def test_that_fails_says_why(self, operators: Operators) -> None:
        operators.clock.meanwhile = [lambda: fails(operators)]
        status, said = ask(operators)
        assert (status, said["error"], said["state"]) == (502, "NotDeleted", "FAILED")
        assert said["message"] == (
            "not everything is deleted (StripeKeyRejected: 401); the same request takes it up again"
        )

    def test_by_the_address_in_any_case_is_the_same(self, operators: Operators) -> None:
        ask(operators, seconds=[1])
        assert ask(operators, EMAIL.upper(), seconds=[1])[1]["deletion"] == operators.tombstone
        assert runs(operators) == [f"{operators.tombstone}-r1"]

    def test_that_is_running_is_not_started_again(self, operators: Operators) -> None:
        assert ask(operators, seconds=[1])[0] == 202
        operators.clock.now += ATTEMPT_SECONDS - 1
        assert ask(operators, seconds=[1])[0] == 202
        operators.clock.meanwhile = [lambda: goes(operators)]
        assert ask(operators)[0] == 200
        assert runs(operators) == [f"{operators.tombstone}-r1"]

    def test_that_was_killed_without_a_word_is_taken_up(self, operators: Operators) -> None:
        began = int(operators.clock.now)
        ask(operators, seconds=[1])
        operators.clock.now += ATTEMPT_SECONDS
        status, said = ask(operators, seconds=[1])
        assert (status, said["deleted_at"]) == (202, began)
        assert runs(operators) == [f"{operators.tombstone}-r1", f"{operators.tombstone}-r2"]

    def test_that_failed_is_taken_up_where_it_was(self, operators: Operators) -> None:
        began = int(operators.clock.now)
        operators.offboarding.started = lambda name: fails(operators)
        assert ask(operators)[0] == 502
        operators.clock.now += DAY
        operators.offboarding.started = lambda name: goes(operators)
        status, said = ask(operators)
        assert (status, said["deleted_at"]) == (200, began)
        assert runs(operators) == [f"{operators.tombstone}-r1", f"{operators.tombstone}-r2"]

    def test_that_failed_is_taken_up_although_nothing_is_known_any_more(self, operators: Operators) -> None:
        """The user and the address may be gone already when it fails."""
        operators.offboarding.started = lambda name: fails(operators)
        ask(operators)
        operators.users.delete(str(operators.ledger.party("cus_1").sub))
        operators.ledger.erase_party("cus_1", operators.ledger.party("cus_1").sub)
        operators.stripe.customers.clear()
        assert ask(operators)[0] == 502
        assert len(runs(operators)) == 2

    def test_that_is_done_leaves_nothing_to_start(self, operators: Operators) -> None:
        operators.offboarding.started = lambda name: goes(operators)
        _, first = ask(operators)
        operators.clock.now += DAY
        for _ in range(2):
            assert ask(operators) == (200, first)  # also while Stripe still has a customer with this address
        assert len(operators.offboarding.calls) == 1

    def test_that_is_done_is_followed_by_another_when_they_bought_again(self, operators: Operators) -> None:
        operators.offboarding.started = lambda name: goes(operators)
        ask(operators)
        operators.clock.now += DAY
        operators.stripe.subscribes("cus_9", subscription("sub_9"))
        operators.offboarding.started = lambda name: None
        status, said = ask(operators, seconds=[1])
        assert (status, said["deleted_at"], said["subscriptions_canceled"]) == (202, int(operators.clock.now), 0)
        assert len(runs(operators)) == 2

    def test_that_two_begin_at_once_is_started_once(
        self, operators: Operators, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module = operators.endpoint("DeleteAccount")
        real, other = module.account_of, []

        def after_another(*args: Any, **kwargs: Any) -> Any:
            found = real(*args, **kwargs)
            if not other:
                other.append(None)
                other[0] = ask(operators, seconds=[1])
            return found

        monkeypatch.setattr(module, "account_of", after_another)
        assert ask(operators, seconds=[1])[0] == 202
        assert other[0][0] == 202
        assert runs(operators) == [f"{operators.tombstone}-r1"]

    @pytest.mark.parametrize(
        ("error", "status", "name"),
        [(THROTTLED, 503, "StartThrottled"), (SILENT, 503, "StartUnavailable"), (DENIED, 502, "StartRejected")],
    )
    def test_that_cannot_be_started_is_started_by_whoever_asks_again(
        self, operators: Operators, error: Exception, status: int, name: str
    ) -> None:
        operators.offboarding.errors.append(error)
        found, said = ask(operators, seconds=[1])
        assert (found, said["error"]) == (status, name)
        assert runs(operators) == []
        assert ask(operators, seconds=[1])[0] == 202
        assert runs(operators) == [f"{operators.tombstone}-r1"]

    def test_leaves_nothing_personal_in_logs_or_executions(self, operators: Operators, lines: list[str]) -> None:
        ask(operators, seconds=[1])
        assert not any(EMAIL in trace for trace in (*lines, str(operators.offboarding.executions)))


class TestAddress:
    def test_of_nobody_is_unknown_and_leaves_no_trace(self, operators: Operators) -> None:
        status, said = ask(operators)
        assert (status, said["error"]) == (404, "AccountUnknown")
        assert operators.everything() == []
        assert operators.offboarding.calls == []

    def test_that_only_stripe_knows_is_deleted(self, operators: Operators) -> None:
        operators.stripe.subscribes("cus_1", subscription())
        assert ask(operators, seconds=[1])[0] == 202

    @pytest.fixture
    def two(self, operators: Operators) -> list[str]:
        owner, linked = operators.stranger(), operators.stranger(OTHER)
        operators.ledger.link(["cus_1"], linked, replacing=None)
        operators.failed()
        return [owner, linked]

    @pytest.mark.parametrize("dry_run", [False, True])
    def test_of_two_users_is_asked_about(self, operators: Operators, two: list[str], dry_run: bool) -> None:
        before = operators.everything()
        status, said = ask(operators, dry_run=dry_run)
        assert (status, said["error"]) == (409, "AccountAmbiguous")
        assert all(sub in said["message"] for sub in two)
        assert operators.everything() == before

    @pytest.mark.parametrize("sub", HOSTILE)
    def test_of_two_users_is_not_that_of_a_third(self, operators: Operators, two: list[str], sub: str) -> None:
        assert ask(operators, sub=sub)[0] == 409
        assert operators.offboarding.calls == []

    def test_of_two_users_deletes_the_one_that_is_meant(self, operators: Operators, two: list[str]) -> None:
        assert ask(operators, sub=two[1], seconds=[1])[0] == 202
        assert operators.ledger.deletion(operators.tombstone).sub == two[1]

    @pytest.mark.parametrize("dry_run", [False, True])
    def test_that_is_not_the_users_own_needs_their_sub(self, operators: Operators, dry_run: bool) -> None:
        """Whoever is joined to a user by typing that user's address may have another one at Stripe by now."""
        sub = operators.stranger(OTHER)
        operators.ledger.link(["cus_1"], sub, replacing=None)
        operators.ledger.note_party("cus_1", email=EMAIL, subscribed=False)
        operators.stripe.subscribes("cus_1")
        before = operators.everything()
        status, said = ask(operators, dry_run=dry_run)
        assert (status, said["error"]) == (409, "AccountAmbiguous")
        assert said["message"].endswith(f'say "sub": {sub}')
        assert (operators.everything(), operators.offboarding.calls) == (before, [])
        assert ask(operators, dry_run=dry_run, sub=sub, seconds=[1])[0] == (200 if dry_run else 202)


class TestOutage:
    @pytest.mark.parametrize("dry_run", [False, True])
    @pytest.mark.parametrize(
        ("operation", "error", "status"),
        [
            ("query", THROTTLED, 503),
            ("query", SILENT, 503),
            ("query", DENIED, 502),
            ("admin_get_user", THROTTLED, 503),
            ("admin_get_user", DENIED, 502),
        ],
    )
    def test_of_aws_begins_nothing(
        self, operators: Operators, operation: str, error: Exception, status: int, dry_run: bool
    ) -> None:
        operators.failed()
        before = operators.everything()
        client = operators.pool if operation == "admin_get_user" else operators.table
        client.errors[operation] = error
        assert ask(operators, dry_run=dry_run)[0] == status
        assert operators.everything() == before
        assert operators.offboarding.calls == []

    def test_of_the_hash_key_begins_nothing(self, operators: Operators) -> None:
        operators.failed()
        operators.secret_error = SecretUnavailable("the secret is empty")
        assert ask(operators)[0] == 502
        assert operators.offboarding.calls == []

    def test_while_it_is_waited_for_is_told_and_loses_nothing(self, operators: Operators) -> None:
        operators.failed()

        def down() -> None:
            operators.table.errors["get_item"] = THROTTLED

        operators.clock.meanwhile = [down]
        assert ask(operators)[0] == 503
        operators.table.errors.clear()
        found: Json = ask(operators, seconds=[1])[1]
        assert (found["state"], len(runs(operators))) == ("RUNNING", 1)
