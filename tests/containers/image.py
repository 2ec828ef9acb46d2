"""A stand-in of Lambda's base image, where that cannot be pulled: Python 3.13, and AWS's own runtime client.

It has the places that count: Python in /var/lang, awslambdaric and boto3 in /var/runtime with the program `bootstrap`
that Lambda starts there, the function in /var/task and its layers in /opt. Everything is copied from this machine.
"""

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"

_PROGRAMS = ("sh", "mv", "chmod")
"""What `sam local` runs while it adds the emulator and the layer to the image."""

_UNUSED = ("__pycache__", "test", "site-packages", "idlelib", "turtledemo", "ensurepip", "config-*", "*tkinter*")

_BOOTSTRAP = f"""#!/bin/sh
export AWS_EXECUTION_ENV=AWS_Lambda_{PYTHON} PYTHONPATH=/var/task:/opt/python:/var/runtime
exec /var/lang/bin/{PYTHON} -m awslambdaric "$_HANDLER"
"""


def fill(root: Path, packages: Path) -> None:
    """Lays out the image in a folder. `packages`: the site-packages that have awslambdaric and boto3."""
    standard_library = root / "var/lang/lib" / PYTHON
    shutil.copytree(sysconfig.get_path("stdlib"), standard_library, ignore=shutil.ignore_patterns(*_UNUSED))
    shutil.copytree(packages, root / "var/runtime", ignore=shutil.ignore_patterns("__pycache__", "pip*"))
    interpreter = Path(sys.base_prefix, "bin", PYTHON).resolve()
    _copy(interpreter, root / "var/lang/bin" / PYTHON)
    for program in _PROGRAMS:
        _copy(Path("/bin", program), root / "bin" / program)
    native = [*root.glob("var/runtime/**/*.so*"), *standard_library.glob("lib-dynload/*.so")]
    for library in _libraries([interpreter, *(Path("/bin", program) for program in _PROGRAMS), *native]):
        _copy(library, root / library.relative_to("/"))
    bootstrap = root / "var/runtime/bootstrap"
    bootstrap.write_text(_BOOTSTRAP, encoding="ascii")
    bootstrap.chmod(0o755)
    for folder in ("tmp", "var/task", "opt", "etc"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n", encoding="ascii")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def _libraries(files: Iterable[Path]) -> set[Path]:
    """The shared libraries that these need, and the loader."""
    found = set()
    for file in files:
        listed = subprocess.run(["ldd", file], capture_output=True, text=True, check=False).stdout
        found.update(re.findall(r"(/\S+) \(0x", listed))
    return {Path(each) for each in found}
