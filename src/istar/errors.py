"""Every error that istar raises on purpose.

::

    IstarError                 exit code 1
    ├── UsageError             exit code 2: the request itself is wrong
    ├── MediaError             a picture or clip that cannot be read or written
    ├── CheckpointError        weights, manifest or text encoder that cannot be used
    ├── HubError               a model that cannot be fetched
    ├── RewriteError           a prompt that no language model rewrites
    ├── DeviceError            the device or its memory does not serve
    ├── StateError             a take or training checkpoint that cannot be used
    └── GenerationError        the computation itself went wrong

A message says what failed and why. What to do next in terms of istar's own settings is data, the
error's remedies: a command line words them as flags, a notebook as arguments, a server as fields.
"""

from __future__ import annotations

from typing import Literal

Remedy = Literal[
    "any_model",
    "auto_memory",
    "cpu",
    "extend",
    "extend_first",
    "fetch_anyway",
    "fewer_seconds",
    "finish",
    "finish_preparing",
    "fp32",
    "fp8",
    "half_precision",
    "int8",
    "list_models",
    "list_takes",
    "lower_resolution",
    "name_model",
    "other_gpu",
    "other_model",
    "other_name",
    "overwrite",
    "prepare",
    "pull",
    "repair",
    "rewrite_model",
    "rewrite_timeout",
    "rewrite_token",
    "rewrite_url",
    "rewriter",
    "run_anyway",
    "tiny",
]
"""What a person can change: each stands for one setting or command of istar's."""


class IstarError(Exception):
    """The root of istar's errors.

    Attributes:
        remedies: what may help, the likeliest first.

    Example:
        >>> error = DeviceError("the GPU's memory ran out", remedies=("lower_resolution",))
        >>> str(error), error.remedies
        ("the GPU's memory ran out", ('lower_resolution',))
    """

    exit_code = 1

    def __init__(self, message: str, *, remedies: tuple[Remedy, ...] = ()) -> None:
        super().__init__(message)
        self.remedies = remedies


class UsageError(IstarError):
    """The request itself is wrong: an empty prompt, a negative length, an unknown ratio."""

    exit_code = 2


class MediaError(IstarError):
    """A picture or a clip that cannot be read, or an output that cannot be written."""


class CheckpointError(IstarError):
    """A checkpoint directory with a file, tensor or setting missing, extra or malformed."""


class HubError(IstarError):
    """A model that cannot be fetched, or whose files in the Hub's cache cannot be trusted."""


class RewriteError(IstarError):
    """A prompt that cannot be rewritten: the language model is not there or gives no answer."""


class DeviceError(IstarError):
    """The device asked for is absent, or its memory does not suffice."""


class StateError(IstarError):
    """A take or training checkpoint that is damaged or belongs to other weights."""


class GenerationError(IstarError):
    """The network produced something that cannot be sampled or decoded."""
