"""`python -m tests.build FOLDER`: runs `sam build` twice, in two places, and compares the results byte by byte.
Every source must come with its bytecode, and every package with its licence.

The artefacts of the first build stay in FOLDER/first/.aws-sam/build, for the end-to-end suite.
"""

import filecmp
import shutil
import subprocess
import sys
from pathlib import Path

from tests.local.template import ARCHITECTURE

REPOSITORY = Path(__file__).parents[1]
SOURCES = ("functions", "statemachine", "requirements", "template.yaml", "samconfig.toml")


def build(place: Path) -> Path:
    """The artefacts of a build of a fresh copy of the sources, as after a clone."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for each in SOURCES:
        if (REPOSITORY / each).is_dir():
            shutil.copytree(REPOSITORY / each, place / each, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(REPOSITORY / each, place / each)
    done = subprocess.run(
        ["sam", "build", "--parameter-overrides", f"Architecture={ARCHITECTURE}"],
        cwd=place,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        sys.exit(f"sam build failed:\n{done.stdout}")
    return place / ".aws-sam" / "build"


def differences(first: Path, second: Path) -> list[str]:
    """Files that are not in both folders with the same bytes."""
    files = [{path.relative_to(top) for path in top.rglob("*") if path.is_file()} for top in (first, second)]
    lonely = files[0] ^ files[1]
    both = sorted(files[0] & files[1])
    _, different, unreadable = filecmp.cmpfiles(first, second, [str(path) for path in both], shallow=False)
    return sorted([*map(str, lonely), *different, *unreadable])


def without_bytecode(folder: Path) -> list[str]:
    """Sources whose bytecode is missing, or would be held against a time of change that packaging does not keep."""
    unchecked_hash = (1).to_bytes(4, "little")  # PEP 552: the flags after the magic number
    found = []
    for source in folder.rglob("*.py"):
        compiled = source.parent / "__pycache__" / f"{source.stem}.cpython-313.pyc"
        if not compiled.exists() or compiled.read_bytes()[4:8] != unchecked_hash:
            found.append(str(source.relative_to(folder)))
    return sorted(found)


def without_licence(folder: Path) -> list[str]:
    """Packages whose licence text, which has to be handed on with them, is not there."""
    packages = sorted(folder.rglob("*.dist-info"))
    if not packages:
        return ["the layer itself: it has no metadata at all"]
    return [each.name for each in packages if not [*each.rglob("LICEN[CS]E*", case_sensitive=False)]]


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    first, second = build(folder / "first"), build(folder / "second")
    different = differences(first, second)
    if different:
        sys.exit("two builds of the same sources differ:\n" + "\n".join(different))
    if slow := without_bytecode(first):
        sys.exit("Lambda would compile at every cold start:\n" + "\n".join(slow))
    if missing := without_licence(first):
        sys.exit("these packages would ship without their licence:\n" + "\n".join(missing))
    size = sum(path.stat().st_size for path in (first / "DependenciesLayer").rglob("*") if path.is_file())
    print(f"two identical builds; the layer has {size / 1e6:.1f} MB unpacked")
    shutil.rmtree(folder / "second")


if __name__ == "__main__":
    main()
