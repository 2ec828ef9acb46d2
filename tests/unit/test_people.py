"""gateway.people: whose user a party is, by link first and by e-mail after it."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from gateway.access import User
from gateway.errors import AccountAmbiguous
from gateway.events import Order
from gateway.ledger import Ledger, Party
from gateway.people import Account, account_of, as_seen, left_behind, tombstone_id, user_of
from gateway.step import Run

OURS = User(exists=True, sub="u-ours", enabled=True, provider="STRIPE", dapp_limit=3, payment_status="ACTIVE")
THEIRS = replace(OURS, sub="u-theirs", provider="", dapp_limit=-1, payment_status="")
COMPED = replace(OURS, sub="u-comped", provider="ADMIN")
NOBODY = User(exists=False)
A, B = "a@example.com", "b@example.com"


@dataclass
class Pool:
    """The users that there are, by e-mail; remembers what was looked up."""

    users: dict[str, User]
    asked: list[str] = field(default_factory=list)

    def get(self, sub: str, email: str | None = None) -> User | None:
        self.asked.append(sub)
        found = next(((address, user) for address, user in self.users.items() if user.sub == sub), None)
        return found and replace(found[1], renamed=email not in (None, found[0]))

    def with_address(self, email: str) -> User | None:
        return self.users.get(email)

    def find(self, email: str) -> User | None:
        self.asked.append(email)
        return self.users.get(email)


def party(sub: str | None = None, claimed: str | None = None, email: str | None = None) -> Party:
    return Party("cus_1", sub=sub, claimed_email=claimed, email=email)


def linked(user: User) -> User:
    return replace(user, linked=True)


def claimed(user: User) -> User:
    return replace(user, claimed=True)


@pytest.mark.parametrize(
    ("party", "users", "found", "asked"),
    [
        (party("u-ours"), {A: OURS}, linked(OURS), ["u-ours"]),
        (party("u-theirs"), {A: THEIRS}, linked(THEIRS), ["u-theirs"]),
        # The link decides, whatever the addresses say by now.
        (
            party("u-ours", B, B),
            {A: OURS, B: THEIRS},
            replace(linked(OURS), renamed=True),
            ["u-ours"],
        ),
        (party("u-ours", B, A), {A: OURS}, linked(OURS), ["u-ours"]),
        # A link to a user that was deleted by hand is none.
        (party("u-gone"), {A: OURS}, NOBODY, ["u-gone"]),
        (party("u-gone", None, A), {A: OURS}, OURS, ["u-gone", A]),
        (
            party("u-gone", A, B),
            {A: OURS},
            claimed(OURS),
            ["u-gone", A],
        ),
        # The address of a creation that was cut short goes before the one that Stripe has now.
        (party(None, A), {A: OURS}, claimed(OURS), [A]),
        (
            party(None, A, B),
            {A: OURS, B: THEIRS},
            claimed(OURS),
            [A],
        ),
        (
            party(None, A, B),
            {B: THEIRS},
            THEIRS,
            [A, B],
        ),
        (party(None, A, B), {}, NOBODY, [A, B]),
        (party(None, A, A), {}, NOBODY, [A]),
        # Only a user of ours can have been made by that creation: somebody else's is only joined.
        (party(None, A), {A: THEIRS}, THEIRS, [A]),
        (party(None, A), {A: COMPED}, COMPED, [A]),
        # By the e-mail alone a user is found, and neither linked nor claimed.
        (party(None, None, A), {A: OURS}, OURS, [A]),
        (party(None, None, A), {B: OURS}, NOBODY, [A]),
        (party(), {A: OURS}, NOBODY, []),
    ],
)
def test_a_user_is_found_by_link_then_by_e_mail(
    party: Party, users: dict[str, User], found: User, asked: list[str]
) -> None:
    pool = Pool(users)
    assert user_of(party, pool) == found
    assert pool.asked == asked


class TestLeftBehind:
    """Customers who followed a user that somebody deleted by hand."""

    @pytest.fixture
    def ledger(self, dynamodb: Any) -> Ledger:
        return Ledger(dynamodb, "orders")

    def test_are_the_others_of_the_same_user(self, ledger: Ledger) -> None:
        ledger.link(["cus_3", "cus_1", "cs_2"], "u-gone", replacing=None)
        ledger.link(["cus_4"], "u-other", replacing=None)
        assert [each.id for each in left_behind(ledger.party("cus_1"), ledger)] == ["cs_2", "cus_3"]

    def test_are_not_those_who_have_another_user_by_now(self, ledger: Ledger) -> None:
        ledger.link(["cus_1", "cus_2"], "u-gone", replacing=None)
        ledger.link(["cus_2"], "u-new", replacing="u-gone")
        assert left_behind(ledger.party("cus_1"), ledger) == []

    @pytest.mark.parametrize("sub", [None, "u-unknown"])
    def test_are_none_without_a_person(self, ledger: Ledger, sub: str | None) -> None:
        assert left_behind(party(sub), ledger) == []


# ------------------------------------------------------------------ writers and deletions


@pytest.mark.parametrize(
    ("buried", "known", "now", "seen"),
    [
        (None, None, OURS, True),
        (None, 10, OURS, True),
        (10, 10, OURS, True),
        (10, 11, OURS, True),
        (11, 10, OURS, False),  # deleted since the run has read
        (10, None, OURS, False),
        (None, None, replace(OURS, dapp_limit=4), False),
        (None, None, NOBODY, False),
        (11, 10, NOBODY, False),
    ],
)
def test_a_writer_writes_only_to_whom_its_run_saw_and_nobody_deleted_since(
    buried: int | None, known: int | None, now: User, seen: bool
) -> None:
    run = Run("arn", "owner", {"billing": {"deleted_at": known}, "lookup": {"user": OURS.facts()}})
    assert as_seen(run, replace(party("u-ours"), deleted_at=buried), now) is seen
    assert not as_seen(run, replace(party("u-ours"), deleted_at=buried, deleting=True), now)


class TestTombstoneId:
    def test_is_one_however_the_address_is_written(self) -> None:
        assert tombstone_id("Payer@Example.com", "key") == tombstone_id("payer@example.com", "key")

    def test_differs_by_address_and_by_key(self) -> None:
        assert len({tombstone_id(email, key) for email in (A, B) for key in ("key", "other")}) == 4

    def test_is_no_address_and_leaves_room_in_an_executions_name(self) -> None:
        found = tombstone_id(A, "key")
        assert (len(found), found.isalnum(), found) == (40, True, tombstone_id(A, "key"))


class TestAccount:
    """Everything that an address leads to, and one user at most."""

    @pytest.fixture
    def ledger(self, dynamodb: Any) -> Ledger:
        return Ledger(dynamodb, "orders")

    NOW = 1_790_000_000

    def order(self, ledger: Ledger, id_: str, customer: str | None, email: str = A, at: int = NOW) -> None:
        kept = Order(
            event_id=f"evt_{id_}",
            event_type="invoice.paid",
            livemode=False,
            order_id=id_,
            customer_id=customer,
            email=email,
            name=None,
            amount=1,
            currency="usd",
            charge=None,
            items=(),
            metadata={},
            status="paid",
            updated=at,
        )
        ledger.record(kept, at)

    def of(self, ledger: Ledger, users: dict[str, User], sub: str | None = None, **given: Any) -> Account:
        return account_of(A, ledger, Pool(users), self.NOW, sub, **given)  # type: ignore[arg-type]

    def test_is_nothing_for_an_unknown_address(self, ledger: Ledger) -> None:
        found = self.of(ledger, {B: OURS})
        assert found == Account(A, NOBODY)
        assert (found.known, found.parties) == (False, frozenset())

    def test_is_the_user_alone_who_never_bought(self, ledger: Ledger) -> None:
        found = self.of(ledger, {A: OURS})
        assert found == Account(A, OURS, sub="u-ours")
        assert found.known

    def test_is_the_user_with_all_their_parties_and_those_of_nobody(self, ledger: Ledger) -> None:
        ledger.link(["cus_1", "cus_2"], "u-ours", replacing=None)
        ledger.note_party("cus_1", email=A, subscribed=True)
        ledger.note_party("cus_2", email=B, subscribed=True)
        ledger.note_party("cus_3", email=A, subscribed=True)
        self.order(ledger, "cs_4", None)
        found = self.of(ledger, {A: OURS})
        assert found == Account(A, OURS, frozenset({"cus_1", "cus_2"}), frozenset({"cus_3", "cs_4"}), sub="u-ours")
        assert found.parties == {"cus_1", "cus_2", "cus_3", "cs_4"}

    def test_is_guests_alone_without_a_user(self, ledger: Ledger) -> None:
        self.order(ledger, "cs_4", None)
        found = self.of(ledger, {})
        assert (found.parties, found.sub, found.known) == ({"cs_4"}, None, True)

    def test_is_not_a_customer_who_has_another_address_by_now_and_no_user(self, ledger: Ledger) -> None:
        self.order(ledger, "in_1", "cus_1")
        ledger.note_party("cus_1", email=B, subscribed=True)
        self.order(ledger, "in_2", "cus_2")  # of whom nothing else is known
        assert self.of(ledger, {}).parties == {"cus_2"}

    def test_is_not_what_was_ordered_later(self, ledger: Ledger) -> None:
        self.order(ledger, "cs_4", None, at=self.NOW + 1)
        assert self.of(ledger, {}).known is False

    def test_of_several_users_must_be_told_by_sub(self, ledger: Ledger) -> None:
        ledger.link(["cus_1"], "u-theirs", replacing=None)
        ledger.note_party("cus_1", email=A, subscribed=True)
        users = {A: OURS, B: THEIRS}
        with pytest.raises(AccountAmbiguous, match='say "sub": u-ours or u-theirs'):
            self.of(ledger, users)
        assert self.of(ledger, users, "u-ours") == Account(A, OURS, elsewhere=frozenset({"cus_1"}), sub="u-ours")
        assert self.of(ledger, users, "u-theirs") == Account(A, THEIRS, frozenset({"cus_1"}), sub="u-theirs")

    def test_of_a_user_with_another_address_must_be_told_by_sub_when_it_is_to_be_destroyed(
        self, ledger: Ledger
    ) -> None:
        """Whoever types a stranger's address into Checkout is joined to them."""
        ledger.link(["cus_1"], "u-theirs", replacing=None)
        ledger.note_party("cus_1", email=A, subscribed=True)
        users = {B: THEIRS}
        with pytest.raises(AccountAmbiguous, match='has another: say "sub": u-theirs'):
            self.of(ledger, users, own=True)
        expected = Account(A, THEIRS, frozenset({"cus_1"}), sub="u-theirs")
        assert self.of(ledger, users) == self.of(ledger, users, "u-theirs", own=True) == expected

    def test_of_ones_own_address_needs_no_sub(self, ledger: Ledger) -> None:
        assert self.of(ledger, {A: OURS}, own=True).sub == "u-ours"
        assert self.of(ledger, {}, own=True).sub is None

    def test_of_a_stranger_is_refused(self, ledger: Ledger) -> None:
        with pytest.raises(AccountAmbiguous, match="neither has nor had"):
            self.of(ledger, {A: OURS, B: THEIRS}, "u-theirs")

    def test_outlives_a_user_who_was_deleted_by_hand(self, ledger: Ledger) -> None:
        ledger.link(["cus_1"], "u-gone", replacing=None)
        ledger.note_party("cus_1", email=A, subscribed=True)
        assert self.of(ledger, {}) == Account(A, NOBODY, frozenset({"cus_1"}), sub="u-gone")
