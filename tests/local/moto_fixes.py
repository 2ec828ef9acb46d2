"""Corrections of moto 5.2.5: where it differs from AWS in what the gateway relies on.

Importing this module applies them. They reach into moto's insides, so the version is pinned, and
tests/e2e/test_local_stack.py guards each one. The first line of every function says what AWS does.
"""

from __future__ import annotations

import base64
import bisect
import copy
import functools
import itertools
import json
import logging
import re
import secrets
import string
import sys
import threading
import uuid
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import boto3
import moto
import moto.backends
import moto.cognitoidp.models as cognito
import moto.dynamodb.models as dynamodb_models
import moto.stepfunctions.parser.utils as parser_utils
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from joserfc import jwt
from joserfc.jwk import RSAKey
from moto.cognitoidp.exceptions import (
    AliasExistsException,
    InvalidParameterException,
    NotAuthorizedError,
    UsernameExistsException,
    UserNotFoundError,
)
from moto.cognitoidp.models import CognitoIdpBackend, CognitoIdpUser, CognitoIdpUserPool
from moto.cognitoidp.responses import CognitoIdpResponse
from moto.cognitoidp.utils import flatten_attrs
from moto.core.config import default_user_config
from moto.core.exceptions import JsonRESTError
from moto.core.responses import ActionResult
from moto.core.serialize import AttributePicker
from moto.core.utils import utcnow
from moto.dynamodb.exceptions import MockValidationException
from moto.dynamodb.models import DynamoDBBackend
from moto.dynamodb.models.dynamo_type import DynamoType, Item
from moto.dynamodb.models.table import Table
from moto.dynamodb.responses import DynamoHandler
from moto.stepfunctions.parser.api import (
    ExecutionStatus,
    HistoryEventType,
    LambdaFunctionFailedEventDetails,
    MapRunFailedEventDetails,
)
from moto.stepfunctions.parser.asl.component.common.error_name.custom_error_name import (
    CustomErrorName,
)
from moto.stepfunctions.parser.asl.component.common.error_name.error_name import ErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.failure_event import (
    FailureEvent,
    FailureEventException,
)
from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name import StatesErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name_type import (
    StatesErrorNameType,
)
from moto.stepfunctions.parser.asl.component.common.path import result_path
from moto.stepfunctions.parser.asl.component.common.retry import retrier_decl
from moto.stepfunctions.parser.asl.component.eval_component import EvalComponent
from moto.stepfunctions.parser.asl.component.state.exec.state_map.iteration.distributed_iteration_component import (
    DistributedIterationComponent,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_map.iteration.itemprocessor.distributed_item_processor_worker import (  # noqa: E501
    DistributedItemProcessorWorker,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.state_task_lambda import (
    StateTaskLambda,
)
from moto.stepfunctions.parser.asl.component.state.fail import state_fail
from moto.stepfunctions.parser.asl.eval.environment import Environment
from moto.stepfunctions.parser.asl.eval.event.event_detail import EventDetails
from moto.stepfunctions.parser.asl.eval.program_state import ProgramEnded
from moto.stepfunctions.parser.asl.parse.asl_parser import AmazonStateLanguageParser
from moto.stepfunctions.parser.asl.utils import boto_client, json_path
from moto.stepfunctions.parser.backend.execution import (
    BaseExecutionWorkerCommunication,
    Execution,
)
from moto.stepfunctions.parser.backend.execution_worker import ExecutionWorker
from moto.stepfunctions.parser.models import StepFunctionsParserBackend
from moto.stepfunctions.responses import StepFunctionResponse

MOTO_VERSION = "5.2.5"
if moto.__version__ != MOTO_VERSION:
    raise ImportError(
        f"tests/local/moto_fixes.py corrects moto {MOTO_VERSION}, not {moto.__version__}: "
        "check every correction against the new version, then change MOTO_VERSION"
    )

retry_scale = 1.0
"""Seconds slept locally for each second that a Retry would wait."""

endpoint = ""
"""Where the interpreter reaches Lambda and the other services."""

invoke: Callable[[str, bytes], Any] = lambda arn, payload: None  # noqa: E731
"""Invokes a function: Cognito's triggers."""

access_keys: dict[str, str] = {}
"""The access key that the interpreter signs with, by role ARN of the state machine."""

aliases: dict[str, str] = {}
"""ARN of an alias -> ARN of its state machine; moto knows none."""

refusal: Callable[[str, str], str | None] = lambda role, machine: None  # noqa: E731
"""Why a role may not run a Distributed Map of this machine; None: it may."""

stopping = threading.Event()
"""Set while the stack closes: nobody waits for a retry any more."""

execution_ended = threading.Condition()
"""Notified when an execution has ended."""


@dataclass(frozen=True)
class Invitation:
    """A welcome mail that Cognito would have sent."""

    user_pool_id: str
    to: str
    username: str
    temporary_password: str
    resend: bool


outbox: list[Invitation] = []
"""Every invitation, oldest first."""


class Mail:
    """What becomes of the next invitations: they leave, unless told otherwise."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._over_quota = 0
        self._undeliverable = 0

    def exhaust(self, n: int) -> None:
        """The next `n` invitations are over the pool's quota: LimitExceededException, and nothing is done."""
        with self._lock:
            self._over_quota = n

    def fail(self, n: int) -> None:
        """The next `n` invitations cannot be delivered: CodeDeliveryFailureException, but all else is done."""
        with self._lock:
            self._undeliverable = n

    def restore(self) -> None:
        """Mail leaves again."""
        with self._lock:
            self._over_quota = self._undeliverable = 0

    def meet_quota(self) -> None:
        """Called before anything is done that ends with an invitation."""
        with self._lock:
            if self._over_quota:
                self._over_quota -= 1
                raise JsonRESTError("LimitExceededException", "Exceeded daily email limit for the operation.")

    def send(self, invitation: Invitation) -> None:
        """Called when all else is done."""
        with self._lock:
            if self._undeliverable:
                self._undeliverable -= 1
                raise JsonRESTError("CodeDeliveryFailureException", "The invitation could not be delivered.")
        outbox.append(invitation)


mail = Mail()


def fixes(owner: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Puts a function in place of the method of its name; it gets the original as first argument."""

    def replace(function: Callable[..., Any]) -> Callable[..., Any]:
        original = getattr(owner, function.__name__)

        @functools.wraps(original)
        def method(*args: Any, **kwargs: Any) -> Any:
            return function(original, *args, **kwargs)

        setattr(owner, function.__name__, method)
        return function

    return replace


# ------------------------------------------------------------------------------------------- Cognito

_cognito_lock = threading.RLock()
_request = threading.local()


class UnsupportedUserStateError(JsonRESTError):
    """The request does not fit the state that the user is in."""

    def __init__(self, message: str) -> None:
        super().__init__("UnsupportedUserStateException", message)


def _looks_like(username: str, _format: str = "email") -> bool:
    """Takes any e-mail address (moto's pattern refuses an apostrophe and all but ASCII letters)."""
    pattern = r"[^@\s]+@[^@\s]+\.[^@\s]+" if _format == "email" else r"\+\d{1,15}"
    return re.fullmatch(pattern, username) is not None


cognito.validate_username_format = _looks_like


class Users(OrderedDict[str, CognitoIdpUser]):
    """The users of a pool in the order in which they were made, found by each of their names at once."""

    def __init__(self) -> None:
        super().__init__()
        self._named: dict[str, dict[int, CognitoIdpUser]] = {}
        self._serial = itertools.count(1)

    def __setitem__(self, username: str, user: CognitoIdpUser) -> None:
        user.serial, user.known_in = next(self._serial), self
        super().__setitem__(username, user)
        self.note(user)

    def note(self, user: CognitoIdpUser) -> None:
        """The user may have another name than before; the old ones are told apart by whoever asks."""
        aliases = (user.attribute_lookup.get(name) for name in ("email", "phone_number"))
        for name in filter(None, (user.username, user.id, *aliases)):
            self._named.setdefault(name.lower(), {})[user.serial] = user

    def named(self, name: str) -> list[CognitoIdpUser]:
        """Whoever has, or once had, this name in any case; in order."""
        found = sorted(self._named.get(name.lower(), {}).items())
        return [user for _, user in found if self.get(user.username) is user]


@fixes(CognitoIdpUser)
def update_attributes(original: Any, user: Any, attributes: list[dict[str, str]]) -> None:
    """A user is found by a new address."""
    original(user, attributes)
    if known_in := getattr(user, "known_in", None):
        known_in.note(user)


@fixes(CognitoIdpUserPool)
def __init__(original: Any, pool: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
    """A pool has the standard attributes besides its own."""
    original(pool, *args, **kwargs)
    pool.users = Users()
    for name, schema in cognito.CognitoIdpUserPoolAttribute.STANDARD_SCHEMA.items():
        if name not in pool.schema_attributes:
            attribute = cognito.CognitoIdpUserPoolAttribute(name, False, schema)
            pool.schema_attributes[name] = attribute


@fixes(CognitoIdpUserPool)
def _get_user(original: Any, pool: Any, username: str) -> CognitoIdpUser | None:
    """`CaseSensitive: false` is honoured for usernames and e-mail; a `sub` works as a username."""
    wanted = _folded(pool, username)
    aliases = pool.extended_config.get("UsernameAttributes") or []
    for user in pool.users.named(username):
        attributes = user.attribute_lookup
        names = {user.username, user.id, *(attributes.get(alias) for alias in aliases)}
        if wanted in {_folded(pool, name) for name in names}:
            return user
    return None


@fixes(CognitoIdpResponse)
def admin_create_user(original: Any, response: Any) -> Any:
    """An invitation goes out by SMS unless the request asks for e-mail."""
    _request.mediums = response._get_param("DesiredDeliveryMediums") or ["SMS"]
    return original(response)


@fixes(CognitoIdpBackend)
def admin_create_user(  # noqa: F811
    original: Any,
    backend: Any,
    user_pool_id: str,
    username: str,
    message_action: str | None,
    temporary_password: str | None,
    attributes: list[dict[str, str]],
) -> CognitoIdpUser:
    """Attributes follow the schema, passwords the policy; RESEND is for users who never signed in; mail may fail."""
    with _cognito_lock:
        pool = backend.describe_user_pool(user_pool_id)
        _check_attributes(pool, attributes or [])
        if temporary_password:
            backend._validate_password(user_pool_id, temporary_password)
        password = temporary_password or _generate_password(pool)
        by_mail = message_action != "SUPPRESS" and "EMAIL" in getattr(_request, "mediums", [])
        if message_action == "RESEND":
            user = backend.admin_get_user(user_pool_id, username)
            if user.status != cognito.UserStatus.FORCE_CHANGE_PASSWORD:
                raise UnsupportedUserStateError(f"Resend not possible. {username} has signed in.")
            if by_mail:
                mail.meet_quota()
            user.password, user.last_modified_date = password, utcnow()
        elif pool._get_user(username):
            raise UsernameExistsException("An account with the given email already exists.")
        else:
            if by_mail:
                mail.meet_quota()
            user = original(backend, user_pool_id, username, None, password, attributes)
        user.invited_at = utcnow()
    if by_mail and (email := user.attribute_lookup.get("email")):
        mail.send(Invitation(user_pool_id, email, user.username, password, message_action == "RESEND"))
    return user


def backdate(account_id: str, region: str, user_pool_id: str, username: str, days: float) -> None:
    """As if the user had been made, and had got their temporary password, so many days ago."""
    with _cognito_lock:
        user = cognito.cognitoidp_backends[account_id][region].admin_get_user(user_pool_id, username)
        user.create_date = user.last_modified_date = user.invited_at = utcnow() - timedelta(days=days)


@fixes(CognitoIdpBackend)
def admin_set_user_password(
    original: Any, backend: Any, user_pool_id: str, username: str, password: str, permanent: bool
) -> None:
    """A temporary password that an administrator sets begins to expire then."""
    original(backend, user_pool_id, username, password, permanent)
    backend.admin_get_user(user_pool_id, username).invited_at = utcnow()


@fixes(CognitoIdpBackend)
def admin_update_user_attributes(
    original: Any,
    backend: Any,
    user_pool_id: str,
    username: str,
    attributes: list[dict[str, str]],
) -> None:
    """Attributes follow the schema, a blank value deletes, a changed e-mail is unverified."""
    with _cognito_lock:
        pool = backend.describe_user_pool(user_pool_id)
        _update(pool, backend.admin_get_user(user_pool_id, username), attributes)


@fixes(CognitoIdpBackend)
def update_user_attributes(original: Any, backend: Any, access_token: str, attributes: list[dict[str, str]]) -> None:
    """The app client may only write its `WriteAttributes`."""
    pool, client, user = _signed_in(backend, access_token)
    _check_writable(pool, client, attributes)
    with _cognito_lock:
        _update(pool, user, attributes)


@fixes(CognitoIdpBackend)
def get_user(original: Any, backend: Any, access_token: str) -> CognitoIdpUser:
    """The app client only reads its `ReadAttributes`."""
    user = copy.copy(original(backend, access_token))
    pool, client, _ = _signed_in(backend, access_token)
    readable = {*_allowed(pool, client, "ReadAttributes"), "sub"}
    user.attributes = [entry for entry in user.attributes if entry["Name"] in readable]
    return user


@fixes(CognitoIdpBackend)
def admin_disable_user(original: Any, backend: Any, user_pool_id: str, username: str) -> None:
    """Disabling revokes the user's tokens; enabling does not bring them back."""
    original(backend, user_pool_id, username)
    backend.admin_user_global_sign_out(user_pool_id, username)


@fixes(CognitoIdpResponse)
def list_users(original: Any, response: Any) -> ActionResult:
    """An attribute that is asked for by name must be one of the schema, and everybody on the page must have it."""
    answer: Any = original(response)
    if names := set(response._get_param("AttributesToGet") or []):
        pool = response.backend.describe_user_pool(response._get_param("UserPoolId"))
        users = answer.result["Users"]
        had_by_all = [names <= {entry["Name"] for entry in user["Attributes"]} for user in users]
        if not names <= pool.schema_attributes.keys() or not all(had_by_all):
            raise InvalidParameterException("One or more requested attributes do not exist.")
    return ActionResult(answer.result)


@fixes(CognitoIdpBackend)
def list_users(  # noqa: F811
    original: Any,
    backend: Any,
    user_pool_id: str,
    filt: str | None,
    limit: int | None = None,
    pagination_token: str | None = None,
) -> tuple[list[Any], str | None]:
    """A page has at most 60 users, and begins behind the last one of the page before, whoever is deleted meanwhile."""
    if (limit or 0) > 60:
        raise InvalidParameterException("Value at 'limit' must be less than or equal to 60")
    after = _serial_of(pagination_token, filt)
    users = _matching(original, backend, user_pool_id, filt)
    start = bisect.bisect_right(users, after, key=lambda user: user.serial)
    page = users[start : start + (limit or 60)]
    if start + len(page) == len(users):
        return page, None
    return page, base64.b64encode(json.dumps([page[-1].serial, filt]).encode()).decode()


def _serial_of(token: str | None, filt: str | None) -> int:
    """Of the last user before the page that the token stands for; a token is good for its own filter."""
    if token is None:
        return 0
    try:
        serial, its_filter = json.loads(base64.b64decode(token))
    except ValueError:
        serial, its_filter = None, None
    if not isinstance(serial, int) or its_filter != filt:
        raise InvalidParameterException("Invalid pagination token")
    return serial


def _matching(original: Any, backend: Any, user_pool_id: str, filt: str | None) -> list[Any]:
    """Whom the filter means; the pool says whether capitals of an e-mail address matter."""
    parts = re.fullmatch(r'\s*(sub|email)\s*(\^?=)\s*"(.*)"\s*', filt or "")
    if parts is None:
        return list(original.__wrapped__(backend, user_pool_id, filt))
    pool = backend.describe_user_pool(user_pool_id)
    name, comparison, value = parts[1], parts[2], _folded(pool, re.sub(r"\\(.)", r"\1", parts[3])) or ""
    values = [
        (user, _folded(pool, user.attribute_lookup.get(name)) or "")
        for user in (pool.users.named(value) if comparison == "=" else list(pool.users.values()))
    ]
    return [user for user, its in values if (its == value if comparison == "=" else its.startswith(value))]


@fixes(CognitoIdpBackend)
def sign_up(
    original: Any,
    backend: Any,
    client_id: str,
    username: str,
    password: str,
    attributes: list[dict[str, str]],
) -> Any:
    """Refused when only administrators create users; attributes follow schema and client."""
    with _cognito_lock:
        pool = _pool_of(backend, client_id)
        if pool:
            if pool.extended_config["AdminCreateUserConfig"].get("AllowAdminCreateUserOnly"):
                raise NotAuthorizedError("SignUp is not permitted for this user pool")
            _check_writable(pool, pool.clients[client_id], attributes)
            _check_attributes(pool, attributes)
        return original(backend, client_id, username, password, attributes)


@fixes(CognitoIdpBackend)
def initiate_auth(original: Any, backend: Any, client_id: str, auth_flow: str, auth_parameters: dict[str, str]) -> Any:
    """Only flows that the client allows; revoked tokens and temporary passwords that have expired are refused."""
    pool = _pool_of(backend, client_id)
    if pool:
        _check_sign_in(pool, client_id, auth_flow, auth_parameters)
    with _tokens_of(_flow_source(auth_flow)):
        return _challenge(pool, original(backend, client_id, auth_flow, auth_parameters))


@fixes(CognitoIdpBackend)
def admin_initiate_auth(
    original: Any,
    backend: Any,
    user_pool_id: str,
    client_id: str,
    auth_flow: str,
    auth_parameters: dict[str, str],
) -> Any:
    """The same for administrators."""
    pool = backend.describe_user_pool(user_pool_id)
    if client_id in pool.clients:
        _check_sign_in(pool, client_id, auth_flow, auth_parameters)
    with _tokens_of(_flow_source(auth_flow)):
        return _challenge(pool, original(backend, user_pool_id, client_id, auth_flow, auth_parameters))


@fixes(CognitoIdpBackend)
def respond_to_auth_challenge(
    original: Any, backend: Any, session: str, client_id: str, challenge_name: str, *args: Any, **kwargs: Any
) -> Any:
    """A user who was disabled between sign-in and challenge does not get in."""
    if session in backend.sessions:
        username, pool = backend.sessions[session]
        if not pool._get_user(username).enabled:
            raise NotAuthorizedError("User is disabled.")
    new_password = challenge_name == "NEW_PASSWORD_REQUIRED"
    with _tokens_of("TokenGeneration_NewPasswordChallenge" if new_password else "TokenGeneration_Authentication"):
        return original(backend, session, client_id, challenge_name, *args, **kwargs)


@fixes(CognitoIdpUserPool)
def create_refresh_token(original: Any, pool: Any, client_id: str, username: str) -> Any:
    """A token belongs to the user, under whichever name they signed in."""
    return original(pool, client_id, pool._get_user(username).username)


@fixes(CognitoIdpUserPool)
def create_access_token(original: Any, pool: Any, client_id: str, username: str, origin_jti: str) -> Any:
    """The same."""
    return original(pool, client_id, pool._get_user(username).username, origin_jti)


@fixes(CognitoIdpUserPool)
def sign_out(original: Any, pool: Any, username: str) -> None:
    """Signing out by any name of the user ends all sessions of the user."""
    original(pool, pool._get_user(username).username)


@fixes(CognitoIdpUserPool)
def create_id_token(original: Any, pool: Any, client_id: str, username: str, origin_jti: str) -> tuple[str, int]:
    """Claims are the attributes that the client may read; `email_verified` is a boolean."""
    user = pool._get_user(username)
    readable = _allowed(pool, pool.clients[client_id], "ReadAttributes")
    claims: dict[str, Any] = {
        name: value == "true" if pool.schema_attributes[name].data_type == "Boolean" else value
        for name, value in user.attribute_lookup.items()
        if name in readable
    }
    claims["origin_jti"] = origin_jti
    if user.groups:
        claims["cognito:groups"] = [group.group_name for group in user.groups]
    token, seconds = pool.create_jwt(client_id, username, "id", extra_data=claims)
    pool.id_tokens[token] = (client_id, user.username)
    return token, seconds


@fixes(CognitoIdpUserPool)
def create_jwt(
    original: Any,
    pool: Any,
    client_id: str,
    username: str,
    token_use: str,
    expires_in: int = 3600,
    extra_data: dict[str, Any] | None = None,
) -> Any:
    """Tokens live as long as the client says, and hold the claims that the pre-token-generation trigger adds."""
    config = pool.clients[client_id].extended_config
    kind = {"id": "IdToken", "access": "AccessToken"}[token_use]
    unit = (config.get("TokenValidityUnits") or {}).get(kind, "hours")
    seconds = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}[unit]
    lifetime = int(config.get(f"{kind}Validity") or 0) * seconds or expires_in
    added, suppressed = _overrides(pool, client_id, pool._get_user(username), token_use)
    claims = {**(extra_data or {}), **added}
    claims = {name: value for name, value in claims.items() if name not in suppressed}
    token, lifetime = original(pool, client_id, username, token_use, lifetime, claims)
    said = jwt.decode(token, pool.json_web_key).claims
    if "email" not in claims:  # moto says the username there
        said.pop("email", None)
    return jwt.encode({"kid": pool.json_web_key.kid, "alg": "RS256"}, said, pool.json_web_key), lifetime


_RESERVED = frozenset(
    {"acr", "amr", "at_hash", "aud", "auth_time", "azp", "client_id", "device_key", "event_id", "exp"}
)
_RESERVED |= {"iat", "identities", "iss", "jti", "nbf", "nonce", "origin_jti", "scope", "sub", "token_use", "username"}
_RESERVED |= {"version"}
_GENERATIONS = {"id": "idTokenGeneration", "access": "accessTokenGeneration"}


class InvalidLambdaResponseError(JsonRESTError):
    """The trigger's answer cannot be used."""

    def __init__(self, message: str) -> None:
        super().__init__("InvalidLambdaResponseException", message)


@contextmanager
def _tokens_of(source: str) -> Iterator[None]:
    """The tokens that are made in this block belong together: the trigger is asked once for them."""
    _request.source, _request.details = source, None
    try:
        yield
    finally:
        _request.source = _request.details = None


def _flow_source(flow: str) -> str:
    return "TokenGeneration_RefreshTokens" if "REFRESH_TOKEN" in flow else "TokenGeneration_Authentication"


def _overrides(pool: Any, client_id: str, user: Any, token_use: str) -> tuple[dict[str, Any], set[str]]:
    """Claims to add and claims to leave out; reserved ones stay what they are."""
    config = (pool.extended_config.get("LambdaConfig") or {}).get("PreTokenGenerationConfig")
    if not config:
        return {}, set()
    if getattr(_request, "details", None) is None:
        _request.details = _pre_token_generation(pool, config, client_id, user)
    details = _request.details
    if config["LambdaVersion"] == "V1_0":
        token = details if token_use == "id" else {}
    else:
        token = details.get(_GENERATIONS[token_use]) or {}
    if token.get("scopesToAdd") or token.get("scopesToSuppress"):
        raise NotImplementedError("the local stack has no scopes")
    added = _free(token.get("claimsToAddOrOverride") or {})
    suppressed = set(_free(dict.fromkeys(token.get("claimsToSuppress") or [])))
    if "groupOverrideDetails" in details:
        # Cognito's guide: an empty or null object suppresses the groups.
        if groups := (details["groupOverrideDetails"] or {}).get("groupsToOverride"):
            added["cognito:groups"] = groups
        else:
            suppressed.add("cognito:groups")
    return added, suppressed


def _free(claims: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in claims.items()
        if name not in _RESERVED and not name.startswith(("cognito:", "dev:"))
    }


def _pre_token_generation(pool: Any, config: dict[str, str], client_id: str, user: Any) -> dict[str, Any]:
    """Runs the trigger; no token is made when it fails."""
    first = config["LambdaVersion"] == "V1_0"
    groups = [group.group_name for group in user.groups]
    request: dict[str, Any] = {
        "userAttributes": {**user.attribute_lookup, "cognito:user_status": user.status},
        "groupConfiguration": {"groupsToOverride": groups, "iamRolesToOverride": [], "preferredRole": None},
    }
    if not first:
        request["scopes"] = ["aws.cognito.signin.user.admin"]
    answer_name = "claimsOverrideDetails" if first else "claimsAndScopeOverrideDetails"
    event = {
        "version": "1" if first else "2",
        "triggerSource": getattr(_request, "source", None) or "TokenGeneration_Authentication",
        "region": pool.region,
        "userPoolId": pool.id,
        "userName": user.username,
        "callerContext": {"awsSdkVersion": "aws-sdk-unknown-unknown", "clientId": client_id},
        "request": request,
        "response": {answer_name: None},
    }
    try:
        answer = invoke(config["LambdaArn"], json.dumps(event).encode())
    except Exception as error:
        message = f"PreTokenGeneration invocation failed due to error {type(error).__name__}."
        raise JsonRESTError("UnexpectedLambdaException", message) from None
    document = json.loads(answer.payload)
    if answer.failed:
        message = f"PreTokenGeneration failed with error {document.get('errorMessage')}."
        raise JsonRESTError("UserLambdaValidationException", message)
    response = document.get("response") if isinstance(document, dict) else None
    details = (response.get(answer_name) or {}) if isinstance(response, dict) else None
    if not isinstance(details, dict) or not _understood(details, first=first):
        raise InvalidLambdaResponseError("Unrecognizable lambda output")
    return details


def _understood(details: dict[str, Any], *, first: bool) -> bool:
    """Whether claims and groups have the types that Cognito takes."""
    tokens = [details] if first else [details.get(name) or {} for name in _GENERATIONS.values()]
    groups = details.get("groupOverrideDetails") or {}
    return (
        all(isinstance(each, dict) for each in (*tokens, groups))
        and all(isinstance(token.get("claimsToAddOrOverride") or {}, dict) for token in tokens)
        and all(_texts(token.get("claimsToSuppress") or []) for token in tokens)
        and _texts(groups.get("groupsToOverride") or [])
        and (not first or _texts([*(details.get("claimsToAddOrOverride") or {}).values()]))
    )


def _texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def rotate_keys(pool: Any, *, withdraw: bool) -> None:
    """The pool signs with a new key; the old ones are published as before, or withdrawn."""
    old = [] if withdraw else _published(pool)
    pool.json_web_key = RSAKey.generate_key(2048, {"kid": uuid.uuid4().hex, "alg": "RS256", "use": "sig"})
    pool.published_keys = [*old, pool.json_web_key]


def published_keys(pool: Any) -> dict[str, Any]:
    """The JWKS document of the pool."""
    return {"keys": [{"alg": "RS256", "use": "sig", **key.as_dict(private=False)} for key in _published(pool)]}


def _published(pool: Any) -> list[Any]:
    return list(getattr(pool, "published_keys", [pool.json_web_key]))


def _folded(pool: Any, name: str | None) -> str | None:
    case = pool.extended_config.get("UsernameConfiguration", {}).get("CaseSensitive", True)
    return name if case or name is None else name.lower()


def _pool_of(backend: Any, client_id: str) -> Any:
    return next((pool for pool in backend.user_pools.values() if client_id in pool.clients), None)


def _signed_in(backend: Any, access_token: str) -> tuple[Any, Any, Any]:
    """Pool, client and user of an access token."""
    for pool in backend.user_pools.values():
        if access_token in pool.access_tokens:
            client_id, username = pool.access_tokens[access_token]
            user = pool._get_user(username)
            if user:
                return pool, pool.clients[client_id], user
    raise NotAuthorizedError("Access Token has been revoked")


def _allowed(pool: Any, client: Any, kind: str) -> set[str]:
    """The attributes that a client may read or write; without a list, the standard ones."""
    listed = client.extended_config.get(kind)
    standard = cognito.CognitoIdpUserPoolAttribute.STANDARD_SCHEMA
    return set(listed) if listed else set(standard)


def _check_writable(pool: Any, client: Any, attributes: list[dict[str, str]]) -> None:
    if flatten_attrs(attributes).keys() - _allowed(pool, client, "WriteAttributes"):
        raise NotAuthorizedError("A client attempted to write unauthorized attribute")


def _check_attributes(pool: Any, attributes: list[dict[str, str]], *, update: bool = False) -> None:
    """Raises InvalidParameterException for what the pool's schema does not take."""
    for name, value in flatten_attrs(attributes).items():
        schema = pool.schema_attributes.get(name)
        prefix = "Attributes did not conform to the schema: "
        if schema is None:
            raise InvalidParameterException(f"{prefix}Type for attribute {{{name}}} could not be determined")
        if name == "sub" or (update and not schema.mutable):
            raise InvalidParameterException(f"user.{name}: Attribute cannot be updated.")
        if problem := _problem(schema, value):
            raise InvalidParameterException(f"{prefix}{name}: {problem}")


def _problem(schema: Any, value: str) -> str | None:
    """Why the value does not fit its attribute."""
    match schema.data_type:
        case "Number":
            limits = schema.number_constraints or {}
            low, high = limits.get("MinValue"), limits.get("MaxValue")
            if not re.fullmatch(r"-?\d+", value):
                return "Attribute must be a number"
            if (low and int(value) < int(low)) or (high and int(value) > int(high)):
                return f"Attribute must be between {low} and {high}"
        case "String":
            limits = schema.string_constraints or {}
            shortest = int(limits.get("MinLength") or 0)
            longest = int(limits.get("MaxLength") or 2048)
            if not shortest <= len(value) <= longest:
                return f"String must have {shortest} to {longest} characters"
        case "Boolean" if value not in ("true", "false"):
            return "Attribute must be true or false"
    if schema.name == "email" and not _looks_like(value):
        return "Invalid email address format."
    return None


def _update(pool: Any, user: Any, attributes: list[dict[str, str]]) -> None:
    blank = [entry["Name"] for entry in attributes if not entry.get("Value")]
    filled = [entry for entry in attributes if entry.get("Value")]
    _check_attributes(pool, filled, update=True)
    _check_attributes(pool, [{"Name": name, "Value": "0"} for name in blank if name == "sub"])
    values = flatten_attrs(filled)
    if email := values.get("email"):
        unique = "email" in (pool.extended_config.get("UsernameAttributes") or [])
        if unique and pool._get_user(email) not in (None, user):
            raise AliasExistsException
        if email != user.attribute_lookup.get("email") and "email_verified" not in values:
            filled = [*filled, {"Name": "email_verified", "Value": "false"}]
    user.update_attributes(filled)
    user.delete_attributes([name for name in blank if name in user.attribute_lookup])


def _check_sign_in(pool: Any, client_id: str, flow: str, parameters: dict[str, str]) -> None:
    client = pool.clients[client_id]
    default = ["ALLOW_REFRESH_TOKEN_AUTH", "ALLOW_USER_SRP_AUTH", "ALLOW_CUSTOM_AUTH"]
    allowed = client.extended_config.get("ExplicitAuthFlows") or default
    full = {"REFRESH_TOKEN": "REFRESH_TOKEN_AUTH", "ADMIN_NO_SRP_AUTH": "ADMIN_USER_PASSWORD_AUTH"}
    if not {flow, f"ALLOW_{full.get(flow, flow)}"} & set(allowed):
        raise InvalidParameterException(f"{flow} flow not enabled for this client")
    if "REFRESH_TOKEN" in flow:
        issued = pool.refresh_tokens.get(parameters.get("REFRESH_TOKEN", ""))
        if issued is None or pool._get_user(issued[1]) is None:
            raise NotAuthorizedError("Refresh Token has been revoked")
        return
    user = pool._get_user(parameters.get("USERNAME", ""))
    if user is None:
        if client.extended_config.get("PreventUserExistenceErrors") == "ENABLED":
            raise NotAuthorizedError("Incorrect username or password.")
        raise UserNotFoundError("User does not exist.")
    if user.password == parameters.get("PASSWORD") and _expired(pool, user):
        raise NotAuthorizedError("Temporary password has expired and must be reset by an administrator.")


def _expired(pool: Any, user: Any) -> bool:
    """Whether the user never signed in, and their temporary password is too old for it."""
    policy = pool.extended_config.get("Policies", {}).get("PasswordPolicy", {})
    lifetime = timedelta(days=int(policy.get("TemporaryPasswordValidityDays") or 7))
    return user.status == cognito.UserStatus.FORCE_CHANGE_PASSWORD and utcnow() >= user.invited_at + lifetime


def _challenge(pool: Any, answer: Any) -> Any:
    """NEW_PASSWORD_REQUIRED tells which user it is about."""
    if answer and answer.get("ChallengeName") == "NEW_PASSWORD_REQUIRED":
        username, _ = pool.backend.sessions[answer["Session"]]
        user = pool._get_user(username)
        attributes = {k: v for k, v in user.attribute_lookup.items() if k != "sub"}
        answer["ChallengeParameters"] = {
            "USER_ID_FOR_SRP": user.username,
            "requiredAttributes": "[]",
            "userAttributes": json.dumps(attributes),
        }
    return answer


def _generate_password(pool: Any) -> str:
    """A password that fits the pool's policy."""
    policy = pool.extended_config.get("Policies", {}).get("PasswordPolicy", {})
    length = max(int(policy.get("MinimumLength") or 8), 12)
    kinds = [string.ascii_lowercase, string.ascii_uppercase, string.digits]
    if policy.get("RequireSymbols", True):
        kinds.append("!#%*+=?@")
    letters = [secrets.choice(kind) for kind in kinds]
    letters += [secrets.choice("".join(kinds)) for _ in range(length - len(letters))]
    secrets.SystemRandom().shuffle(letters)
    return "".join(letters)


# -------------------------------------------------------------------------------------- every service

# Answering is cheap: moto lists its own folders for every request, for 1 ms of ours.
_modules = tuple(moto.backends.list_of_moto_modules())
moto.backends.list_of_moto_modules = lambda: _modules

_TYPES = frozenset(("B", "BOOL", "BS", "L", "M", "N", "NS", "NULL", "S", "SS"))


@fixes(AttributePicker)
def __call__(original: Any, picker: Any, context: Any) -> Any:  # noqa: N807
    """So is DynamoDB's {"S": "text"}: moto looks for all ten types in it, under six names each."""
    value = context.obj
    if type(value) is dict and len(value) == 1 and context.key in _TYPES and not value.keys().isdisjoint(_TYPES):
        return value.get(context.key)
    return original(picker, context)


# ----------------------------------------------------------------------------------------- DynamoDB

_table_lock = threading.RLock()
_transactions: set[str] = set()


def _one_at_a_time(call: Callable[..., Any]) -> Callable[..., Any]:
    """What one call reads and writes is consistent: in moto a read adds an empty row under a loop over all rows."""

    @functools.wraps(call)
    def locked(*args: Any, **kwargs: Any) -> Any:
        with _table_lock:
            return call(*args, **kwargs)

    return locked


_OPERATIONS = ("delete_item", "get_item", "put_item", "query", "scan", "transact_write_items", "update_item")
for _name in (*_OPERATIONS, "batch_get_item", "batch_write_item"):
    setattr(DynamoHandler, _name, _one_at_a_time(getattr(DynamoHandler, _name)))


@fixes(DynamoHandler)
def transact_write_items(original: Any, handler: Any) -> Any:
    """A transaction sent again with its token (the SDK's retry) has happened and is not repeated."""
    token = handler.body.get("ClientRequestToken", "")
    with _table_lock:
        if token and token in _transactions:
            return ActionResult({})
        answer = original(handler)
        _transactions.add(token)
        return answer


@fixes(DynamoHandler)
def batch_write_item(original: Any, handler: Any) -> ActionResult:
    """At most 25 writes, and only one of each row: moto compares whole rows, and the deletions by themselves."""
    requests = [(name, each) for name, several in handler.body["RequestItems"].items() for each in several]
    if len(requests) > 25:
        raise MockValidationException("Too many items requested for the BatchWriteItem call")
    rows = set()
    for name, request in requests:
        row = request["PutRequest"]["Item"] if "PutRequest" in request else request["DeleteRequest"]["Key"]
        names = handler.dynamodb_backend.get_table(name).table_key_attrs
        rows.add((name, *(str(row.get(attribute)) for attribute in names)))
    if len(rows) < len(requests):
        raise MockValidationException("Provided list of item keys contains duplicates")
    answer: ActionResult = original(handler)
    return answer


class Rows(defaultdict[Any, Any]):
    """The rows of a table by hash key, which can be gone through in the order of their keys without sorting them."""

    def __init__(self) -> None:
        super().__init__(dict)
        self._order: list[tuple[Any, Any]] = []
        self._ordered: set[Any] = set()
        self._new: list[Any] = []

    def __setitem__(self, key: Any, value: Any) -> None:
        if key not in self:
            self._new.append(key)
        super().__setitem__(key, value)

    def __missing__(self, key: Any) -> Any:
        self[key] = value = {}
        return value

    def __deepcopy__(self, memo: dict[int, Any]) -> Rows:
        """What a backup takes."""
        copied = Rows()
        for key, value in self.items():
            copied[copy.deepcopy(key, memo)] = copy.deepcopy(value, memo)
        return copied

    def keys_from(self, first: Any = None) -> Iterator[Any]:
        """The hash keys in order, beginning with this one."""
        new = set(self._new) - self._ordered
        self._new.clear()
        if new:
            self._ordered |= new
            self._order = sorted([*self._order, *((key.cast_value, key) for key in new)], key=lambda pair: pair[0])
        start = 0 if first is None else bisect.bisect_left(self._order, first.cast_value, key=lambda pair: pair[0])
        return (key for _, key in itertools.islice(self._order, start, None) if key in self)


def _in_order(table: Any, keys: Iterable[Any]) -> Iterator[Item]:
    for key in keys:
        if table.range_key_attr is None:
            yield table.items[key]
        else:
            yield from sorted(table.items[key].values(), key=lambda row: row.range_key)


@fixes(Table)
def __init__(original: Any, table: Any, *args: Any, **more: Any) -> None:  # noqa: N807, F811
    """Tables can be large."""
    original(table, *args, **more)
    table.items = Rows()


@fixes(Table)
def all_items(original: Any, table: Any) -> list[Item]:
    """Rows cost what they are: moto sorts all of them for every page, and for every query of an index."""
    return list(_in_order(table, table.items.keys_from()))


@fixes(Table)
def scan(
    original: Any,
    table: Any,
    filters: Any,
    limit: Any,
    exclusive_start_key: Any,
    *args: Any,
    segments: Any,
    **more: Any,
) -> Any:
    """A page costs what it reads: moto goes through all pages before it."""
    if args[1] is None:
        start = DynamoType(exclusive_start_key[table.hash_key_attr]) if exclusive_start_key else None
        rows = _in_order(table, table.items.keys_from(start))
        table.all_items = lambda: rows
    try:
        return original(table, filters, limit, exclusive_start_key, *args, segments=segments, **more)
    finally:
        vars(table).pop("all_items", None)


@fixes(DynamoDBBackend)
def transact_write_items(original: Any, backend: Any, transact_items: list[dict[str, Any]]) -> None:  # noqa: F811
    """A transaction costs what it touches: moto copies all rows of the table first, to restore them if it fails."""
    before: list[tuple[Any, Any, Any]] = []
    for operation in (one for entry in transact_items for one in entry.values()):
        if (table := backend.tables.get(operation.get("TableName"))) is not None:
            row = operation.get("Key") or operation.get("Item") or {}
            key = DynamoType(row[table.hash_key_attr])
            before.append((table.items, key, copy.deepcopy(table.items.get(key))))

    def kept(value: Any) -> Any:
        return value if isinstance(value, Table) else copy.deepcopy(value)

    dynamodb_models.copy = SimpleNamespace(deepcopy=kept)
    try:
        original(backend, transact_items)
    except BaseException:
        for rows, key, stood in before:
            rows.pop(key, None)
            if stood is not None:
                rows[key] = stood
        raise
    finally:
        dynamodb_models.copy = copy


@fixes(Table)
def query(original: Any, table: Any, hash_key: Any, *args: Any, **more: Any) -> Any:
    """A query costs what it finds: moto compares its key with every row of the table, at 10 µs each."""
    index = next((each for each in table.all_indexes() if each.name == args[6]), None)
    if index is not None:
        (key,) = [each["AttributeName"] for each in index.schema if each["KeyType"] == "HASH"]
        several = ((rows,) if table.range_key_attr is None else rows.values() for rows in table.items.values())
        found = ((row, row.attrs.get(key)) for some in several for row in some)
        rows = [row for row, value in found if value is not None and value.value == hash_key.value]
    elif table.range_key_attr and args[6] is None:
        rows = list(table.items[hash_key].values()) if hash_key in table.items else []
    else:
        return original(table, hash_key, *args, **more)
    table.all_items = lambda: rows
    try:
        return original(table, hash_key, *args, **more)
    finally:
        del table.all_items


# ------------------------------------------------------------------------------------ Step Functions

default_user_config["stepfunctions"] = {"execute_state_machine": True}

# An error that a Catch handles is no error: moto logs each, with the whole program as text.
logging.getLogger("moto.stepfunctions.parser").setLevel(logging.CRITICAL)
EvalComponent._log_failure_event_exception = lambda *_, **__: None
EvalComponent._log_exception = lambda *_, **__: None

_start_lock = threading.Lock()
_client_lock = threading.Lock()
_clients: dict[tuple[str, str, str], Any] = {}


def _sleep(seconds: float) -> None:
    stopping.wait(seconds * retry_scale)


retrier_decl.time = SimpleNamespace(sleep=_sleep)


def client_for(region: str, service: str, state_credentials: Any = None) -> Any:
    """The interpreter's client of a service: moto makes one for every task, at 0.2 s each."""
    role = getattr(state_credentials, "role_arn", "")
    with _client_lock:
        key = (endpoint, service, role)
        if key not in _clients:
            _clients[key] = boto3.client(
                service,
                region_name=region,
                endpoint_url=endpoint,
                aws_access_key_id=access_keys.get(role, "local"),
                aws_secret_access_key="local",
                config=Config(
                    parameter_validation=False,
                    proxies={},
                    retries={"total_max_attempts": 1},
                    read_timeout=None,
                    max_pool_connections=100,
                ),
            )
        return _clients[key]


def close_clients() -> None:
    """Closes the interpreter's connections."""
    with _client_lock:
        for client in _clients.values():
            client.close()
        _clients.clear()


_original_client_for = boto_client.boto_client_for
for _module in [m for name, m in sys.modules.items() if name.startswith("moto.stepfunctions.")]:
    if getattr(_module, "boto_client_for", None) is _original_client_for:
        _module.boto_client_for = client_for


@fixes(StepFunctionsParserBackend)
def start_execution(
    original: Any,
    backend: Any,
    state_machine_arn: str,
    name: str | None = None,
    execution_input: str | None = None,
    trace_header: Any = None,
) -> Any:
    """One name is one execution, also when two ask at once; AWS makes up a missing one. An alias is its machine."""
    with _start_lock:
        name = name or str(uuid.uuid4())
        machine = aliases.get(state_machine_arn, state_machine_arn)
        return original(backend, machine, name, execution_input or "{}", trace_header)


@fixes(ExecutionWorker)
def _get_evaluation_entrypoint(original: Any, worker: Any) -> Any:
    """Starting an execution is cheap: moto parses the definition anew, for 65 ms of ours."""
    return _program(worker._evaluation_details.state_machine_details.definition)


@functools.lru_cache(maxsize=8)
def _program(definition: str) -> Any:
    # What an execution remembers is in its environment, not in the program.
    return AmazonStateLanguageParser.parse(definition)[0]


# So is following a path: each `$.billing.access` is parsed anew, by a parser that is built anew, for 10 ms of ours.
result_path.parse = functools.lru_cache(maxsize=256)(result_path.parse)
json_path.parse = functools.lru_cache(maxsize=256)(json_path.parse)


@fixes(ExecutionWorker)
def _execution_logic(original: Any, worker: Any) -> None:
    """An execution ends in any case; whoever waits for it is told."""
    execution = worker._execution_communication.execution
    try:
        original(worker)
    except Exception as error:
        execution.error, execution.cause = "States.Runtime", repr(error)
        execution.stop_date = datetime.now(UTC)
        execution.exec_status = ExecutionStatus.FAILED
    finally:
        with execution_ended:
            execution_ended.notify_all()


class _Forgotten(list[Any]):
    """Threads are not kept: each keeps its stack, and at 30,000 no other can start."""

    def append(self, thread: Any) -> None:
        """Nobody asks for it."""


_kept_threads = parser_utils.TMP_THREADS
for _module in [m for name, m in sys.modules.items() if name.startswith("moto.stepfunctions.")]:
    if getattr(_module, "TMP_THREADS", None) is _kept_threads:
        _module.TMP_THREADS = _Forgotten()


class _AnyErrorName(ErrorName):
    """The name of an error that a Fail state passes on, also one that the language itself has given."""


state_fail.CustomErrorName = _AnyErrorName


def _map_run_failure(env: Any, error: StatesErrorNameType, cause: str) -> FailureEventException:
    name = StatesErrorName(error)
    details = MapRunFailedEventDetails(error=name.error_name, cause=cause)
    return FailureEventException(
        FailureEvent(
            env=env,
            error_name=name,
            event_type=HistoryEventType.MapRunFailed,
            event_details=EventDetails(mapRunFailedEventDetails=details),
        )
    )


@fixes(DistributedIterationComponent)
def _map_run(original: Any, component: Any, env: Any, eval_input: Any) -> None:
    """Children are executions, which the role of the machine must be allowed to start."""
    machine = env.states.context_object.context_object_data["StateMachine"]["Id"]
    if why := refusal(env.aws_execution_details.role_arn, machine):
        raise _map_run_failure(env, StatesErrorNameType.StatesPermissions, why)
    record = eval_input.map_run_record
    if record.tolerated_failure_count or record.tolerated_failure_percentage:
        raise NotImplementedError("the local stack tolerates no failed child of a Distributed Map")
    original(component, env, eval_input)


@fixes(DistributedItemProcessorWorker)
def _eval_input(original: Any, worker: Any, env_frame: Any) -> None:
    """A child is an execution of its own, with its item as input."""
    original(worker, env_frame)
    name, machine = str(uuid.uuid4()), worker._map_run_record.map_state_machine_arn
    context = env_frame.states.context_object.context_object_data
    context["Execution"] = {
        **context["Execution"],
        "Id": f"{machine.replace(':stateMachine:', ':execution:')}:{name}",
        "Name": name,
        "Input": env_frame.states.get_input(),
    }


@fixes(DistributedItemProcessorWorker)
def eval(original: Any, worker: Any) -> None:  # noqa: A001
    """A child that fails fails the Map Run, and no other is started; there may be any number of them."""
    while (job := worker._job_pool.next_job()) is not None:
        child = worker._env.open_inner_frame()
        worker._eval_job(env=child, job=job)
        worker._env.delete_frame(child)
        if not isinstance(child.program_state(), ProgramEnded):
            cause = "The specified tolerated failure threshold was exceeded"
            exceeded = StatesErrorNameType.StatesExceedToleratedFailureThreshold
            job.job_output = _map_run_failure(worker._env, exceeded, cause)
        worker._job_pool.close_job(job)


@fixes(StateTaskLambda)
def _from_error(original: Any, state: Any, env: Any, ex: Exception) -> FailureEvent:
    """A refusal of the Lambda service is `Lambda.` and the name of the exception in its Java SDK."""
    if isinstance(ex, ClientError):
        client = client_for(env.aws_execution_details.region, "lambda")
        modelled = {e.name for e in client.meta.service_model.operation_model("Invoke").error_shapes}
        code = ex.response["Error"]["Code"]
        error = f"Lambda.{code if code in modelled else 'AWSLambdaException'}"
        cause = ex.response["Error"]["Message"]
    elif isinstance(ex, BotoCoreError):
        error, cause = "Lambda.SdkClientException", str(ex)
    else:
        failure: FailureEvent = original(state, env, ex)
        return failure
    return FailureEvent(
        env=env,
        error_name=CustomErrorName(error),
        event_type=HistoryEventType.LambdaFunctionFailed,
        event_details=EventDetails(
            lambdaFunctionFailedEventDetails=LambdaFunctionFailedEventDetails(error=error, cause=cause)
        ),
    )


@fixes(Environment)
def set_error(original: Any, env: Any, error: Any) -> None:
    """A task that fails after the execution was stopped or timed out changes nothing."""
    if env.is_running():
        original(env, error)


@fixes(BaseExecutionWorkerCommunication)
def _reflect_execution_status(original: Any, communication: Any) -> None:
    """An output that is a text is still JSON."""
    original(communication)
    execution = communication.execution
    if isinstance(execution.output, str):
        execution.output = json.dumps(execution.output)


@fixes(Execution)
def get_start_execution_details(original: Any, execution: Any) -> Any:
    """`$$.Execution.StartTime` is a text."""
    details = original(execution)
    details.start_time = execution.start_date.isoformat(timespec="milliseconds")[:-6] + "Z"
    return details


@fixes(StepFunctionResponse)
def stop_execution(original: Any, response: Any) -> ActionResult:
    """StopExecution ends it at once, whatever its task still does, and keeps error and cause."""
    backend = response.stepfunction_backend
    execution = backend.describe_execution(response._get_param("executionArn"))
    if execution.exec_status == ExecutionStatus.RUNNING:
        execution.error = response._get_param("error")
        execution.cause = response._get_param("cause")
        execution.stop_date = datetime.now(UTC)
        execution.stop(execution.stop_date, execution.error or "", execution.cause or "")
        with execution_ended:
            execution.exec_status = ExecutionStatus.ABORTED
            execution_ended.notify_all()
    return ActionResult({"stopDate": execution.stop_date})


@fixes(StepFunctionResponse)
def get_execution_history(original: Any, response: Any) -> ActionResult:
    """`reverseOrder` and `maxResults` are honoured."""
    backend = response.stepfunction_backend
    history = backend.get_execution_history(response._get_param("executionArn"))["events"]
    events = list(reversed(history) if response._get_param("reverseOrder") else history)
    start = int(response._get_param("nextToken") or 0)
    end = start + int(response._get_param("maxResults") or 1000)
    more = {"nextToken": str(end)} if end < len(events) else {}
    return ActionResult({"events": events[start:end], **more})
