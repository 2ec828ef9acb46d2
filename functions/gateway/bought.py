"""What the parties of a person bought, as Stripe has it now, and the access that follows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from gateway.access import Access, Mark, Policy, Purchase, Subscription, bought_since, decide
from gateway.billing import Billing, Customer
from gateway.errors import BillingIncomplete, UnusableEvent
from gateway.events import email_address, is_order
from gateway.ledger import Ledger, Party

UNKNOWN_ACCOUNT = (
    "Stripe knows none of the ledger's customers: store a key of the account and mode that they are of; or, if its "
    "test data was deleted, deploy another stack"
)

_WITNESSES = 10  # customers who are asked for; some may have been deleted with test data


@dataclass(frozen=True, slots=True)
class Bought:
    """What Stripe says of one party. `email` is the customer's address now, None for an unusable one.

    `subscribed`: it has, or had, a subscription. `marks`: what speaks against what was bought.
    """

    party: Party
    email: str | None
    subscribed: bool
    subscriptions: tuple[Subscription, ...]
    purchases: tuple[Purchase, ...]
    marks: tuple[Mark, ...]

    @property
    def since_deletion(self) -> "Bought":
        """Without what was bought before the party's account was deleted."""
        deleted_at = self.party.deleted_at
        return replace(
            self,
            subscriptions=bought_since(self.subscriptions, deleted_at),
            purchases=bought_since(self.purchases, deleted_at),
        )

    @property
    def all_before_deletion(self) -> bool:
        """Whether the account was deleted, and nothing was bought since or may still be paid."""
        since = self.since_deletion
        unpaid = any(each.status == "open" for each in self.purchases)
        return self.party.deleted_at is not None and not (since.subscriptions or since.purchases or unpaid)


def require_known_account(ledger: Ledger, billing: Billing) -> None:
    """BillingIncomplete when Stripe knows none of some customers of the ledger: the key is of another account, or shows
    too little, and would tell us that nobody pays."""
    unknown = None
    for customer in ledger.some_subscribers(_WITNESSES):
        try:
            customer_of(ledger.party(customer), billing)
            return
        except BillingIncomplete as error:
            unknown = error
    if unknown is not None:
        raise unknown


def bought(party: Party, billing: Billing, now: int) -> Bought:
    """Ask Stripe; BillingIncomplete as for `customer_of`."""
    purchases = tuple(billing.purchase(known) for known in party.purchases)
    running = [known for known in party.marks if known.until is None or now < known.until]
    marks = [found for known in running if (found := billing.mark(known)) is not None]
    if is_order(party.id):
        return Bought(party, party.email, party.subscribed, (), purchases, tuple(marks))
    customer = customer_of(party, billing)
    if customer.deleted:
        concerned = [party.id, *(each.id for each in customer.subscriptions), *(each.id for each in purchases)]
        marks += (Mark(party.id, "customer_deleted", of) for of in concerned)
    try:
        email = email_address(customer.email)
    except UnusableEvent:
        email = None
    subscribed = party.subscribed or bool(customer.subscriptions)
    return Bought(party, email, subscribed, customer.subscriptions, purchases, tuple(marks))


def customer_of(party: Party, billing: Billing) -> Customer:
    """The customer that a party is. BillingIncomplete when Stripe shows nothing of one who had a subscription."""
    customer = billing.customer(party.id)
    if party.subscribed and not customer.subscriptions and not customer.deleted:
        raise BillingIncomplete(f"Stripe shows no subscription of {party.id}, which had one: key of another account?")
    return customer


def left_over(subscriptions: Iterable[Subscription], deleted_at: int | None) -> list[Subscription]:
    """What is still billed of what was bought before an account was deleted. Other products are not our business."""
    ours = [each for each in subscriptions if each.counts and not each.ended]
    return [each for each in ours if each not in bought_since(ours, deleted_at)]


def access_of(found: Sequence[Bought], now: int, policy: Policy, granted: Mapping[str, int] | None) -> Access:
    """The access of a person: all of their parties together, without what was bought before a deletion."""
    counting = [each.since_deletion for each in found]
    return decide(
        chain.from_iterable(each.subscriptions for each in counting),
        chain.from_iterable(each.purchases for each in counting),
        now,
        policy,
        granted,
        chain.from_iterable(each.marks for each in counting),
    )
