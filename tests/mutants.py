"""`python -m tests.mutants`: every mutant of the pure modules must be killed, by their unit tests or by mypy.

mutmut writes the mutants and tries them. What nothing can kill is explained in mutants.toml; that list is exact: a
survivor that is not on it fails the run, and so does an entry that explains no survivor.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
EXPLAINED = Path(__file__).with_name("mutants.toml")
WORK = ROOT / "build" / "mutants"

MUTATED = ("access.py", "drift.py", "events.py")
TESTS = ("unit/test_access.py", "unit/test_drift.py", "unit/test_events.py")
FIXTURES = "local/stripe-fixtures.json"

KILLED = ("killed", "caught by type check", "timeout")

# The project that mutmut sees: it knows modules by their path below src/.
PROJECT = f"""
[tool.mutmut]
source_paths = ["src"]
only_mutate = {[f"src/gateway/{name}" for name in MUTATED]}
also_copy = ["tests"]
pytest_add_cli_args_test_selection = {[f"tests/{name}" for name in TESTS]}
pytest_add_cli_args = ["-p", "no:cacheprovider"]
type_check_command = ["mypy", "--strict", "--output", "json", {", ".join(f'"src/gateway/{name}"' for name in MUTATED)}]

[tool.mypy]
mypy_path = "src"
disable_error_code = ["unused-ignore"]

[tool.pytest.ini_options]
addopts = "--import-mode=importlib"
"""

# Few examples, none shrunk: what a table kills needs no search.
CONFTEST = """
from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "mutants",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=10,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("mutants")
"""

# A property is a decorated function, which mutmut leaves alone; a method of which a property is made it does not.
PROPERTY = re.compile(r"^    @property\n    def (\w+)(\(self\).*\n(?:(?: {8}.*)?\n)+)", re.MULTILINE)


def lay_out() -> None:
    """A project of the mutated modules and their tests, nothing else."""
    shutil.rmtree(WORK, ignore_errors=True)
    shutil.copytree(ROOT / "functions" / "gateway", WORK / "src" / "gateway", ignore=shutil.ignore_patterns("__py*"))
    for name in MUTATED:
        module = WORK / "src" / "gateway" / name
        text = PROPERTY.sub(r"    def \1_\2    \1 = property(\1_)\n\n", module.read_text(encoding="utf-8"))
        module.write_text(text, encoding="utf-8")
    for name in (*TESTS, FIXTURES):
        copy = WORK / "tests" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / "tests" / name, copy)
    (WORK / "tests" / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    (WORK / "pyproject.toml").write_text(PROJECT, encoding="utf-8")


def mutmut(*arguments: str) -> str:
    """What mutmut says; its own words on the console when it cannot do its work."""
    # mutmut finds mypy on the PATH. Without the plugins that nobody needs here, each start of pytest is faster.
    environment = {
        **os.environ,
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    environment.pop("PYTEST_ADDOPTS", None)
    command = [sys.executable, "-m", "mutmut", *arguments]
    done = subprocess.run(command, cwd=WORK, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"mutmut {arguments[0]} failed\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout


class Mutant(NamedTuple):
    """One change to a function, by the text of its lines: numbers move with every edit."""

    function: str
    line: str
    mutated: str


def mutant(name: str) -> Mutant:
    """The change behind mutmut's name for it."""
    diff = mutmut("show", name).splitlines()
    taken, put = (
        "\n".join(line[1:].strip() for line in diff if line.startswith(sign) and not line.startswith(sign * 3))
        for sign in "-+"
    )
    module, _, function = name.partition("__mutmut_")[0].removeprefix("gateway.").partition(".")
    return Mutant(f"{module}.{re.sub('^x_', '', function.replace('ǁ', '.'))}", taken, put)


def explained() -> set[Mutant]:
    entries = tomllib.loads(EXPLAINED.read_text(encoding="utf-8")).get("mutant", [])
    for entry in entries:
        if not entry.pop("why", ""):
            sys.exit(f"{EXPLAINED.name}: the mutant of {entry['function']} has no reason")
    return {Mutant(**entry) for entry in entries}


def main() -> None:
    lay_out()
    mutmut("run", "--max-children", "2")
    told = re.findall(r"^\s*(gateway\S+): (.+)$", mutmut("results", "--all", "true"), re.MULTILINE)
    verdicts = Counter(verdict for _, verdict in told)
    survivors = {mutant(name) for name, verdict in told if verdict not in KILLED}
    known = explained()
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    print(f"{len(told)} mutants: {counts}; {len(survivors & known)} of {len(survivors)} survivors explained")
    for each in sorted(survivors - known):
        print(f"\nsurvives: {each.function}\n- {each.line}\n+ {each.mutated}")
    for each in sorted(known - survivors):
        print(f"\nexplained, but no survivor: {each.function}\n- {each.line}\n+ {each.mutated}")
    if survivors != known or not told:
        sys.exit(1)


if __name__ == "__main__":
    main()
