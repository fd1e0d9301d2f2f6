"""What every `istar` imports and does first, done once by the process that others are forked from.

The first command of a process takes more than its imports: transformers compiles a thousand
patterns before it loads a text encoder.
"""

import gc
import importlib
import os
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

from istar.cli.app import run
from istar.cli.commands import ENTRIES

for entry in ENTRIES.values():
    importlib.import_module("istar.cli." + entry.place.partition(":")[0])

_MAKE = ("a cat", "--model", "tiny", "--seed", "1", "--no-take", "-o")

with (
    Path(os.devnull).open("w") as nowhere,
    redirect_stdout(nowhere),
    redirect_stderr(nowhere),
    TemporaryDirectory() as directory,
):
    run(["t2i", *_MAKE, f"{directory}/a.png"])
    run(["t2v", *_MAKE, f"{directory}/a.mp4", "--seconds", "1"])

# A collection in a fork would touch all of this, and so copy it.
gc.collect()
gc.freeze()
