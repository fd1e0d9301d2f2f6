"""`istar` and `python -m istar`."""

from __future__ import annotations

import signal
import sys

from istar.cli.signals import SignalWatch


def main() -> None:
    """Run the command line and leave with its exit code."""
    watch = SignalWatch()

    try:
        from istar.cli.app import run

        code = run()
    except KeyboardInterrupt:  # between the last of its instructions
        code = 128 + signal.SIGINT
    except (ImportError, ValueError) as error:
        # A package is missing, or refuses a variable of the environment.
        print(f"istar: error: istar cannot start: {error}", file=sys.stderr)
        code = 1
    watch.work_is_over()
    sys.exit(code)


if __name__ == "__main__":
    main()
