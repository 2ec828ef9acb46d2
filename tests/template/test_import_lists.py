"""What each function loads at its cold start, so that nobody pays for what they do not use."""

import json
import subprocess
import sys
from collections.abc import Mapping

import pytest

from tests.handlers import REPOSITORY
from tests.local.template import Template

# What these packages bring along; boto3 is Lambda's own. `simplejson` is here, not there: requests takes it if it can.
BROUGHT = {
    "aws_lambda_powertools": {"jmespath", "typing_extensions"},
    "boto3": {"botocore", "certifi", "dateutil", "jmespath", "s3transfer", "six", "urllib3"},
    "jwt": {"_cffi_backend", "cffi", "cryptography"},
    "stripe": {
        "certifi",
        "charset_normalizer",
        "cython_runtime",
        "idna",
        "requests",
        "simplejson",
        "typing_extensions",
    },
}

EVERY = {
    "aws_lambda_powertools",
    "boto3",
    "gateway.access",
    "gateway.aws",
    "gateway.defects",
    "gateway.errors",
    "gateway.events",
    "gateway.ledger",
    "gateway.settings",
    "gateway.telemetry",
}
WITHOUT_LEDGER = EVERY - {"gateway.ledger"}
# Whoever looks for what is left of an account.
REMAINS = {
    "stripe",
    "gateway.billing",
    "gateway.bought",
    "gateway.pages",
    "gateway.people",
    "gateway.remains",
    "gateway.secret",
    "gateway.step",
    "gateway.users",
}
# Whoever looks at the Stripe account itself.
ACCOUNT = {"stripe", "gateway.account", "gateway.billing", "gateway.secret"}
# Whoever looks for people whose access is not what they pay for.
DIFFERENCES = {
    "stripe",
    "gateway.billing",
    "gateway.bought",
    "gateway.differences",
    "gateway.drift",
    "gateway.people",
    "gateway.policy",
    "gateway.searches",
    "gateway.secret",
    "gateway.step",
    "gateway.users",
}

