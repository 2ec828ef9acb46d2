"""Who really differs from what they pay for: everything of one person is read, as a run of theirs would read it."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from gateway.access import Access, Live, Policy, Target, User, live, target
from gateway.billing import Billing
from gateway.bought import access_of, bought
from gateway.drift import DISABLING, Kind, kind_of
from gateway.errors import BillingIncomplete, EmailUnverified
from gateway.events import Purchase
from gateway.ledger import Ledger, Party, Person
from gateway.people import user_of
from gateway.telemetry import logger, metrics
from gateway.users import Listed, ListedUsers


@dataclass(frozen=True, slots=True)
class Difference:
    """One person who differs.

    `party`: whose run mends it; None: an operator has to. `sub`: the user whom the ledger links to the party; with
    `relink` the one who is to be linked to it first, in place of `replacing`, who is gone. `disables`: the run will
    take access away.
    """

    kind: Kind
    party: str | None
    sub: str | None
    disables: bool
    relink: bool = False
    replacing: str | None = None

    @property
    def subject(self) -> str:
        """Whom it is about, once, however often it is found. A party without a link may be found from both sides."""
        return self.party if self.relink and self.party is not None else self.sub or str(self.party)

    def row(self) -> Mapping[str, Any]:
        """As the ledger keeps it."""
        return asdict(self)


class Differences:
    """Looks at people one by one, and makes nobody a billed user by it."""

    def __init__(self, ledger: Ledger, billing: Billing, users: ListedUsers, policy: Policy, *, govern: bool) -> None:
        self._ledger = ledger
        self._billing = billing
        self._users = users
        self._policy = policy
        self._govern = govern

    def of_party(self, name: str, also: Purchase | None = None) -> Difference | None:
        """How the person of a party differs; None when nothing is missing, when an order of theirs is open (RunDue has
        them), or when their account is being deleted. `also`: a one-time order that the ledger does not know.

        What Stripe does not know is counted, and nobody loses anything for it.
        """
        try:
            party = self._ledger.party(name)
            if also is not None:
                party = replace(party, purchases=(*party.purchases, also))
            return self._of_party(party)
        except (BillingIncomplete, EmailUnverified) as error:
            _unclear(name, error)
        return None

    def of_lost_link(self, name: str, sub: str) -> Difference | None:
        """The same of a party that this user's person names, and that knows nothing of it."""
        try:
            user = self._users.get(sub)
            return None if user is None else self._of_orphan(user, self._ledger.party(name))
        except BillingIncomplete as error:
            _unclear(name, error)
        return None

    def of_user(self, listed: Listed, person: Person | None) -> Difference | None:
        """The same of a user on a page of the pool. One of ours whom no customer is linked to has lost the link."""
        user = listed.user
        if person is not None and person.parties:
            return self.of_party(min(person.parties))
        if person is not None and person.held is not None:  # no run is theirs: POST /hold again
            return Difference("hold_lost", None, user.sub, disables=False) if user.enabled else None
        if not user.ours:
            return None
        if listed.customer_id is None:
            return Difference("orphaned_link", None, user.sub, disables=False)
        try:
            party = self._ledger.party(listed.customer_id)
            return self._of_orphan(user, party, named=party.sub == user.sub)
        except BillingIncomplete as error:
            _unclear(listed.customer_id, error)
        return None

    def _of_party(self, party: Party) -> Difference | None:
        now = int(time.time())
        person = self._ledger.person(party.sub) if party.sub is not None else None
        if party.deleting or (person is not None and person.deleted_at is not None):
            return None
        names = {party.id} | (person.parties if person is not None else set())
        others = sorted(names - {party.id})
        found = [bought(each, self._billing, now) for each in (party, *map(self._ledger.party, others))]
        if all(each.all_before_deletion for each in found):
            return None
        access = access_of(found, now, self._policy, person.granted if person is not None else None)
        user = user_of(replace(party, email=found[0].email or party.email), self._users)
        if user.linked and person is None:  # the ledger has lost the person, and keeps the link
            lost = Difference("orphaned_link", None, user.sub, disables=False)  # how an adopted one stood is lost, too
            return self._of_orphan(user, party) if user.ours else lost
        wanted = target(access, person.before if person is not None and user.linked and not self._govern else None)
        kind = self._kind(access, user, wanted, party, person)
        if kind == "orphaned_link" and self._ledger.person(str(user.sub)) is not None:
            kind = "paid_without_access"  # the user is not lost: another customer leads to them
        if kind is None or any(self._ledger.waiting(each, now) for each in sorted(names)):
            return None
        # A limit of nothing is no access: a mapping that was mistyped must not take it from everybody at once.
        nothing_left = bool(access.wanted) and user.enabled and user.dapp_limit > 0 and wanted.dapp_limit == 0
        return Difference(kind, party.id, party.sub, disables=kind in DISABLING or nothing_left)

    def _kind(self, access: Access, user: User, wanted: Target, party: Party, person: Person | None) -> Kind | None:
        """As LookupUser and DecideAccess see it."""
        known = person.live if person is not None else Live()
        banned = user.linked and person is not None and person.held is not None
        should = live(user if user.linked else User(exists=False), access, wanted, known, banned=banned)
        return kind_of(access, user, wanted, known, should, link_known=party.sub is not None, banned=banned)

    def _of_orphan(self, user: User, party: Party, *, named: bool = True) -> Difference | None:
        """`named`: the ledger has something of the link. Otherwise only an attribute of the user says whose they are,
        and the address at Stripe must be theirs."""
        now = int(time.time())
        if party.deleting or self._ledger.waiting(party.id, now):
            return None
        lost = Difference("orphaned_link", None, user.sub, disables=False)
        other = party.sub if party.sub != user.sub else None
        if party.deleted_at is not None or (other is not None and self._users.get(other) is not None):
            return lost
        found = bought(party, self._billing, now)
        if not named:
            same = self._users.get(str(user.sub), found.email) if found.email is not None else None
            if same is None or same.renamed:
                return lost
        access = access_of([found], now, self._policy, None)
        disables = access.wanted is False and user.enabled
        return Difference("orphaned_link", party.id, user.sub, disables, relink=True, replacing=other)


def _unclear(name: str, error: Exception) -> None:
    metrics.add_metric("DriftUnclear", MetricUnit.Count, 1)
    logger.error("DriftUnclear: %s: %s", name, error)
