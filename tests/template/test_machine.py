"""The definitions of the state machines, checked by rules of our own: neither moto nor cfn-lint looks at these."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from gateway.access import Access, Live, Target, User
from gateway.ledger import ATTEMPT_SECONDS, Attempt, Tombstone
from tests.template.conftest import Application, Break, Machine, Scope, answered, application, broken, snake

Rule = Callable[[Machine], list[str]]

# What the Lambda service, and the state machine itself, answer when a function could not do its work.
LAMBDA_ERRORS = {
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.TooManyRequestsException",
    "Lambda.Unknown",
    "Sandbox.Timedout",
    "States.Timeout",
}
RETRIER_FIELDS = {"ErrorEquals", "IntervalSeconds", "MaxAttempts", "BackoffRate", "MaxDelaySeconds", "JitterStrategy"}
COMMON_FIELDS = {"Type", "Comment"}
FIELDS = {
    "Task": {"Resource", "Parameters", "TimeoutSeconds", "ResultPath", "Retry", "Catch", "Next"},
    # A reader, a batcher or a selector would change what an item is, a writer what comes out; and a failure that is
    # tolerated would let a run go on that has seen a part only.
    "Map": {"ItemsPath", "MaxConcurrency", "ItemProcessor", "ResultPath", "Catch", "Next"},
    "Choice": {"Choices", "Default"},
    "Wait": {"Seconds", "Next"},
    "Succeed": set(),
    "Fail": {"ErrorPath", "CausePath"},
}
OPERATORS = {
    "BooleanEquals",
    "BooleanEqualsPath",
    "IsNull",
    "IsPresent",
    "NumericEqualsPath",
    "StringEquals",
    "StringEqualsPath",
}
# What a machine is started with, and what the states inside a Map are: an item.
INPUTS = {
    "fulfillment": Attempt("evt_1", "sub_1", "cus_1", 1, "RECEIVED", 0).execution_input.keys(),
    "offboarding": Tombstone("id", 0, "RUNNING", 1, 0).execution_input.keys(),
    "reconciliation": {"find", "dry_run", "backfill", "max_disabled", "max_disabled_percent"},
    "CompareShards": {"id", "started", "dry_run", "backfill", "source", "from", "until", "segment", "of"},
}
# What may be missing there, so that no state may look at it.
OPTIONAL = {
    "reconciliation": {"find", "dry_run", "backfill", "max_disabled", "max_disabled_percent"},
    "CompareShards": {"from", "until", "segment", "of"},
}
# For how many seconds a machine may run: less than an attempt needs to count as dead; two weeks where none waits.
LONGEST = {"fulfillment": ATTEMPT_SECONDS - 1, "offboarding": ATTEMPT_SECONDS - 1, "reconciliation": 14 * 24 * 3600}
# Values of an answer that consist of values (functions/gateway/step.py); lists and cursors, which no state looks into.
PATHS = {
    "$.billing.access": {each.name for each in dataclasses.fields(Access)},
    "$.lookup.user": set(User(exists=False).facts()),
    "$.lookup.target": {each.name for each in dataclasses.fields(Target)},
    "$.lookup.live": {"sub", *(each.name for each in dataclasses.fields(Live))},
    "$.lookup.live_target": {each.name for each in dataclasses.fields(Live)},
    **{f"$.{answer}.cursor": set() for answer in ("events", "scan", "compared", "mended")},
    "$.plan.shards": set(),
}
# What writes a failure down: the first error is under $.error already when it fails itself.
LAST_WORDS = {"MarkUnfulfilled", "MarkNotDeleted", "MarkNotReconciled"}
DISTRIBUTED = {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}
MAX_CONCURRENCY = 8  # Stripe and Cognito are asked by the webhook's runs at the same time


def _targets(state: dict[str, Any]) -> list[str]:
    """Where a state may lead."""
    targets = [state.get("Next"), state.get("Default")]
    targets += [each.get("Next") for each in (*state.get("Choices", []), *state.get("Catch", []))]
    return [target for target in targets if target is not None]


def _targets_without(state: dict[str, Any], result: str) -> list[str]:
    """Where a state may lead without having written to this path."""
    caught = [each["Next"] for each in state.get("Catch", []) if each.get("ResultPath") != result]
    return caught if state.get("ResultPath") == result else [*_targets({**state, "Catch": []}), *caught]


def _reached(states: dict[str, Any], start: str, targets: Callable[[dict[str, Any]], list[str]] = _targets) -> set[str]:
    """All states that can follow, this one included."""
    reached, left = set(), [start]
    while left:
        name = left.pop()
        if name in states and name not in reached:
            reached.add(name)
            left += targets(states[name])
    return reached


def _reached_without(scope: Scope, result: str) -> set[str]:
    """All states that can be reached before anything has been written to this path."""
    return _reached(scope.states, scope.start, partial(_targets_without, result=result))


def _retriers(machine: Machine) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((name, group) for name, state in machine.tasks.items() for group in state.get("Retry", []))


def _fallible(machine: Machine) -> Iterator[tuple[str, dict[str, Any]]]:
    return (each for scope in machine.scopes for each in scope.fallible.items())


def _function_timeout(app: Application, state: str) -> int:
    return int(app.functions.get(f"{state}Function", {}).get("Timeout", 0))


def _comparisons(choice: Any) -> Iterator[dict[str, Any]]:
    """Every comparison in a choice, however deep."""
    if isinstance(choice, list):
        for each in choice:
            yield from _comparisons(each)
    elif isinstance(choice, dict):
        if "Variable" in choice:
            yield choice
        for operator in ("And", "Or", "Not"):
            yield from _comparisons(choice.get(operator, []))


def _answers(machine: Machine, scope: Scope) -> set[str]:
    """Every value that a task of the scope answers, as a path."""
    return {
        f"{task['ResultPath']}.{key}"
        for name, task in scope.tasks.items()
        if "ResultPath" in task
        for key in answered(machine.source_of(name))
    }


def _known_paths(machine: Machine, scope: Scope) -> set[str]:
    """Every single value that a task of the scope answers."""
    known = _answers(machine, scope)
    parts = {f"{whole}.{key}" for whole, keys in PATHS.items() if whole in known for key in keys}
    return (known - PATHS.keys()) | parts


def _may_be_missing(scope: Scope, state: str, path: str) -> bool:
    """Whether a state can be reached before a task has answered this value."""
    return state in _reached_without(scope, ".".join(path.split(".")[:2]))


def _promised(source: str, kind: str) -> set[str]:
    """The error names that a handler's docstring lists under `raises` as (passing) or (lasting)."""
    raises = re.search(r"^raises(.*)", source.partition('"""')[2].partition('"""')[0], re.MULTILINE | re.DOTALL)
    for group in (raises[1] if raises else "").split(";"):
        if f"({kind})" in group:
            return set(re.findall(r"[A-Z]\w+", group))
    return set()


