"""Which Cognito user a party is, by link or by e-mail; and which account an e-mail address is."""

import hashlib
import hmac
from dataclasses import dataclass, replace

from gateway.access import User
from gateway.errors import AccountAmbiguous
from gateway.events import is_order
from gateway.ledger import Ledger, Party
from gateway.step import Run
from gateway.users import Users

_UNLINKED = 10  # parties without a user that one request has looked at


def user_of(party: Party, users: Users) -> User:
    """The party's user as of now; `exists` False when there is none, `linked` when the ledger says it is theirs.

    A link to a user that was deleted by hand counts as no link. Without a link the e-mail decides: first the one
    that a user was about to be created with when a run was killed, then the one that Stripe has now.
    """
    if party.sub is not None:
        user = users.get(party.sub, party.email)
        if user is not None:
            return replace(user, linked=True)
    if party.claimed_email is not None:
        user = users.find(party.claimed_email)
        if user is not None:
            return replace(user, claimed=user.ours)
    if party.email is not None and party.email != party.claimed_email:
        user = users.find(party.email)
        if user is not None:
            return user
    return User(exists=False)


def as_seen(run: Run, party: Party, user: User) -> bool:
    """Whether the person is still as the run saw them: the user alike, and their account neither deleted since nor
    being deleted, or what is written now would be forgotten with it.

    Every writer asks this under the lease, so that no run that has read "active" a moment ago brings back a user who is
    deleted.
    """
    deleted = party.deleting or (party.deleted_at or 0) > run.deleted_at
    return not deleted and user.facts() == run.seen


def left_behind(party: Party, ledger: Ledger) -> list[Party]:
    """The other customers whose links point to the same user that was deleted by hand: they follow."""
    gone = ledger.person(party.sub) if party.sub is not None else None
    others = sorted(gone.parties - {party.id}) if gone is not None else []
    return [other for other in map(ledger.party, others) if other.sub == party.sub]


def tombstone_id(email: str, key: str) -> str:
    """The keyed hash under which the deletion of an address's account is remembered; also the address's lease."""
    return hmac.new(key.encode(), email.lower().encode(), hashlib.sha256).hexdigest()[:40]


@dataclass(frozen=True, slots=True)
class Account:
    """All that an e-mail address leads to: at most one user, the parties that are linked to them, and those with this
    address that are linked to nobody.

    `elsewhere`: parties with this address that are linked to another user.
    """

    email: str
    user: User
    linked: frozenset[str] = frozenset()
    unlinked: frozenset[str] = frozenset()
    elsewhere: frozenset[str] = frozenset()
    sub: str | None = None

    @property
    def parties(self) -> frozenset[str]:
        """All that are theirs, or nobody else's."""
        return self.linked | self.unlinked

    @property
    def looked_at(self) -> list[str]:
        """The parties that runs have to look at, so that all is as it must be: one run does for all who are linked. The
        others, of whom the first do, may have paid while the user was banned or comped, and nobody was joined."""
        return [*sorted(self.linked)[:1], *sorted(self.unlinked)[:_UNLINKED]]

    @property
    def known(self) -> bool:
        """Whether there is anything."""
        return self.sub is not None or bool(self.parties)


def account_of(
    email: str, ledger: Ledger, users: Users, now: int, sub: str | None = None, *, own: bool = False
) -> Account:
    """The account of an address, as of now.

    It may lead to several users: an address that a customer had once, or typed into Checkout, may be another user's
    today. `sub` says which one is meant; otherwise AccountAmbiguous names them. `own`: a user whose own address is
    another one must be meant by their sub as well. Anybody who is joined to a user by typing their address can change
    the address of their customer at Stripe, and then ask for what is theirs to be destroyed.
    """
    owner = users.with_address(email)
    parties = [ledger.party(name) for name in sorted(ledger.parties_of(email, now))]
    # An order names the address that its customer had then; whoever has another one now, and no user, is somebody else.
    links = {
        party.id: party.sub
        for party in parties
        if party.sub is not None or is_order(party.id) or party.email in (None, email)
    }
    subs = {each for each in (owner.sub if owner else None, *links.values()) if each is not None}
    if sub is None:
        if len(subs) > 1:
            raise AccountAmbiguous(f'several users have, or had, this address: say "sub": {" or ".join(sorted(subs))}')
        if own and owner is None and any(users.get(each) is not None for each in subs):
            raise AccountAmbiguous(
                f'the user of a customer with this address has another: say "sub": {next(iter(subs))}'
            )
        sub = next(iter(subs), None)
    elif sub not in subs:
        raise AccountAmbiguous("the user with this sub neither has nor had this address")
    user = owner if owner is not None and owner.sub == sub else users.get(sub) if sub is not None else None
    person = ledger.person(sub) if sub is not None else None
    linked = {name for name, link in links.items() if link is not None and link == sub}
    unlinked = {name for name, link in links.items() if link is None}
    return Account(
        email,
        user or User(exists=False),
        frozenset(linked | (person.parties if person is not None else frozenset())),
        frozenset(unlinked),
        frozenset(links.keys() - linked - unlinked),
        sub,
    )
