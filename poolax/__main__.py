"""The program ``poolax``, also ``python -m poolax``: it takes signals before it imports anything."""

import sys

from poolax._signals import Watch, taking_signals


def main() -> int:
    """Run the command line; the result is the process's exit code."""
    with taking_signals(), Watch("poolax")():
        from poolax.cli import main as run

        return run()


if __name__ == "__main__":
    sys.exit(main())
