"""Which Cognito user a party is: by link, or by e-mail."""

from dataclasses import replace

from gateway.access import User
from gateway.ledger import Ledger, Party
from gateway.users import Users


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


def left_behind(party: Party, ledger: Ledger) -> list[Party]:
    """The other customers whose links point to the same user that was deleted by hand: they follow."""
    gone = ledger.person(party.sub) if party.sub is not None else None
    others = sorted(gone.parties - {party.id}) if gone is not None else []
    return [other for other in map(ledger.party, others) if other.sub == party.sub]
