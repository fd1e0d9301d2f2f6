"""`istar` and `python -m istar`."""

from __future__ import annotations

import os
import signal
import sys
from types import ModuleType

from istar.cli.signals import SignalWatch

_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def main() -> None:
    """Run the command line and leave with its exit code."""
    watch = SignalWatch()
    if not any(name in os.environ for name in _WAITING):
        # Threads that wait would spin. Where other programs run, that takes the time of those that
        # work; where none do, only small models are slower for it. Read when torch is imported.
        os.environ["OMP_WAIT_POLICY"] = "passive"
    if "_ISTAR_COMPLETE" in os.environ:
        # Completing needs no checked values, for which typer imports pydantic: that takes longer
        # than all else together. With an empty module typer passes over the check.
        sys.modules["pydantic"] = ModuleType("pydantic")

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
