"""Files that are almost pictures or videos."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fuzzing


def test_files_that_were_changed_are_read_or_refused(tmp_path: Path) -> None:
    count = fuzzing.cases(60)
    script = Path(__file__).with_name("fuzz_media.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path, str(fuzzing.SEED), str(count)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    left = [str(path) for path in tmp_path.iterdir()]
    assert (done.returncode, left) == (0, []), done.stderr[-3000:]
    read, refused = map(int, done.stdout.split())
    assert read + refused == 3 * count
    assert min(read, refused) > count / 2
