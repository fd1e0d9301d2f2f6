"""Write the commands in `docs/cli.md`; `make docs` calls it, a test checks it."""

from __future__ import annotations

import html
import os
import subprocess
import sys
from pathlib import Path

TARGET = Path(__file__).with_name("cli.md")
BEGIN, END = "<!-- commands -->\n", "<!-- end -->\n"


def generated() -> str:
    """The page with its commands as they should be."""
    before, rest = TARGET.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}{_commands()}{END}{after}"


def _commands() -> str:
    command = [sys.executable, "-m", "typer", "istar.cli.app", "utils", "docs", "--name", "istar"]
    plain = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "100"}
    done = subprocess.run(
        command, capture_output=True, check=True, encoding="utf-8", env={**os.environ, **plain}
    )
    lines = [line.rstrip() for line in done.stdout.strip().splitlines()]
    # The page has a title of its own.
    return "#" + html.unescape("\n".join(lines)) + "\n"


if __name__ == "__main__":
    TARGET.write_text(generated(), encoding="utf-8")