def _passing_errors(app: Application) -> set[str]:
    """The classes of the first section of errors.py."""
    first = app.sources["gateway/errors.py"].split("# ---- passing")[1].split("# ---- lasting")[0]
    return set(re.findall(r"^class (\w+)", first, re.MULTILINE))


# ------------------------------------------------------------------ the rules


def names_are_given_once(machine: Machine) -> list[str]:
    """Also inside a Map: a history tells states by their names alone."""
    names = [name for scope in machine.scopes for name in scope.states]
    return [f"{name} is the name of two states" for name in sorted(set(names)) if names.count(name) > 1]


def targets_exist(machine: Machine) -> list[str]:
    """No state leads into a Map, or out of one."""
    problems = []
    for scope in machine.scopes:
        named = [(f"StartAt of {scope.name}", scope.start)]
        named += [(name, target) for name, state in scope.states.items() for target in _targets(state)]
        problems += [
            f"{name} leads to {target}, which is not there" for name, target in named if target not in scope.states
        ]
    return problems


def states_are_reachable(machine: Machine) -> list[str]:
    return [
        f"nothing leads to {name}"
        for scope in machine.scopes
        for name in sorted(scope.states.keys() - _reached(scope.states, scope.start))
    ]


def states_lead_on(machine: Machine) -> list[str]:
    return [
        f"{name} neither leads on nor ends the execution"
        for name, state in machine.states.items()
        if state["Type"] not in ("Succeed", "Fail") and not _targets(state)
    ]


def fields_are_known(machine: Machine) -> list[str]:
    problems = [f"{key} is no field of a machine" for key in machine.definition.keys() - _MACHINE_FIELDS]
    for scope in machine.scopes[1:]:
        unknown = scope.definition.keys() - _PROCESSOR_FIELDS
        problems += [f"{scope.name}: {key} is no field of an item processor" for key in sorted(unknown)]
    for name, state in machine.states.items():
        if state["Type"] not in FIELDS:
            problems.append(f"{name} is a {state['Type']}, which these rules do not know")
        else:
            unknown = state.keys() - FIELDS[state["Type"]] - COMMON_FIELDS
            problems += [f"{name}: {key} is no field of a {state['Type']} here" for key in sorted(unknown)]
        for comparison in _comparisons(state.get("Choices", [])):
            operators = comparison.keys() - {"Variable", "Next"} - COMMON_FIELDS
            if len(operators) != 1 or not operators <= OPERATORS:
                problems.append(f"{name} compares {comparison['Variable']} by {sorted(operators)}")
    return problems


_MACHINE_FIELDS = {"Comment", "StartAt", "TimeoutSeconds", "States"}
_PROCESSOR_FIELDS = {"ProcessorConfig", "StartAt", "States"}


def states_say_what_they_do(machine: Machine) -> list[str]:
    return [f"{name} has no comment" for name, state in machine.states.items() if not state.get("Comment")]


def tasks_retry_and_catch(machine: Machine) -> list[str]:
    """What fails in a Map has been retried inside it, so the Map itself only catches."""
    problems = [f"{name} has no Retry" for name, task in machine.tasks.items() if not task.get("Retry")]
    for name, state in _fallible(machine):
        catches = [catch["ErrorEquals"] for catch in state.get("Catch", [])]
        if catches[-1:] != [["States.ALL"]]:
            problems.append(f"{name}: the last Catch is not States.ALL alone")
        if any("States.ALL" in names for names in catches[:-1]):
            problems.append(f"{name}: States.ALL hides the catches after it")
    return problems


def tasks_retry_the_lambda_service(machine: Machine) -> list[str]:
    return [
        f"{name}: no Retry group of its own has all errors of the Lambda service"
        for name, task in machine.tasks.items()
        if LAMBDA_ERRORS not in [set(group["ErrorEquals"]) for group in task.get("Retry", [])]
    ]


