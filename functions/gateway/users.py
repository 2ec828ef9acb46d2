"""The users of the Cognito pool. The only module that calls Cognito. Every method is one call.

The pool signs in by e-mail: the user name is an immutable UUID (`sub`), and Cognito takes the e-mail in its place.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from gateway import aws
from gateway.access import User
from gateway.errors import (
    CognitoRejected,
    CognitoThrottled,
    CognitoUnavailable,
    EmailUnverified,
    GatewayError,
    MailLimitReached,
    MailNotDelivered,
    UserExists,
    UserMissing,
)

# What billing writes into custom:disabled_by, and the only value it ever clears.
BILLING = "billing"
# What an operator's ban writes there.
OPERATOR = "operator"

_ATTRIBUTES = {
    "dapp_limit": "custom:num_dapps",
    "payment_status": "custom:payment_status",
    "provider": "custom:payment_provider",
    "disabled_by": "custom:disabled_by",
}
_CUSTOMER = "custom:stripe_customer_id"
# The custom attributes that we write, with their types.
CUSTOM = {
    "custom:num_dapps": "Number",
    "custom:payment_status": "String",
    "custom:payment_provider": "String",
    "custom:disabled_by": "String",
    _CUSTOMER: "String",
}


@dataclass(frozen=True, slots=True)
class Listed:
    """A user on a page of the pool. `customer_id`: the Stripe customer for whom we made them."""

    user: User
    customer_id: str | None


class Users:
    """The pool, through a boto3 cognito-idp client."""

    def __init__(self, client: Any, pool_id: str) -> None:
        self._client = client
        self._pool_id = pool_id

    def get(self, sub: str, email: str | None = None) -> User | None:
        """The user with this sub, None when there is none; `renamed` when theirs is another e-mail than the payer's."""
        user, found = self._get(sub)
        if user is None or email is None:
            return user
        return replace(user, renamed=found["email"].lower() != email.lower())

    def email(self, sub: str) -> str:
        """The user's address in lower case; UserMissing when there is no such user."""
        user, found = self._get(sub)
        if user is None:
            raise UserMissing("the user was deleted meanwhile")
        return found["email"].lower()

    def find(self, email: str) -> User | None:
        """The user whose e-mail this is (in any case), None when there is none.

        EmailUnverified when it is a user of ours who only followed their payer to this address: Stripe proves none, so
        whoever pays with it must not be joined to them.
        """
        user, found = self._get(email)
        if user is None or found["email"].lower() != email.lower():
            return None
        if user.ours and found.get("email_verified") == "false":
            raise EmailUnverified(
                "the payer's address is that of another payer's user, unverified: change one of the two in Stripe"
            )
        return user

    def with_address(self, email: str) -> User | None:
        """The user whose e-mail this is, however they came by it, None when there is none."""
        user, found = self._get(email)
        return user if user is not None and found["email"].lower() == email.lower() else None

    def create(self, email: str, *, dapp_limit: int, payment_status: str, customer_id: str | None) -> tuple[str, bool]:
        """Create the user and have Cognito send the welcome mail; returns the sub, and whether the mail left.
        UserExists when the address is taken."""
        attributes = {
            "email": email,
            "email_verified": "true",
            "custom:num_dapps": str(dapp_limit),
            "custom:payment_status": payment_status,
            "custom:payment_provider": "STRIPE",
        }
        if customer_id is not None:
            attributes[_CUSTOMER] = customer_id
        try:
            answer = self._invite(email, UserAttributes=_pairs(attributes))
        except MailNotDelivered:
            # The user may be there, only without the mail. Cognito does not say with this error.
            user, _ = self._get(email)
            if user is not None and user.sub is not None:
                return user.sub, False
            raise CognitoUnavailable("AdminCreateUser made no user, because the mail could not leave") from None
        found = {each["Name"]: each["Value"] for each in answer["User"]["Attributes"]}
        return str(found["sub"]), True

    def invite_again(self, sub: str) -> None:
        """Have Cognito send a new invitation, with a new temporary password, to a user who never signed in.
        MailNotDelivered or MailLimitReached when it did not leave."""
        self._invite(self.email(sub), MessageAction="RESEND")

    def rename(self, sub: str, email: str) -> None:
        """Give the user another address; UserExists when somebody has it. It is not verified: Stripe proves none."""
        self._call("admin_update_user_attributes", sub, UserAttributes=_pairs({"email": email}))

    def _invite(self, username: str, **request: Any) -> dict[str, Any]:
        """AdminCreateUser, with its answers by our names."""
        try:
            answer: dict[str, Any] = self._client.admin_create_user(
                UserPoolId=self._pool_id,
                Username=username,
                DesiredDeliveryMediums=["EMAIL"],  # Cognito's default is SMS
                **request,
            )
        except (ClientError, BotoCoreError) as error:
            raise _translated(error, "AdminCreateUser") from None
        return answer

    def update(self, sub: str, **values: str | int) -> None:
        """Write attributes by our own names (dapp_limit, payment_status, disabled_by). Cognito deletes an attribute
        that is set to nothing; so does a limit of -1."""
        self._call(
            "admin_update_user_attributes",
            sub,
            UserAttributes=_pairs(
                {_ATTRIBUTES[name]: "" if value == -1 else str(value) for name, value in values.items()}
            ),
        )

    def enable(self, sub: str) -> None:
        """Let the user sign in."""
        self._call("admin_enable_user", sub)

    def disable(self, sub: str) -> None:
        """Refuse sign-in and refresh. Tokens already issued live until they expire."""
        self._call("admin_disable_user", sub)

    def sign_out(self, sub: str) -> None:
        """Revoke every refresh token of the user."""
        self._call("admin_user_global_sign_out", sub)

    def delete(self, sub: str) -> None:
        """Delete the user; one who is gone already is no error."""
        with contextlib.suppress(UserMissing):
            self._call("admin_delete_user", sub)

    def _get(self, username: str) -> tuple[User | None, dict[str, str]]:
        """The user, and their attributes."""
        try:
            answer = self._call("admin_get_user", username)
        except UserMissing:
            return None, {}
        found = {each["Name"]: each["Value"] for each in answer["UserAttributes"]}
        return _user(answer, found), {"email": "", **found}

    def _call(self, operation: str, username: str, **request: Any) -> dict[str, Any]:
        return self._request(operation, Username=username, **request)

    def _request(self, operation: str, **request: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self._client, operation)(UserPoolId=self._pool_id, **request)
        except (ClientError, BotoCoreError) as error:
            raise _translated(error, operation) from None
        return answer


