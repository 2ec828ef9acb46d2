"""gateway.people: whose user a party is, by link first and by e-mail after it."""

from dataclasses import dataclass, field, replace

import pytest

from gateway.access import User
from gateway.ledger import Party
from gateway.people import user_of

OURS = User(exists=True, sub="u-ours", enabled=True, provider="STRIPE", dapp_limit=3, payment_status="ACTIVE")
THEIRS = replace(OURS, sub="u-theirs", provider="", dapp_limit=-1, payment_status="")
COMPED = replace(OURS, sub="u-comped", provider="ADMIN")
NOBODY = User(exists=False)


@dataclass
class Pool:
    """The users that there are, by e-mail; remembers what was looked up."""

    users: dict[str, User]
    asked: list[str] = field(default_factory=list)

    def get(self, sub: str) -> User | None:
        self.asked.append(sub)
        return next((user for user in self.users.values() if user.sub == sub), None)

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
        (party("u-ours"), {"a@x.io": OURS}, linked(OURS), ["u-ours"]),
        (party("u-theirs"), {"a@x.io": THEIRS}, linked(THEIRS), ["u-theirs"]),
        # The link decides, whatever the addresses say by now.
        (party("u-ours", "b@x.io", "b@x.io"), {"a@x.io": OURS, "b@x.io": THEIRS}, linked(OURS), ["u-ours"]),
        # A link to a user that was deleted by hand is none.
        (party("u-gone"), {"a@x.io": OURS}, NOBODY, ["u-gone"]),
        (party("u-gone", None, "a@x.io"), {"a@x.io": OURS}, OURS, ["u-gone", "a@x.io"]),
        (party("u-gone", "a@x.io", "b@x.io"), {"a@x.io": OURS}, claimed(OURS), ["u-gone", "a@x.io"]),
        # The address of a creation that was cut short goes before the one that Stripe has now.
        (party(None, "a@x.io"), {"a@x.io": OURS}, claimed(OURS), ["a@x.io"]),
        (party(None, "a@x.io", "b@x.io"), {"a@x.io": OURS, "b@x.io": THEIRS}, claimed(OURS), ["a@x.io"]),
        (party(None, "a@x.io", "b@x.io"), {"b@x.io": THEIRS}, THEIRS, ["a@x.io", "b@x.io"]),
        (party(None, "a@x.io", "b@x.io"), {}, NOBODY, ["a@x.io", "b@x.io"]),
        (party(None, "a@x.io", "a@x.io"), {}, NOBODY, ["a@x.io"]),
        # Only a user of ours can have been made by that creation: somebody else's is only joined.
        (party(None, "a@x.io"), {"a@x.io": THEIRS}, THEIRS, ["a@x.io"]),
        (party(None, "a@x.io"), {"a@x.io": COMPED}, COMPED, ["a@x.io"]),
        # By the e-mail alone a user is found, and neither linked nor claimed.
        (party(None, None, "a@x.io"), {"a@x.io": OURS}, OURS, ["a@x.io"]),
        (party(None, None, "a@x.io"), {"b@x.io": OURS}, NOBODY, ["a@x.io"]),
        (party(), {"a@x.io": OURS}, NOBODY, []),
    ],
)
def test_a_user_is_found_by_link_then_by_e_mail(
    party: Party, users: dict[str, User], found: User, asked: list[str]
) -> None:
    pool = Pool(users)
    assert user_of(party, pool) == found
    assert pool.asked == asked