def retriers_are_written_out(machine: Machine) -> list[str]:
    problems = []
    for name, group in _retriers(machine):
        where = f"{name}, {group['ErrorEquals'][0]}"
        if group.keys() != RETRIER_FIELDS:
            problems.append(f"{where}: {sorted(group.keys() ^ RETRIER_FIELDS)} missing or unknown")
            continue
        if group["BackoffRate"] < 1:
            problems.append(f"{where}: BackoffRate below 1")
        if group["JitterStrategy"] != "FULL":
            problems.append(f"{where}: no full jitter, so all runs come back at once")
        if group["MaxAttempts"] < 1 or not 1 <= group["IntervalSeconds"] <= group["MaxDelaySeconds"]:
            problems.append(f"{where}: MaxAttempts, IntervalSeconds and MaxDelaySeconds do not fit")
    return problems


def waits_fit_into_an_execution(machine: Machine) -> list[str]:
    """Patience with one error must leave room to write the failure down."""
    problems = []
    for name, group in _retriers(machine):
        backoffs = (group["IntervalSeconds"] * group["BackoffRate"] ** n for n in range(group["MaxAttempts"]))
        worst = sum(min(backoff, group["MaxDelaySeconds"]) for backoff in backoffs)
        if worst >= machine.definition["TimeoutSeconds"] / 2:
            problems.append(f"{name}, {group['ErrorEquals'][0]}: waits up to {worst:.0f} s")
    limits = re.findall(r"^MAX_PASSES = (\d+)$", "\n".join(machine.app.sources.values()), re.MULTILINE)
    looks = max(map(int, limits), default=0)
    for name, state in machine.states.items():
        if state["Type"] == "Wait" and not 0 < state["Seconds"] * looks < machine.definition["TimeoutSeconds"] / 2:
            problems.append(f"{name} waits {state['Seconds']} s at every look")
    return problems


def error_names_are_known(machine: Machine) -> list[str]:
    own = set(re.findall(r"^class (\w+)", machine.app.sources["gateway/errors.py"], re.MULTILINE))
    known = LAMBDA_ERRORS | (own - {"GatewayError"})
    problems = []
    for name, group in _retriers(machine):
        unknown = [error for error in group["ErrorEquals"] if error not in known]
        problems += [f"{name} retries {error}, which nothing raises" for error in unknown]
    for name, task in machine.tasks.items():
        retried = [error for group in task.get("Retry", []) for error in group["ErrorEquals"]]
        problems += [f"{name} retries {error} twice" for error in sorted(set(retried)) if retried.count(error) > 1]
    return problems


def passing_errors_are_retried(machine: Machine) -> list[str]:
    """A handler's docstring says which errors pass; the machine has to wait for exactly those."""
    problems = []
    for name, task in machine.tasks.items():
        source = machine.source_of(name)
        retried = {error for group in task.get("Retry", []) for error in group["ErrorEquals"]} - LAMBDA_ERRORS
        promised = _promised(source, "passing")
        if retried != promised:
            problems.append(f"{name}: retried and not promised, or the reverse: {sorted(retried ^ promised)}")
        problems += [f"{name}: {error} does not pass" for error in sorted(promised - _passing_errors(machine.app))]
        lasting = _promised(source, "lasting") & _passing_errors(machine.app)
        problems += [f"{name}: {error} does pass" for error in sorted(lasting)]
    return problems


def failures_end_in_fail(machine: Machine) -> list[str]:
    """What went wrong must not end green."""
    problems = []
    for scope in machine.scopes:
        for name, state in scope.fallible.items():
            for catch in state.get("Catch", []):
                after = _reached(scope.states, catch["Next"])
                ends = {scope.states[end]["Type"] for end in after} & {"Succeed", "Fail"}
                if ends != {"Fail"}:
                    problems.append(f"{name}: what is caught does not always end in a Fail state")
    return problems


def failures_are_named(machine: Machine) -> list[str]:
    """A Fail state reads the error of the first failure; a path that is not there would be States.Runtime."""
    problems = []
    for scope in machine.scopes:
        without_error = _reached_without(scope, "$.error")
        for name, state in scope.states.items():
            if state["Type"] == "Fail" and (state.get("ErrorPath"), state.get("CausePath")) != _ERROR_PATHS:
                problems.append(f"{name} does not say error and cause")
            if state["Type"] == "Fail" and name in without_error:
                problems.append(f"{name} may be reached although nothing was caught")
    for name, state in _fallible(machine):
        for catch in state.get("Catch", []):
            first = name not in LAST_WORDS
            if (catch.get("ResultPath") == "$.error") is not first:
                problems.append(f"{name}: its Catch does not leave the first error under $.error")
    return problems


_ERROR_PATHS = ("$.error.Error", "$.error.Cause")


def choices_have_a_default(machine: Machine) -> list[str]:
    choices = [(name, state) for name, state in machine.states.items() if state["Type"] == "Choice"]
    return [f"{name} has no Default" for name, state in choices if "Default" not in state]


def choices_compare_what_is_there(machine: Machine) -> list[str]:
    """A path that leads nowhere stops the execution with States.Runtime, which no Catch catches."""
    return [problem for scope in machine.scopes for problem in _wrong_comparisons(machine, scope)]


