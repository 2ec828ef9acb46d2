"""What is left of an account: what a deletion still has to do, and what a dry run of one lists."""

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.access import Subscription
from gateway.billing import Billing
from gateway.bought import customer_of, left_over
from gateway.events import is_order
from gateway.ledger import Ledger, Party
from gateway.pages import personal_orders
from gateway.people import Account
from gateway.users import Users


@dataclass(frozen=True, slots=True)
class Remains:
    """`subscriptions` are still billed; `others` are, too, but give no access: they belong to other products and stay.

    `user`: whether the Cognito user is there. `orders`, `parties`, `person`: rows of the ledger that name somebody.
    `renewed`: customers who have bought again since the deletion.
    """

    subscriptions: tuple[str, ...]
    others: tuple[str, ...]
    user: bool
    orders: int
    parties: int
    person: bool
    renewed: tuple[str, ...] = ()

    @property
    def personal(self) -> bool:
        """Whether the ledger still knows somebody."""
        return bool(self.orders or self.parties or self.person)


def remains(
    parties: Iterable[str],
    sub: str | None,
    deleted_at: int | None,
    ledger: Ledger,
    users: Users,
    billing: Billing,
    now: int,
) -> Remains:
    """Look at Stripe, Cognito and the ledger. `deleted_at` None: before a deletion, all that one would take."""
    rows = [ledger.party(each) for each in sorted(parties)]
    billed: list[Subscription] = []
    others: list[str] = []
    renewed: list[str] = []
    for party in rows:
        if not is_order(party.id):
            alive = [each for each in customer_of(party, billing).subscriptions if not each.ended]
            due = left_over(alive, now if deleted_at is None else deleted_at)
            billed += due
            if any(each.counts and each not in due for each in alive):
                renewed.append(party.id)
            others += [each.id for each in alive if not each.counts]
    person = ledger.person(sub) if sub is not None else None
    return Remains(
        tuple(each.id for each in billed),
        tuple(others),
        sub is not None and users.get(sub) is not None,
        sum(len(personal_orders(party, ledger, now if deleted_at is None else deleted_at)) for party in rows),
        sum(_personal(party, deleted_at) for party in rows),
        person is not None and not person.erased,
        tuple(renewed),
    )


def unheard_of(account: Account, ledger: Ledger, billing: Billing) -> frozenset[str]:
    """Customers with exactly the account's address of whom only Stripe has heard until now."""
    others = sorted(set(billing.customers_of(account.email)) - account.parties - account.elsewhere)
    return frozenset(each.id for each in map(ledger.party, others) if each.sub is None and each.deleted_at is None)


def _personal(party: Party, deleted_at: int | None) -> bool:
    """A party that bought again after the deletion is known for good reason."""
    return party.deleting if deleted_at is not None else bool(party.email or party.claimed_email)