LOADS: dict[str, set[str]] = {
    "add_claims": {"gateway.access", "gateway.defects", "gateway.errors"},
    "authorize": EVERY | {"jwt", "gateway.tokens"},
    "cancel_subscriptions": EVERY | {"stripe", "gateway.billing", "gateway.bought", "gateway.secret", "gateway.step"},
    "change_email": EVERY | {"gateway.people", "gateway.step", "gateway.users"},
    "check_drift": EVERY | {"gateway.drift", "gateway.searches", "gateway.step"},
    "check_account": EVERY | ACCOUNT | {"gateway.bought", "gateway.custom_resource"},
    "check_setup": WITHOUT_LEDGER | ACCOUNT | {"gateway.checkup", "gateway.custom_resource", "gateway.users"},
    "compare_shard": EVERY | DIFFERENCES,
    "create_user": EVERY | {"gateway.people", "gateway.secret", "gateway.step", "gateway.users"},
    "delete_account": EVERY | REMAINS | {"gateway.endpoint", "gateway.executions"},
    "delete_user": EVERY | {"gateway.notices", "gateway.step", "gateway.telling", "gateway.users"},
    "disable_user": EVERY | {"gateway.people", "gateway.step", "gateway.users"},
    "doctor": EVERY | ACCOUNT | {"gateway.bought", "gateway.checkup", "gateway.signature", "gateway.users"},
    "enable_user": EVERY | {"gateway.people", "gateway.step", "gateway.users"},
    "erase_personal_data": EVERY | {"gateway.pages", "gateway.step"},
    "find_missed_events": EVERY
    | {
        "stripe",
        "gateway.billing",
        "gateway.drift",
        "gateway.executions",
        "gateway.searches",
        "gateway.secret",
        "gateway.step",
    },
    "find_remains": EVERY | REMAINS,
    "hold_user": EVERY
    | {"gateway.endpoint", "gateway.executions", "gateway.people", "gateway.rechecks", "gateway.step", "gateway.users"},
    "link_user": EVERY | {"gateway.people", "gateway.step", "gateway.users"},
    "list_dapps": EVERY | {"gateway.dapps", "gateway.endpoint", "gateway.step"},
    "lookup_user": EVERY | {"gateway.people", "gateway.step", "gateway.users"},
    "mark_deleted": EVERY | {"gateway.step"},
    "mark_fulfilled": EVERY | {"gateway.notices", "gateway.step", "gateway.telling", "gateway.users"},
    "mark_not_deleted": EVERY | {"gateway.step"},
    "mark_not_reconciled": EVERY | {"gateway.drift", "gateway.searches", "gateway.step"},
    "mark_reconciled": EVERY | {"gateway.drift", "gateway.searches", "gateway.step"},
    "mark_unfulfilled": EVERY | {"gateway.step"},
    "mend_drift": EVERY
    | {"gateway.drift", "gateway.executions", "gateway.rechecks", "gateway.searches", "gateway.step"},
    "plan_reconciliation": EVERY
    | {"stripe", "gateway.billing", "gateway.bought", "gateway.drift", "gateway.secret", "gateway.step"},
    "read_billing": EVERY
    | {
        "stripe",
        "gateway.billing",
        "gateway.bought",
        "gateway.people",
        "gateway.policy",
        "gateway.secret",
        "gateway.step",
        "gateway.users",
    },
    "read_orders": EVERY
    | {
        "stripe",
        "gateway.billing",
        "gateway.bought",
        "gateway.endpoint",
        "gateway.executions",
        "gateway.explanation",
        "gateway.pages",
        "gateway.people",
        "gateway.policy",
        "gateway.secret",
        "gateway.step",
        "gateway.users",
    },
    "register_webhook": WITHOUT_LEDGER | ACCOUNT | {"gateway.custom_resource", "gateway.signature"},
    "release_dapp": EVERY | {"gateway.dapps", "gateway.endpoint", "gateway.step"},
    "resend_invitation": EVERY | {"gateway.people", "gateway.step", "gateway.users"},
    "reserve_dapp": EVERY | {"gateway.dapps", "gateway.endpoint", "gateway.step"},
    "resume_deletion": EVERY | {"gateway.executions", "gateway.step"},
    "run_due": EVERY | {"gateway.executions"},
    "scan_users": EVERY | DIFFERENCES,
    "set_dapp_limit": EVERY | {"gateway.people", "gateway.step", "gateway.users"},
    "set_live_access": EVERY | {"gateway.people", "gateway.step", "gateway.users"},
    "update_orders": EVERY
    | {
        "gateway.endpoint",
        "gateway.executions",
        "gateway.pages",
        "gateway.people",
        "gateway.rechecks",
        "gateway.step",
        "gateway.users",
    },
    "webhook": EVERY | {"stripe", "gateway.executions", "gateway.secret", "gateway.signature"},
    "write_tombstone": EVERY | REMAINS,
}

LOADED = """
import importlib, json, sys
before = set(sys.modules)
importlib.import_module(sys.argv[1])
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def _functions() -> dict[str, Mapping[str, str]]:
    """The variables of each function, by its module."""
    template = Template(REPOSITORY / "template.yaml", {})
    for name in template.resources:
        template.created(name, name, Arn=f"arn:aws:local:us-east-1:123456789012:{name}")
    functions = [each.properties for each in template.resources.values() if each.type == "AWS::Lambda::Function"]
    resolved = [template.resolve(properties) for properties in functions]
    return {each["Handler"].removesuffix(".handler"): each["Environment"]["Variables"] for each in resolved}


FUNCTIONS = _functions()


def loaded(module: str, variables: Mapping[str, str]) -> set[str]:
    """Our own modules and the packages that a module loads, without what packages bring along."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", LOADED, module],
        env={**variables, "AWS_DEFAULT_REGION": "us-east-1", "PYTHONPATH": str(REPOSITORY / "functions")},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    modules = set(json.loads(done.stdout))
    packages = {each.partition(".")[0] for each in modules} - sys.stdlib_module_names - {"gateway", module}
    found = {each for each in packages if not each.startswith("_")} | {
        each for each in modules if each.startswith("gateway.")
    }
    return found.difference(*(BROUGHT[package] for package in packages & BROUGHT.keys()))


def test_every_function_has_a_list() -> None:
    assert FUNCTIONS.keys() == LOADS.keys()


@pytest.mark.parametrize("function", LOADS)
def test_a_function_loads_what_it_uses_and_nothing_else(function: str) -> None:
    assert loaded(function, FUNCTIONS[function]) == LOADS[function]
