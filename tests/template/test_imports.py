"""Who may import what: the pure core stays pure, and each service has one module that speaks to it."""

import ast
import re
from collections.abc import Callable

import pytest

from tests.template.conftest import application, calls, imports

Sources = dict[str, str]
Rule = Callable[[Sources], list[str]]

PURE = ("gateway/access.py", "gateway/drift.py", "gateway/events.py", "gateway/explanation.py")
IMPURE = {"boto3", "botocore", "stripe", "aws_lambda_powertools", "os", "time", "datetime", "random", "secrets", "uuid"}
IMPURE |= {"io", "pathlib", "socket", "subprocess", "urllib", "http", "requests", "logging"}
PURE_NEIGHBOURS = {"gateway.access", "gateway.errors", "gateway.events"}

# A method that only this service has -> the only module that may call it.
SPEAKERS = {
    r"admin_\w+|list_users|(?:list|describe)_user_pool\w*": "gateway/users.py",
    r"(?:batch_)?get_item|(?:put|update|delete)_item|transact_write_items|batch_write_item": "gateway/ledger.py",
    r"scan(?=\()": "gateway/ledger.py",
    r"start_execution|stop_execution|list_executions|describe_execution": "gateway/executions.py",
    r"(?:get|put)_secret_value": "gateway/secret.py",
    r"put_events|TopicArn": "gateway/notices.py",
}
# A service -> the classes that speak to it.
OWNERS = {
    "cognito-idp": ("Users", "ListedUsers", "Pool"),
    "dynamodb": ("Ledger",),
    "events": ("Notices",),
    "secretsmanager": ("Secret",),
    "sns": ("Notices",),
    "stepfunctions": ("StateMachine",),
}
BOTO3 = {"gateway/aws.py": {"boto3"}, "gateway/ledger.py": {"boto3.dynamodb.types"}}
STRIPE = ("gateway/billing.py", "gateway/signature.py")


def _handlers(sources: Sources) -> Sources:
    return {path: text for path, text in sources.items() if "/" not in path}


def _roots(source: str) -> set[str]:
    return {module.partition(".")[0] for module in imports(source)}


def _imported_modules(source: str, package: str) -> set[str]:
    """The modules of a package as its import statements name them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
    return {module for module in found if module.partition(".")[0] == package}


def the_rules_are_pure(sources: Sources) -> list[str]:
    problems = [f"{path} imports {name}" for path in PURE for name in sorted(_roots(sources[path]) & IMPURE)]
    for path in PURE:
        modules = {module for module in imports(sources[path]) if f"{module.replace('.', '/')}.py" in sources}
        problems += [f"{path} imports {module}" for module in sorted(modules - PURE_NEIGHBOURS)]
        problems += [f"{path} calls {name}" for name in ("open", "print", "input") if calls(sources[path], name)]
    return problems


def what_calls_itself_pure_is_held_to_it(sources: Sources) -> list[str]:
    named = {path for path, text in sources.items() if text.startswith('"""PURE. ')}
    return [f"{path} is pure, and does not say so, or the reverse" for path in sorted(named ^ set(PURE))]


def stripe_is_in_two_modules(sources: Sources) -> list[str]:
    users = {path for path, text in sources.items() if "stripe" in _roots(text)}
    return [f"{path} and stripe" for path in sorted(users ^ set(STRIPE))]


def boto3_is_in_two_modules(sources: Sources) -> list[str]:
    users = {path: _imported_modules(text, "boto3") for path, text in sources.items()}
    return [f"{path} imports {sorted(found)}" for path, found in users.items() if found != BOTO3.get(path, set())]


def each_service_has_one_speaker(sources: Sources) -> list[str]:
    return [
        f"{path} has {method}, which is {speaker}'s business"
        for path, text in sources.items()
        for method, speaker in SPEAKERS.items()
        if path != speaker and re.search(rf"\b(?:{method})\b", text)
    ]


def clients_are_made_in_handlers(sources: Sources) -> list[str]:
    """A module of the package takes its client as an argument, so that a test can hand in its own."""
    made = {path: calls(text, "client") for path, text in sources.items()}
    return [
        f"{path} makes a client of {services}"
        for path, services in made.items()
        if "/" in path and services and path != "gateway/aws.py"
    ]


def handlers_give_clients_to_their_speakers(sources: Sources) -> list[str]:
    """aws.client("dynamodb") goes into Ledger(…), and so on."""
    problems = []
    for path, text in _handlers(sources).items():
        for call in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
            for argument in call.args:
                # "aws.client(…) if a parameter names something to speak to else None" as well
                given = argument.body if isinstance(argument, ast.IfExp) else argument
                made = re.fullmatch(r"aws\.client\('([\w-]+)'\)", ast.unparse(given))
                if made and ast.unparse(call.func) not in OWNERS.get(made[1], ()):
                    problems.append(f"{path} gives a client of {made[1]} to {ast.unparse(call.func)}")
    return problems