class ListedUsers(Users):
    """The same users, read through ListUsers: that makes nobody a billed one, but may be a moment behind."""

    def page(self, token: str | None) -> tuple[list[Listed], str | None]:
        """Sixty users of the pool at most, and the token of the next page. `token`: of this page, None for the first.

        All attributes are asked for: Cognito refuses to leave any out when a user lacks one of the others.
        """
        answer = self._request("list_users", Limit=60, **({} if token is None else {"PaginationToken": token}))
        rows = [(each, _found(each)) for each in answer["Users"]]
        users = [Listed(_user(each, found), found.get(_CUSTOMER)) for each, found in rows]
        return users, answer.get("PaginationToken")

    def _get(self, username: str) -> tuple[User | None, dict[str, str]]:
        name = "email" if "@" in username else "sub"  # neither has a quote in it (events.email_address)
        rows = self._request("list_users", Filter=f'{name} = "{username}"')["Users"]
        if not rows:
            return None, {}
        found = _found(rows[0])
        return _user(rows[0], found), {"email": "", **found}


class Pool(Users):
    """The pool itself: how it signs people in, and what its app clients may do."""

    def settings(self) -> dict[str, Any]:
        """As DescribeUserPool tells them."""
        found: dict[str, Any] = self._request("describe_user_pool")["UserPool"]
        return found

    def clients(self) -> Iterator[dict[str, Any]]:
        """Every app client, as DescribeUserPoolClient tells it."""
        after: dict[str, str] = {}
        while True:
            page = self._request("list_user_pool_clients", MaxResults=60, **after)
            for each in page["UserPoolClients"]:
                yield self._request("describe_user_pool_client", ClientId=each["ClientId"])["UserPoolClient"]
            if not page.get("NextToken"):
                return
            after = {"NextToken": page["NextToken"]}


def _found(row: Mapping[str, Any]) -> dict[str, str]:
    return {each["Name"]: each["Value"] for each in row["Attributes"]}


def _user(row: Mapping[str, Any], found: Mapping[str, str]) -> User:
    """A user of an answer; `found`: their attributes."""
    return User(
        exists=True,
        sub=found["sub"],
        enabled=row["Enabled"],
        disabled_by=found.get(_ATTRIBUTES["disabled_by"], ""),
        provider=found.get(_ATTRIBUTES["provider"], ""),
        dapp_limit=_number(found.get(_ATTRIBUTES["dapp_limit"], "")),
        payment_status=found.get(_ATTRIBUTES["payment_status"], ""),
        created_at=int(row["UserCreateDate"].timestamp()),
        invited=row["UserStatus"] == "FORCE_CHANGE_PASSWORD",
    )


# Cognito's answers that a caller or an operator knows by a name of its own, with what to tell them.
_ANSWERS: dict[str, tuple[type[GatewayError], str]] = {
    "AliasExistsException": (UserExists, "the e-mail address has a user already"),
    "CodeDeliveryFailureException": (MailNotDelivered, "the mail could not leave"),
    "LimitExceededException": (MailLimitReached, "Cognito's mail quota is used up; configure Amazon SES for the pool"),
    "UserNotFoundException": (UserMissing, "the user was deleted meanwhile"),
    "UsernameExistsException": (UserExists, "the e-mail address has a user already"),
}


def _translated(error: ClientError | BotoCoreError, operation: str) -> Exception:
    if isinstance(error, ClientError) and error.response["Error"]["Code"] in _ANSWERS:
        kind, message = _ANSWERS[error.response["Error"]["Code"]]
        return kind(f"{operation}: {message}")
    return aws.translated(
        error,
        f"Cognito {operation}",
        throttled=CognitoThrottled,
        unavailable=CognitoUnavailable,
        rejected=CognitoRejected,
    )


def _pairs(attributes: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Name": name, "Value": value} for name, value in attributes.items()]


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else -1
