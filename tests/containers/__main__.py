"""`python -m tests.containers PACKAGES [pytest's options]`: the tests of this folder, with a Docker engine around them.

PACKAGES is the site-packages folder of what Lambda's runtime brings (awslambdaric, boto3), for the stand-in image.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

from .engine import BUILD, EngineError, engine, images

REPOSITORY = Path(__file__).parents[2]


def main() -> int:
    packages, options = Path(sys.argv[1]), sys.argv[2:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # the engine ends in any case
    built = subprocess.run(
        BUILD,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if built.returncode:
        print(f"sam build failed:\n{built.stdout}", file=sys.stderr)
        return 1
    try:
        with engine(), images(packages, REPOSITORY / ".aws-sam/build/DependenciesLayer") as which:
            print(f"Functions run in {which}", file=sys.stderr)
            command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "worksteal", *options, "tests/containers"]
            settings = {
                # What is there is used as it is: a look at the registry at every invocation would need the network.
                "SAM_SKIP_PULL_IMAGE": "1",
                # Seconds until a container listens: its own 20 are few on a busy machine.
                "SAM_CLI_CONTAINER_CONNECTION_TIMEOUT": "120",
            }
            return subprocess.run(command, cwd=REPOSITORY, env={**os.environ, **settings}, check=False).returncode
    except EngineError as error:
        print(f"make test-containers: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
