"""python -m tests.local serve | demo: the whole product on this machine, as a service or as a story."""

from __future__ import annotations

import argparse
import os
import sys


def main() -> int:
    """Run what the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.local", description=__doc__)
    parser.add_argument("command", choices=["serve", "demo"])
    command = parser.parse_args().command
    _forget_the_world()
    try:
        if command == "serve":
            from . import serve

            return serve.main(os.environ)
        from . import demo

        return demo.main()
    except KeyboardInterrupt:
        return 130


def _forget_the_world() -> None:
    """Nobody's AWS account, profile or proxy has a part in this: all that this process talks to is on 127.0.0.1.

    Comes before boto3 is imported. The functions get none of these variables in any case.
    """
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"


if __name__ == "__main__":
    sys.exit(main())
