"""python -m tests.local serve | demo: the whole product on this machine, as a service or as a story."""

from __future__ import annotations

import argparse
import os
import sys

from .isolation import forget_the_world


def main() -> int:
    """Run what the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.local", description=__doc__)
    parser.add_argument("command", choices=["serve", "demo"])
    command = parser.parse_args().command
    forget_the_world()
    try:
        if command == "serve":
            from . import serve

            return serve.main(os.environ)
        from . import demo

        return demo.main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