def _wrong_comparisons(machine: Machine, scope: Scope) -> Iterator[str]:
    paths = [
        (name, comparison, path)
        for name, state in scope.states.items()
        for comparison in _comparisons(state.get("Choices", []))
        for key, path in comparison.items()
        if key == "Variable" or key.endswith("Path")
    ]
    given = {f"$.{name}" for name in INPUTS[scope.name] - OPTIONAL.get(scope.name, set())}
    results = {task["ResultPath"] for task in scope.tasks.values() if "ResultPath" in task}
    known = _known_paths(machine, scope)
    for name, comparison, path in paths:
        if "IsPresent" in comparison:
            if path not in results | known:
                yield f"{name} looks for {path}, which no task answers"
        elif path not in known | given:
            yield f"{name} looks at {path}, which no task answers"
        elif path in known and _may_be_missing(scope, name, path):
            yield f"{name} may look at {path} before a task has answered it"


def loops_go_on_until_done(machine: Machine) -> list[str]:
    """A task that may end before its work does is called again, before anything else, until it says that it is done."""
    problems = []
    for scope in machine.scopes:
        for name in _going_on(machine, scope):
            task = scope.tasks[name]
            after = scope.states.get(task["Next"], {})
            rules = [*after.get("Choices", []), {"Next": after.get("Default")}]
            if {key: rules[0][key] for key in rules[0].keys() - {"Comment"}} != _not_done(name, task):
                problems.append(f"{task['Next']} does not begin with asking whether {name} is done")
            if any(name in _reached(scope.states, rule["Next"]) for rule in rules[1:]):
                problems.append(f"{task['Next']} leads back to {name}, which is done")
    return problems


def _going_on(machine: Machine, scope: Scope) -> list[str]:
    """The tasks that answer how far they have come."""
    return [name for name in scope.tasks if "cursor" in answered(machine.source_of(name))]


def _not_done(name: str, task: dict[str, Any]) -> dict[str, Any]:
    return {"Variable": f"{task.get('ResultPath')}.done", "BooleanEquals": False, "Next": name}


def maps_are_bounded(machine: Machine) -> list[str]:
    """Each item has an execution, so a history, of its own; and not all are asked for at once."""
    problems = []
    for scope in machine.scopes:
        for name, state in scope.maps.items():
            if state.get("ItemProcessor", {}).get("ProcessorConfig") != DISTRIBUTED:
                problems.append(f"{name} is not {DISTRIBUTED}")
            if not 1 <= state.get("MaxConcurrency", 0) <= MAX_CONCURRENCY:
                problems.append(f"{name} runs {state.get('MaxConcurrency')} items at once")
    return problems


def maps_take_what_was_answered(machine: Machine) -> list[str]:
    problems = []
    for scope in machine.scopes:
        for name, state in scope.maps.items():
            path = state.get("ItemsPath", "$")
            if path not in _answers(machine, scope):
                problems.append(f"{name} takes {path}, which no task answers")
            elif _may_be_missing(scope, name, path):
                problems.append(f"{name} may take {path} before a task has answered it")
    return problems


def tasks_get_the_run(machine: Machine) -> list[str]:
    run = {"execution.$": "$$.Execution.Id", "run.$": "$"}
    return [f"{name} does not get {run}" for name, task in machine.tasks.items() if task.get("Parameters") != run]


def tasks_keep_the_run(machine: Machine) -> list[str]:
    """An answer goes beside the input, never in its place, nor in that of an error; a Map's not in that of a task's."""
    problems = []
    for scope in machine.scopes:
        taken = {f"$.{name}" for name in (*INPUTS[scope.name], "error")}
        answers = {task.get("ResultPath") for task in scope.tasks.values()}
        for name, state in scope.fallible.items():
            path = state.get("ResultPath", "$")
            if not re.fullmatch(r"\$\.[a-z]+", str(path)) or path in taken | (answers if name in scope.maps else set()):
                problems.append(f"{name} writes its answer to {path}")
    return problems


def substitutions_fit(machine: Machine) -> list[str]:
    used = set(re.findall(r"\$\{(\w+)\}", str(machine.definition)))
    properties = machine.app.resources("AWS::StepFunctions::StateMachine").get(machine.resource, {})
    given = properties.get("DefinitionSubstitutions", {})
    problems = [f"${{{name}}} is used and not given, or the reverse" for name in sorted(used ^ given.keys())]
    wrong = [name for name, value in given.items() if value != {"Fn::GetAtt": [name.removesuffix("Arn"), "Arn"]}]
    return problems + [f"${{{name}}} is something else" for name in wrong]


def the_machine_ends_in_time(machine: Machine) -> list[str]:
    timeout = machine.definition.get("TimeoutSeconds", float("inf"))
    longest = LONGEST[machine.name]
    return [] if timeout <= longest else [f"the machine may run {timeout} s, and not {longest} s at most"]


def tasks_outlive_their_functions(machine: Machine) -> list[str]:
    return [
        f"{name} gives up before its function's own time-out"
        for name, task in machine.tasks.items()
        if task.get("TimeoutSeconds", 0) <= _function_timeout(machine.app, name)
    ]


def one_name_in_five_places(machine: Machine) -> list[str]:
    problems = []
    for name, task in machine.tasks.items():
        function = machine.app.functions.get(f"{name}Function", {})
        if task["Resource"] != f"${{{name}FunctionArn}}":
            problems.append(f"{name} calls {task['Resource']}")
        if function.get("Handler") != f"{snake(name)}.handler":
            problems.append(f"{name}Function runs {function.get('Handler')}")
        if f"{snake(name)}.py" not in machine.app.handlers:
            problems.append(f"functions/{snake(name)}.py is not there")
        elif not re.match(rf'"""{name}: ', machine.app.handlers[f"{snake(name)}.py"]):
            problems.append(f"functions/{snake(name)}.py does not begin with its name")
        if not re.search(rf'"{name}"', machine.app.tests):
            problems.append(f"no test names {name}")
    return problems


