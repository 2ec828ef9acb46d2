"""Errors that somebody names: the state machine (Retry), a test, or an operator reading a red execution.

Step Functions matches the bare class name, exactly and without inheritance, so the names are the contract. Every
message says what to do next and holds no personal data: it ends up in the execution history.
"""


class GatewayError(Exception):
    """Base of all errors below; never raised itself."""


# ---- passing: the state machine retries, then the order is run again later


class StripeThrottled(GatewayError):
    """Stripe answered 429."""


class StripeUnavailable(GatewayError):
    """Stripe answered 5xx, or not at all."""


class CognitoThrottled(GatewayError):
    """Cognito's request rate is used up."""


class CognitoUnavailable(GatewayError):
    """Cognito answered 5xx, or not at all."""


class LedgerThrottled(GatewayError):
    """DynamoDB throttles the table."""


class LedgerUnavailable(GatewayError):
    """DynamoDB answered 5xx, or not at all."""


class StartThrottled(GatewayError):
    """Step Functions throttles StartExecution."""


class StartUnavailable(GatewayError):
    """Step Functions answered 5xx, or not at all."""


class NoticeThrottled(GatewayError):
    """EventBridge or SNS throttles us."""


class NoticeUnavailable(GatewayError):
    """EventBridge or SNS answered 5xx, or not at all."""


class KeysUnavailable(GatewayError):
    """The user pool's public keys cannot be fetched, so no token can be checked."""


class SecretUnavailable(GatewayError):
    """A secret cannot be read from Secrets Manager: it throttles us, or the secret, or a right, is missing."""


class PersonBusy(GatewayError):
    """Another run holds the lease on this person."""


# ---- lasting: somebody has to do something; the order stays open and is run again with back-off


class StripeKeyRejected(GatewayError):
    """Stripe answered 401 or 403: the key is wrong, revoked, or lacks a right."""


class StripeRejected(GatewayError):
    """Stripe refused a request as invalid."""


class BillingIncomplete(GatewayError):
    """Stripe does not know, or shows nothing of, a customer that we know: never read as "does not pay"."""


class CognitoRejected(GatewayError):
    """Cognito refused a request: missing right, missing attribute, unknown pool, invalid value."""


class UserMissing(GatewayError):
    """The user was deleted while the run was writing to them."""


class MailLimitReached(GatewayError):
    """The mail quota of the user pool is used up, so no welcome mail can leave today."""


class NoticeRejected(GatewayError):
    """EventBridge or SNS refused to publish a change of access: missing right, unknown bus or topic."""


class LedgerRejected(GatewayError):
    """DynamoDB refused a request: missing right, unknown table."""


class StartRejected(GatewayError):
    """Step Functions refused to start an execution: missing right, unknown machine."""


class EmailUnusable(GatewayError):
    """The payer has no e-mail address, or one that Cognito cannot take as a user name."""


class EmailUnverified(GatewayError):
    """The payer's address was given to a user of another payer by EmailChange=follow, and is not verified."""


class DeletionUnderWay(GatewayError):
    """The account is being deleted. Whoever bought again meanwhile gets a new user when that is done."""


class SearchInvalid(GatewayError):
    """A reconciliation was started with an input that says something it cannot be told."""


class SetupWrong(GatewayError):
    """What was found out before anything is deployed; the message lists it all, and what to do."""


class TooManyDisabled(GatewayError):
    """A reconciliation would take access away from more people than it may. It has changed nobody."""


class DidNotConverge(GatewayError):
    """Ten looks, and something was still missing."""


class UnexpectedError(GatewayError):
    """A defect. The message names the exception's type and place, never its text."""


# ---- answers of an adapter that its caller handles


class UserExists(GatewayError):
    """Cognito: the e-mail address has a user already."""


class MailNotDelivered(GatewayError):
    """AdminCreateUser: the invitation could not be handed to the mail service."""


class RequestInvalid(GatewayError):
    """An operator's request says something that cannot be used (400)."""


class AccountUnknown(GatewayError):
    """Nobody here has this e-mail address (404)."""


class AccountAmbiguous(GatewayError):
    """The e-mail address leads to more than one user (409)."""


class TokenRejected(GatewayError):
    """Not a valid token of the user pool. The message holds nothing of it."""


class NotAuthentic(GatewayError):
    """A webhook without a valid, recent signature."""


class UnreadableEnvelope(GatewayError):
    """A signed body that is not a Stripe event."""


class UnusableEvent(GatewayError):
    """A Stripe event of a kind we handle whose content cannot be used."""
