"""Every error that istar raises on purpose.

::

    IstarError                 exit code 1
    ├── UsageError             exit code 2: what was asked for makes no sense
    ├── MediaError             a picture or clip that cannot be read or written
    ├── CheckpointError        weights, manifest or text encoder that cannot be used
    ├── HubError               a model that cannot be fetched
    ├── DeviceError            the device or its memory does not serve
    ├── StateError             a saved generation state that cannot be restored
    └── GenerationError        the computation itself went wrong

A message is one sentence or two: what failed, why, and what to do next.
"""

from __future__ import annotations


class IstarError(Exception):
    """The root of istar's errors; its text is meant for the person at the terminal."""

    exit_code = 1


class UsageError(IstarError):
    """The request itself makes no sense: an empty prompt, no seconds, an unknown ratio."""

    exit_code = 2


class MediaError(IstarError):
    """A picture or a clip that cannot be read, or an output that cannot be written."""


class CheckpointError(IstarError):
    """A checkpoint directory with a file, tensor or setting missing, extra or malformed."""


class HubError(IstarError):
    """A model that cannot be fetched, or whose files in the Hub's cache cannot be trusted."""


class DeviceError(IstarError):
    """The device asked for is absent, or its memory does not suffice."""


class StateError(IstarError):
    """A saved generation state that is damaged or belongs to another checkpoint or request."""


class GenerationError(IstarError):
    """The network produced something that cannot be sampled or decoded."""
