"""CheckSetup, at every deployment, before anything else: can the gateway work with this key, these prices, this pool?

in   a custom resource's request {StripeMode, MaxDapps and the other whole numbers, …}; its other properties are there
     to have it asked again when they change
out  what gateway/custom_resource.py says; FAILED lists all that is wrong, and the deployment ends there
"""

import time

from aws_lambda_powertools.metrics import MetricUnit

from gateway import aws, checkup
from gateway.account import account_with
from gateway.custom_resource import Request, checked, custom_resource
from gateway.errors import SetupWrong
from gateway.secret import Secret
from gateway.settings import one_of, optional, required
from gateway.telemetry import count, metrics
from gateway.users import Pool

MODE = one_of("STRIPE_MODE", "test", "live")
MANAGES = one_of("MANAGE_WEBHOOK_ENDPOINT", "true", "false") == "true"
REFUSES_SPARE = one_of("SPARE_RIGHTS", "refuse", "advise") == "refuse"
POOL_ID = optional("USER_POOL_ID")  # of your own; one that this stack makes is as it must be
CLIENTS = (optional("USER_POOL_CLIENT_IDS") or "").replace(",", " ").split()
# Functions read these at their start, and CloudFormation takes 0.5 for a Number.
WHOLE_NUMBERS = (
    *("EventsWindowHours", "GracePeriodHours", "InvitationDays", "MaxDapps", "MaxDisabled", "MaxDisabledPercent"),
    *("RepairsPerSecond", "RetryAfterSeconds"),
)

key = Secret(aws.client("secretsmanager"), required("STRIPE_API_KEY_SECRET"), time.monotonic)
pool = Pool(aws.client("cognito-idp"), POOL_ID) if POOL_ID else None


@count
@custom_resource
def handler(request: Request) -> None:
    checked(request, "setup", _check)


def _check(request: Request) -> None:
    before = request.before.get("StripeMode", MODE)
    if before != MODE:
        raise SetupWrong(f"StripeMode was {before}, and a ledger is of one mode: deploy a second stack for {MODE} mode")
    if fractions := [name for name in WHOLE_NUMBERS if not request.properties[name].isdecimal()]:
        raise SetupWrong(f"{', '.join(fractions)}: give a whole number")
    account = account_with(key)  # here, so that DappPrices that cannot be read are a reason, too
    problems = checkup.of_stripe(key, account, MODE, writes_endpoints=MANAGES, refuses_spare=REFUSES_SPARE)
    problems = problems or checkup.of_prices(account)
    if pool is not None:
        problems += checkup.of_pool(pool, max_dapps=int(request.properties["MaxDapps"]), our_clients=CLIENTS)
    if problems:
        raise SetupWrong("; ".join(problems))
    if request.kind == "Create":
        # The doctor looks hours later; until then DoctorSilentAlarm need not ring. An update says nothing: the doctor
        # looks at more, and what it found last still holds.
        metrics.add_metric("SetupWrong", MetricUnit.Count, 0)
