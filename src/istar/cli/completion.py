"""What a shell offers when Tab is pressed: names that are known without torch and the Hub's client.

Where nothing is offered, the shells offer files.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

from typer import _completion_classes
from typer._click.shell_completion import CompletionItem, add_completion_class, split_arg_string

from istar.errors import UsageError

MODELS = ("auto", "720p", "480p", "interact", "tiny")
"""The names of `istar.models.find`, which takes longer to import than completing may last."""

ASPECTS = (
    *("16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "2:1", "1:2", "5:2", "2:5", "3:1", "1:3"),
    *("29:25", "25:29"),
)
"""The ratios that a video can have, as people write them."""

_MANIFEST = "istar.json"

_BREAKS = (":", "=")
"""Characters that are words of their own to bash, though people mean one word with them in it."""


def model_names(incomplete: str) -> list[str]:
    """The models of the registry, the bundled one, and repositories whose models are here."""
    return [*MODELS, *_repositories_here()]


def aspects(incomplete: str) -> list[str]:
    """The ratios."""
    return list(ASPECTS)


def devices(incomplete: str) -> list[str]:
    """The kinds of devices."""
    return ["auto", "cuda", "cpu"]


def take_names(incomplete: str) -> list[str]:
    """The takes that runs left here."""
    from istar.take_directory import take_files

    return sorted((path.stem for path in take_files()), reverse=True)


def setting_names(incomplete: str) -> list[str]:
    """The settings and, once a command's name and a dot are typed, those of the command."""
    from istar.cli.setting_table import SETTINGS

    command, dot, _ = incomplete.partition(".")
    own = [f"{command}.{name}" for name, one in SETTINGS.items() if command in one.commands]
    return [*SETTINGS, *(own if dot else ())]


def setting_values(incomplete: str) -> list[str]:
    """The values that the setting which was typed before may have."""
    from istar.cli.settings import find_setting

    # Typer checks no values while it completes, and so has no name: it is the word after `set`.
    line = os.environ.get("COMP_WORDS") or os.environ["_TYPER_COMPLETE_ARGS"]
    try:
        _, one = find_setting(line.split()[3])
    except UsageError:
        return []
    if one.kind is bool:
        return ["true", "false"]
    known = {"model": model_names, "aspect": aspects, "device": devices}
    if one.name in known:
        return known[one.name](incomplete)
    return list(one.choices()) if one.choices else []


def _repositories_here() -> list[str]:
    """Repositories in the Hub's cache that hold a manifest of istar's."""
    home = os.environ.get("HF_HOME") or Path(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
    )
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub")).expanduser()
    found = {path.parents[2].name for path in cache.glob(f"models--*/snapshots/*/{_MANIFEST}")}
    return sorted("/".join(name.split("--")[1:]) for name in found)


def prepare_completion() -> None:
    """Set typer up for the shells."""
    _completion_classes.completion_init()
    add_completion_class(WholeWordsInBash, "bash")
    # Typer has rich render what is said of a name, cut into lines, and fish takes each for a name.
    _completion_classes._sanitize_help_text = lambda text: text


class WholeWordsInBash(_completion_classes.BashComplete):
    """Completion in bash, which cuts `16:9`, `owner/repo@v1:part` and `--res=480p` into words."""

    _there = ""
    """What of the word stands before the piece that bash completes."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one to complete, and that one, as the person wrote them."""
        count = int(os.environ["COMP_CWORD"]) + 1
        words = [*split_arg_string(os.environ["COMP_WORDS"])[:count], ""][:count]
        whole = words[:1]
        for before, word in pairwise(words):
            if len(whole) > 1 and (word in _BREAKS or before in _BREAKS):
                whole[-1] += word
                self._there = whole[-1][: whole[-1].rfind(":") + 1]
            else:
                whole.append(word)
                self._there = ""
        return whole[1:-1], whole[-1]

    def format_completion(self, item: CompletionItem) -> str:
        """The piece that bash puts in the place of the one that is there."""
        return str(item.value).removeprefix(self._there)
