"""gateway.people: whose user a party is, by link first and by e-mail after it."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from gateway.access import User
from gateway.ledger import Ledger, Party
from gateway.people import left_behind, user_of

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
