"""istar: pictures and video from your own GPU with InfinityStar.

Importing the package loads nothing heavy; names are imported on first use.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # typing takes a while, and signals are not handled before it is imported
if TYPE_CHECKING:
    from typing import Any

    from istar.errors import (
        CheckpointError,
        DeviceError,
        GenerationError,
        HubError,
        IstarError,
        MediaError,
        RewriteError,
        StateError,
        UsageError,
    )
    from istar.events import (
        ClipReady,
        Decoding,
        Event,
        GenerationResult,
        Loading,
        Note,
        Preview,
        Progress,
        WorkDone,
    )
    from istar.job import Job
    from istar.pipeline import InfinityStarPipeline
    from istar.request import GenerationRequest
    from istar.take import Take

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "ClipReady",
    "Decoding",
    "DeviceError",
    "Event",
    "GenerationError",
    "GenerationRequest",
    "GenerationResult",
    "HubError",
    "InfinityStarPipeline",
    "IstarError",
    "Job",
    "Loading",
    "MediaError",
    "Note",
    "Preview",
    "Progress",
    "RewriteError",
    "StateError",
    "Take",
    "UsageError",
    "WorkDone",
]

_HOME = {
    "CheckpointError": "errors",
    "ClipReady": "events",
    "Decoding": "events",
    "DeviceError": "errors",
    "Event": "events",
    "GenerationError": "errors",
    "GenerationRequest": "request",
    "GenerationResult": "events",
    "HubError": "errors",
    "InfinityStarPipeline": "pipeline",
    "IstarError": "errors",
    "Job": "job",
    "Loading": "events",
    "MediaError": "errors",
    "Note": "events",
    "Preview": "events",
    "Progress": "events",
    "RewriteError": "errors",
    "StateError": "errors",
    "Take": "take",
    "UsageError": "errors",
    "WorkDone": "events",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'istar' has no attribute {name!r}")
    return getattr(import_module(f"istar.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
