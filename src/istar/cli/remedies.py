"""What a person at a terminal types to follow an error's remedies."""

from __future__ import annotations

from istar.errors import IstarError, Remedy

WORDS: dict[Remedy, str] = {
    "any_model": "leave out --model and --res",
    "auto_memory": "leave out --memory",
    "cpu": "compute with --device cpu",
    "extend": "use `istar extend`",
    "extend_first": "lengthen the clip first with `istar extend`",
    "fetch_anyway": "fetch it anyway with --yes",
    "fewer_seconds": "choose fewer --seconds",
    "finish": "finish it first with `istar finish`",
    "finish_preparing": "continue it with the same `istar prepare`",
    "fp32": "compute with --dtype fp32",
    "fp8": "compute with --dtype fp8",
    "half_precision": "compute with --dtype bf16",
    "int8": "compute with --dtype int8",
    "list_models": "see `istar models list`",
    "list_takes": "see `istar takes list`",
    "lower_resolution": "choose a lower --res",
    "name_model": "name its directory or repository with --model",
    "other_gpu": "compute on another GPU with --device cuda:N",
    "other_model": "choose another --model",
    "other_name": "choose another name",
    "overwrite": "replace it with --overwrite",
    "prepare": "prepare clips with `istar prepare`",
    "pull": "fetch it with `istar models pull`",
    "repair": "fetch what is damaged with `istar models verify --repair`",
    "rewrite_model": "set another rewrite.model",
    "rewrite_timeout": "wait longer with rewrite.timeout",
    "rewrite_token": "name its token in ISTAR_REWRITE_TOKEN",
    "rewrite_url": "name another address with rewrite.url",
    "rewriter": "set rewrite.url or rewrite.model with `istar config set`",
    "run_anyway": "run it anyway with --yes",
    "tiny": "make something small with --model tiny",
}


def message(error: IstarError) -> str:
    """An error's text and what to type next, in one line."""
    return with_remedies(str(error), error.remedies)


def with_remedies(text: str, remedies: tuple[Remedy, ...]) -> str:
    """A text, and what to type next behind it."""
    words = remedy_words(remedies)
    return f"{text}; {words}" if words else text


def remedy_words(remedies: tuple[Remedy, ...]) -> str:
    """What to type next; empty where there are no remedies."""
    *first, last = [WORDS[remedy] for remedy in remedies] or [""]
    return f"{', '.join(first)}{' or ' if first else ''}{last}"