# ------------------------------------------------------------------ each rule, and what it would find


def _machine(name: str, **changes: Any) -> Break:
    return lambda app: app.definitions[name].update(changes)


def _place(app: Application, name: str) -> dict[str, Any]:
    """The state with this name; no two machines have one of the same name."""
    state: dict[str, Any]
    (state,) = (machine.states[name] for machine in app.machines if name in machine.states)
    return state


def _state(name: str, **changes: Any) -> Break:
    return lambda app: _place(app, name).update(changes)


def _retrier(name: str, **changes: Any) -> Break:
    return lambda app: _place(app, name)["Retry"][-1].update(changes)


def _without(name: str, *path: Any) -> Break:
    def breaks(app: Application) -> None:
        place: Any = _place(app, name)
        for step in path[:-1]:
            place = place[step]
        del place[path[-1]]

    return breaks


def _catch(name: str, **changes: Any) -> Break:
    return lambda app: _place(app, name)["Catch"][0].update(changes)


def _choice(name: str, number: int = 0, **changes: Any) -> Break:
    return lambda app: _place(app, name)["Choices"][number].update(changes)


def _never(name: str, target: str) -> Break:
    """Takes away every choice of this target."""

    def breaks(app: Application) -> None:
        choice = _place(app, name)
        choice["Choices"] = [each for each in choice["Choices"] if each["Next"] != target]

    return breaks


def _processor(name: str, **changes: Any) -> Break:
    """Changes what a Map runs for every item."""
    return lambda app: _place(app, name)["ItemProcessor"].update(changes)


def _inside(name: str, **states: Any) -> Break:
    """Puts states among those of a Map."""
    return lambda app: _place(app, name)["ItemProcessor"]["States"].update(states)


def _source(path: str, old: str, new: str) -> Break:
    return lambda app: app.sources.update({path: app.sources[path].replace(old, new)})


def _function(name: str, **changes: Any) -> Break:
    return lambda app: app.template["Resources"][name]["Properties"].update(changes)


def _substitution(machine: str, name: str, value: Any) -> Break:
    return lambda app: app.template["Resources"][machine]["Properties"]["DefinitionSubstitutions"].update({name: value})


# Choices that lead back to a task which is not done.
LOOPS = {
    "DecideEvents": "FindMissedEvents",
    "DecideScan": "ScanUsers",
    "DecideShard": "CompareShard",
    "DecideMending": "CheckDrift",
    "DecideMended": "MendDrift",
}
FULFILLMENT, OFFBOARDING = "FulfillmentStateMachine", "OffboardingStateMachine"
RECONCILIATION = "ReconciliationStateMachine"