def handlers_do_not_know_each_other(sources: Sources) -> list[str]:
    handlers = {path.removesuffix(".py") for path in _handlers(sources)}
    return [
        f"{path} imports {name}"
        for path, text in sources.items()
        for name in sorted(_roots(text) & handlers)
        if name != path.removesuffix(".py")
    ]


def only_settings_reads_the_environment(sources: Sources) -> list[str]:
    return [
        f"{path} reads the environment"
        for path, text in sources.items()
        if path != "gateway/settings.py" and re.search(r"\bos\.(?:environ|getenv)|\bgetenv\(", text)
    ]


def _plus(path: str, line: str) -> Callable[[Sources], None]:
    def breaks(sources: Sources) -> None:
        sources[path] = f"{sources[path]}\n{line}\n"

    return breaks


BROKEN: list[tuple[Rule, Callable[[Sources], None]]] = [
    *((the_rules_are_pure, _plus(path, f"import {name}")) for path in PURE for name in sorted(IMPURE)),
    (the_rules_are_pure, _plus("gateway/access.py", "from datetime import datetime")),
    (the_rules_are_pure, _plus("gateway/access.py", "from gateway import settings")),
    (the_rules_are_pure, _plus("gateway/events.py", "from gateway.ledger import Ledger")),
    (the_rules_are_pure, _plus("gateway/events.py", "print('seen')")),
    (the_rules_are_pure, _plus("gateway/explanation.py", "from gateway.people import Account")),
    (the_rules_are_pure, _plus("gateway/drift.py", "from gateway.ledger import Person")),
    (what_calls_itself_pure_is_held_to_it, lambda sources: sources.update({"gateway/new.py": '"""PURE. A rule."""'})),
    (what_calls_itself_pure_is_held_to_it, lambda sources: sources.update({"gateway/access.py": '"""Access."""'})),
    (stripe_is_in_two_modules, _plus("webhook.py", "import stripe")),
    (stripe_is_in_two_modules, _plus("gateway/ledger.py", "from stripe import StripeClient")),
    (boto3_is_in_two_modules, _plus("webhook.py", "import boto3")),
    (boto3_is_in_two_modules, _plus("gateway/ledger.py", "import boto3")),
    (boto3_is_in_two_modules, _plus("gateway/users.py", "from boto3.session import Session")),
    (each_service_has_one_speaker, _plus("lookup_user.py", "users._client.admin_get_user()")),
    (each_service_has_one_speaker, _plus("gateway/people.py", "client.put_item()")),
    (each_service_has_one_speaker, _plus("gateway/pages.py", "client.batch_get_item()")),
    (each_service_has_one_speaker, _plus("compare_shard.py", "client.scan()")),
    (each_service_has_one_speaker, _plus("webhook.py", "client.start_execution()")),
    (each_service_has_one_speaker, _plus("delete_account.py", "client.describe_execution()")),
    (each_service_has_one_speaker, _plus("gateway/billing.py", "client.get_secret_value()")),
    (each_service_has_one_speaker, _plus("mark_fulfilled.py", "client.put_events()")),
    (each_service_has_one_speaker, _plus("mark_fulfilled.py", "client.publish(TopicArn=TOPIC)")),
    (clients_are_made_in_handlers, _plus("gateway/users.py", "client = aws.client('cognito-idp')")),
    (handlers_give_clients_to_their_speakers, _plus("webhook.py", "Ledger(aws.client('cognito-idp'), 'table')")),
    (handlers_give_clients_to_their_speakers, _plus("webhook.py", "ListedUsers(aws.client('dynamodb'), 'pool')")),
    (handlers_give_clients_to_their_speakers, _plus("webhook.py", "Ledger(aws.client('sns') if LIVEMODE else None)")),
    (handlers_do_not_know_each_other, _plus("webhook.py", "from run_due import fulfillment")),
    (handlers_do_not_know_each_other, _plus("gateway/step.py", "import webhook")),
    (only_settings_reads_the_environment, _plus("webhook.py", "TABLE = os.environ['ORDERS_TABLE']")),
    (only_settings_reads_the_environment, _plus("gateway/users.py", "from os import getenv\ngetenv('POOL')")),
]
RULES = list(dict.fromkeys(rule for rule, _ in BROKEN))


@pytest.mark.parametrize("rule", RULES)
def test_the_sources_keep_the_rule(rule: Rule) -> None:
    assert rule(application().sources) == []


@pytest.mark.parametrize(("rule", "by"), BROKEN)
def test_the_rule_finds_a_broken_source(rule: Rule, by: Callable[[Sources], None]) -> None:
    sources = application().sources
    by(sources)
    assert rule(sources) != []