BROKEN: list[tuple[Rule, Break]] = [
    (names_are_given_once, _inside("CompareShards", MarkReconciled={"Type": "Succeed"})),
    (targets_exist, _state("LookupUser", Next="DecideAcces")),
    (targets_exist, _state("DecideAccess", Default="MarkFulfiled")),
    (targets_exist, _choice("DecideAccess", Next="MarkFulfiled")),
    (targets_exist, _state("AwaitIndexes", Next="FindRemain")),
    (targets_exist, _catch("CreateUser", Next="MarkUnfulfiled")),
    (targets_exist, _machine("fulfillment", StartAt="Begin")),
    (targets_exist, _machine("offboarding", StartAt="ReadBilling")),
    (targets_exist, _processor("CompareShards", StartAt="CompareShards")),
    (targets_exist, _without("CompareShards", "ItemProcessor", "StartAt")),
    (targets_exist, _without("CompareShards", "ItemProcessor", "States")),
    (targets_exist, _catch("CompareShards", Next="ShardNotCompared")),
    (targets_exist, _catch("CompareShard", Next="MarkNotReconciled")),
    (targets_exist, _state("DecideShard", Default="CheckDrift")),
    (targets_exist, _state("DecideScan", Default="CompareShard")),
    (
        states_are_reachable,
        lambda app: app.definitions["fulfillment"]["States"].update(Forgotten={"Type": "Succeed"}),
    ),
    (states_are_reachable, _never("DecideAccess", "CreateUser")),
    (states_are_reachable, _never("DecideRemoval", "DeleteUser")),
    (states_are_reachable, _never("DecideMending", "MendDrift")),
    (states_are_reachable, _inside("CompareShards", Forgotten={"Type": "Succeed"})),
    (states_are_reachable, _state("DecideShard", Default="CompareShard")),
    (states_are_reachable, _processor("CompareShards", StartAt="ShardCompared")),
    (states_lead_on, _state("DecideAccess", Choices=[], Default=None)),
    (states_lead_on, _without("AwaitIndexes", "Next")),
    (states_lead_on, _state("CompareShards", Next=None, Catch=[])),
    (states_lead_on, _state("DecideShard", Choices=[], Default=None)),
    (fields_are_known, _state("LookupUser", TimeoutSecond=30)),
    (fields_are_known, _state("LookupUser", Type="Parallel")),
    (fields_are_known, _state("AwaitIndexes", SecondsPath="$.remains.pass")),
    (fields_are_known, _machine("offboarding", QueryLanguage="JSONata")),
    (fields_are_known, _choice("ConfirmDeletion", BooleanEqual=False)),
    (fields_are_known, _without("ConfirmDeletion", "Choices", 0, "BooleanEquals")),
    *(
        (fields_are_known, _state("CompareShards", **{field: {}}))
        for field in (
            "ItemReader",
            "ItemBatcher",
            "ItemSelector",
            "Iterator",
            "ResultWriter",
            "ResultSelector",
            "Retry",
            "MaxConcurrencyPath",
            "ToleratedFailureCount",
            "ToleratedFailureCountPath",
            "ToleratedFailurePercentage",
            "ToleratedFailurePercentagePath",
        )
    ),
    (fields_are_known, _processor("CompareShards", TimeoutSeconds=60)),
    (fields_are_known, _state("CompareShard", TimeoutSecond=30)),
    (fields_are_known, _state("ShardCompared", Type="Pass")),
    (fields_are_known, _choice("DecideShard", BooleanEqual=False)),
    (states_say_what_they_do, _without("LookupUser", "Comment")),
    (states_say_what_they_do, _without("CompareShards", "Comment")),
    (states_say_what_they_do, _without("ShardCompared", "Comment")),
    (tasks_retry_and_catch, _without("LookupUser", "Retry")),
    (tasks_retry_and_catch, _without("LookupUser", "Catch")),
    (tasks_retry_and_catch, _catch("LookupUser", ErrorEquals=["States.TaskFailed"])),
    (
        tasks_retry_and_catch,
        _state("LookupUser", Catch=[{"ErrorEquals": ["States.ALL"], "Next": "MarkUnfulfilled"}] * 2),
    ),
    (tasks_retry_and_catch, _without("CompareShard", "Retry")),
    (tasks_retry_and_catch, _without("CompareShard", "Catch")),
    (tasks_retry_and_catch, _without("CompareShards", "Catch")),
    (tasks_retry_and_catch, _catch("CompareShards", ErrorEquals=["States.ExceedToleratedFailureThreshold"])),
    (
        tasks_retry_and_catch,
        _state("CompareShards", Catch=[{"ErrorEquals": ["States.ALL"], "Next": "MarkNotReconciled"}] * 2),
    ),
    (tasks_retry_the_lambda_service, _without("MarkFulfilled", "Retry", 0, "ErrorEquals", 4)),
    (tasks_retry_the_lambda_service, _without("CompareShard", "Retry", 0)),
    (tasks_retry_the_lambda_service, _without("MarkFulfilled", "Retry", 0)),
    *(
        (retriers_are_written_out, _without("CreateUser", "Retry", 3, name))
        for name in sorted(RETRIER_FIELDS - {"ErrorEquals"})
    ),
    (retriers_are_written_out, _retrier("CreateUser", BackoffRate=0.5)),
    (retriers_are_written_out, _retrier("CreateUser", JitterStrategy="NONE")),
    (retriers_are_written_out, _retrier("CreateUser", MaxAttempts=0)),
    (retriers_are_written_out, _retrier("CreateUser", IntervalSeconds=61)),
    (retriers_are_written_out, _retrier("CompareShard", JitterStrategy="NONE")),
    (waits_fit_into_an_execution, _retrier("CreateUser", MaxAttempts=20, MaxDelaySeconds=60)),
    (waits_fit_into_an_execution, _retrier("CompareShard", MaxAttempts=60, MaxDelaySeconds=24 * 3600)),
    (waits_fit_into_an_execution, _inside("CompareShards", Pause={"Type": "Wait", "Seconds": 24 * 3600})),
    (waits_fit_into_an_execution, _state("AwaitIndexes", Seconds=42)),
    (waits_fit_into_an_execution, _state("AwaitIndexes", Seconds=0)),
    (waits_fit_into_an_execution, _source("find_remains.py", "MAX_PASSES = 10", "MAX_PASSES = 300")),
    (error_names_are_known, _retrier("CreateUser", ErrorEquals=["PersonBussy"])),
    (error_names_are_known, _retrier("CreateUser", ErrorEquals=["States.TimedOut"])),
    (error_names_are_known, _retrier("CreateUser", ErrorEquals=["GatewayError"])),
    (error_names_are_known, _retrier("CreateUser", ErrorEquals=["LedgerThrottled"])),
    (error_names_are_known, _retrier("CompareShard", ErrorEquals=["StripeBusy"])),
    (error_names_are_known, _retrier("CompareShard", ErrorEquals=["StripeThrottled"])),
    (error_names_are_known, _source("gateway/errors.py", "class PersonBusy(", "class PersonIsBusy(")),
    (passing_errors_are_retried, _without("CreateUser", "Retry", 3)),
    (passing_errors_are_retried, _retrier("LookupUser", ErrorEquals=["CognitoRejected"])),
    (passing_errors_are_retried, _retrier("CompareShard", ErrorEquals=["CognitoRejected"])),
    (passing_errors_are_retried, lambda app: app.sources.update({"compare_shard.py": ""})),
    (passing_errors_are_retried, lambda app: app.sources.pop("lookup_user.py")),
    (passing_errors_are_retried, _source("lookup_user.py", "CognitoThrottled, ", "")),
    (passing_errors_are_retried, _without("DeleteUser", "Retry", 4)),
    (passing_errors_are_retried, _source("find_remains.py", "StripeThrottled, ", "")),
    (passing_errors_are_retried, _source("gateway/errors.py", "class PersonBusy(", "class PersonIsBusy(")),
    (passing_errors_are_retried, _source("create_user.py", "EmailUnusable, Mail", "PersonBusy, Mail")),
    (failures_end_in_fail, _catch("LookupUser", Next="MarkFulfilled")),
    (failures_end_in_fail, _state("MarkUnfulfilled", Next="Fulfilled")),
    (failures_end_in_fail, _state("MarkNotDeleted", Next="AwaitIndexes")),
    (failures_end_in_fail, _state("MarkNotReconciled", Next="PlanReconciliation")),
    (failures_end_in_fail, _catch("CompareShards", Next="CheckDrift")),
    (failures_end_in_fail, _catch("CompareShard", Next="ShardCompared")),
    (failures_end_in_fail, _catch("CompareShard", Next="DecideShard")),
    (failures_are_named, _without("NotFulfilled", "ErrorPath")),
    (failures_are_named, _without("NotDeleted", "CausePath")),
    (failures_are_named, _catch("LookupUser", ResultPath="$.failure")),
    (failures_are_named, _catch("MarkUnfulfilled", ResultPath="$.error")),
    (failures_are_named, _catch("MarkNotDeleted", ResultPath="$.error")),
    (failures_are_named, _catch("MarkNotReconciled", ResultPath="$.error")),
    (failures_are_named, _catch("CompareShards", ResultPath="$.failure")),
    (failures_are_named, _catch("CompareShard", ResultPath="$.failure")),
    (failures_are_named, _without("ShardNotCompared", "ErrorPath")),
    (failures_are_named, _state("DecideMending", Default="NotReconciled")),
    (failures_are_named, _state("DecideShard", Default="ShardNotCompared")),
    (choices_have_a_default, _without("DecideAccess", "Default")),
    (choices_have_a_default, _without("ConfirmDeletion", "Default")),
    (choices_have_a_default, _without("DecideShard", "Default")),
    *(
        (choices_compare_what_is_there, _choice("DecideAccess", -1, Variable=path))
        for path in ("$.billing.access.wantet", "$.lookup.wanted", "$.lookup.user", "$.billing.access", "$.resumed")
    ),
    (choices_compare_what_is_there, _source("lookup_user.py", '"invite":', '"invitation":')),
    (choices_compare_what_is_there, _source("read_billing.py", '"resume":', '"resumes":')),
    (choices_compare_what_is_there, _source("mark_deleted.py", '{"deleted":', '{"done":')),
    (choices_compare_what_is_there, _choice("DecideAccess", And=[{"Not": {"Variable": "$.lookup.user.limit"}}])),
    (choices_compare_what_is_there, _choice("DecideAccess", -1, NumericEqualsPath="$.lookup.target.limit")),
    (choices_compare_what_is_there, _source("lookup_user.py", '"live_target":', '"should":')),
    (choices_compare_what_is_there, _state("ResumeDeletion", ResultPath="$.resume")),
    (choices_compare_what_is_there, _choice("DecideRemoval", Variable="$.tombstoned.user.there")),
    (choices_compare_what_is_there, _choice("DecideRemoval", Variable="$.canceled.canceled")),
    (choices_compare_what_is_there, _state("ReadBilling", Next="DecideAccess")),
    (choices_compare_what_is_there, _state("WriteTombstone", Next="DecideRemoval")),
    *(
        (choices_compare_what_is_there, _choice("DecideSearch", Variable=path))
        for path in ("$.find", "$.dry_run", "$.plan", "$.plan.shards", "$.compared.done", "$.scan.cursor")
    ),
    *(
        (choices_compare_what_is_there, _choice("DecideShard", Variable=path))
        for path in ("$.compared.finished", "$.compared.cursor", "$.from", "$.segment", "$.plan.dry_run", "$.scan.done")
    ),
    (choices_compare_what_is_there, _choice("DecideScan", 0, Variable="$.events.done")),
    (choices_compare_what_is_there, _processor("CompareShards", StartAt="DecideShard")),
    (choices_compare_what_is_there, _source("compare_shard.py", '"done":', '"finished":')),
    *((loops_go_on_until_done, _never(choice, task)) for choice, task in LOOPS.items()),
    *((loops_go_on_until_done, _choice(choice, BooleanEquals=True)) for choice in LOOPS),
    *((loops_go_on_until_done, _choice(choice, Variable="$.plan.done")) for choice in LOOPS),
    *((loops_go_on_until_done, _state(choice, Default=task)) for choice, task in LOOPS.items()),
    (loops_go_on_until_done, lambda app: _place(app, "DecideEvents")["Choices"].reverse()),
    (loops_go_on_until_done, lambda app: _place(app, "DecideMending")["Choices"].reverse()),
    (loops_go_on_until_done, _choice("DecideEvents", 1, Next="FindMissedEvents")),
    (loops_go_on_until_done, _state("MarkReconciled", Next="FindMissedEvents")),
    (loops_go_on_until_done, _state("DecideMended", Default="DecideMending")),
    (loops_go_on_until_done, _state("ScanUsers", Next="CompareShards")),
    (maps_are_bounded, _without("CompareShards", "ItemProcessor")),
    (maps_are_bounded, _without("CompareShards", "ItemProcessor", "ProcessorConfig")),
    (maps_are_bounded, _processor("CompareShards", ProcessorConfig={"Mode": "INLINE"})),
    (maps_are_bounded, _processor("CompareShards", ProcessorConfig={**DISTRIBUTED, "ExecutionType": "EXPRESS"})),
    (maps_are_bounded, _without("CompareShards", "MaxConcurrency")),
    *(
        (maps_are_bounded, _state("CompareShards", MaxConcurrency=concurrency))
        for concurrency in (0, MAX_CONCURRENCY + 1)
    ),
    (maps_take_what_was_answered, _without("CompareShards", "ItemsPath")),
    *(
        (maps_take_what_was_answered, _state("CompareShards", ItemsPath=path))
        for path in ("$.plan", "$.plan.parts", "$.shards", "$.compared.seen", "$.events.missed", "$.drift.found")
    ),
    (maps_take_what_was_answered, _source("plan_reconciliation.py", '"shards":', '"parts":')),
    (tasks_get_the_run, _state("LookupUser", Parameters={"run.$": "$"})),
    (tasks_get_the_run, _state("CompareShard", Parameters={"run.$": "$"})),
    (tasks_keep_the_run, _without("LookupUser", "ResultPath")),
    (tasks_keep_the_run, _state("LookupUser", ResultPath="$")),
    (tasks_keep_the_run, _state("WriteTombstone", ResultPath="$.tombstone")),
    (tasks_keep_the_run, _state("FindRemains", ResultPath="$.error")),
    (tasks_keep_the_run, _without("CompareShards", "ResultPath")),
    *(
        (tasks_keep_the_run, _state("CompareShards", ResultPath=path))
        for path in (None, "$", "$.dry_run", "$.error", "$.plan", "$.plan.shards")
    ),
    *(
        (tasks_keep_the_run, _state("CompareShard", ResultPath=path))
        for path in (None, "$.source", "$.until", "$.error")
    ),
    (tasks_keep_the_run, _state("ScanUsers", ResultPath="$.backfill")),
    (substitutions_fit, _state("LookupUser", Resource="${FindUserFunctionArn}")),
    (substitutions_fit, _substitution(FULFILLMENT, "UnusedFunctionArn", {"Fn::GetAtt": ["UnusedFunction", "Arn"]})),
    (
        substitutions_fit,
        _substitution(FULFILLMENT, "LookupUserFunctionArn", {"Fn::GetAtt": ["CreateUserFunction", "Arn"]}),
    ),
    (
        substitutions_fit,
        _substitution(OFFBOARDING, "LookupUserFunctionArn", {"Fn::GetAtt": ["LookupUserFunction", "Arn"]}),
    ),
    (substitutions_fit, _state("CompareShard", Resource="${CompareFunctionArn}")),
    (substitutions_fit, lambda app: app.template["Resources"].pop(RECONCILIATION)),
    *((the_machine_ends_in_time, _machine(name, TimeoutSeconds=longest + 1)) for name, longest in LONGEST.items()),
    (the_machine_ends_in_time, lambda app: app.definitions["fulfillment"].pop("TimeoutSeconds")),
    (the_machine_ends_in_time, lambda app: app.definitions["reconciliation"].pop("TimeoutSeconds")),
    (tasks_outlive_their_functions, _state("LookupUser", TimeoutSeconds=20)),
    (tasks_outlive_their_functions, _without("LookupUser", "TimeoutSeconds")),
    (tasks_outlive_their_functions, _without("CompareShard", "TimeoutSeconds")),
    (tasks_outlive_their_functions, _function("CompareShardFunction", Timeout=910)),
    (tasks_outlive_their_functions, _function("MarkFulfilledFunction", Timeout=300)),
    (tasks_outlive_their_functions, _function("FindRemainsFunction", Timeout=310)),
    (one_name_in_five_places, _state("LookupUser", Resource="${CreateUserFunctionArn}")),
    (one_name_in_five_places, _function("LookupUserFunction", Handler="create_user.handler")),
    (one_name_in_five_places, lambda app: app.sources.pop("lookup_user.py")),
    (one_name_in_five_places, _source("lookup_user.py", "LookupUser: ", "FindUser: ")),
    (one_name_in_five_places, _source("delete_user.py", "DeleteUser: ", "RemoveUser: ")),
    (one_name_in_five_places, _state("CompareShard", Resource="${CompareShardsFunctionArn}")),
    (one_name_in_five_places, _source("compare_shard.py", "CompareShard: ", "CompareShards: ")),
    (one_name_in_five_places, lambda app: app.sources.pop("compare_shard.py")),
    (one_name_in_five_places, lambda app: setattr(app, "tests", app.tests.replace('"LookupUser"', ""))),
]
RULES = list(dict.fromkeys(rule for rule, _ in BROKEN))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", LONGEST)
def test_the_machine_keeps_the_rule(name: str, rule: Rule) -> None:
    assert rule(Machine(name, application())) == []


@pytest.mark.parametrize(("rule", "by"), BROKEN)
def test_the_rule_finds_a_broken_machine(rule: Rule, by: Break) -> None:
    assert set(_problems(rule, broken(by))) - set(_problems(rule, application())) != set()


def test_the_rules_look_at_every_machine() -> None:
    app = application()
    assert app.definitions.keys() == LONGEST.keys()
    assert {scope.name for machine in app.machines for scope in machine.scopes} == INPUTS.keys()


def test_the_rule_about_loops_looks_at_every_loop() -> None:
    machines = application().machines
    tasks = [name for machine in machines for scope in machine.scopes for name in _going_on(machine, scope)]
    assert sorted(tasks) == sorted(LOOPS.values())


def test_a_choice_may_look_at_what_every_item_has() -> None:
    spoilt = broken(_choice("DecideShard", Variable="$.dry_run"))
    told = _problems(choices_compare_what_is_there, spoilt)
    assert [problem for problem in told if "$.dry_run" in problem] == []


def _problems(rule: Rule, app: Application) -> list[str]:
    return [problem for machine in app.machines for problem in rule(machine)]
