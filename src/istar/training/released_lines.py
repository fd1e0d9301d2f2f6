"""Lines of the released code's lists of clips, as lines of ours.

Such a line names a video and a range of its frames, or a picture::

    {"video_path": "videos/boat.mp4", "begin_frame_id": 0, "end_frame_id": 120, "fps": 24,
     "tarsier2_caption": "A boat leaves the harbour.", "width": 1280, "height": 720}
    {"image_path": "pictures/boat.jpg", "long_caption": "A boat in a harbour.", "text": "a boat"}

Source: the released code's `data/README.md` and its data set `JointViIterableDataset`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from istar.errors import UsageError

_VIDEO_CAPTIONS = ("tarsier2_caption", "MiniCPM_V_2_6_caption")
_PICTURE_CAPTIONS = ("long_caption", "text")

_LATEST_FRAME = 1_000_000_000


def is_released_line(entry: Mapping[str, Any]) -> bool:
    """Whether a line is of the released code's kind."""
    return "video_path" in entry or "image_path" in entry


def own_line(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The same line with the keys of ours, see `istar.training.clips`.

    `width`, `height` and `h_div_w` are left out: the file itself says them.

    Raises:
        UsageError: its frame numbers or their rate make no sense.
    """
    line = {key: entry[key] for key in ("caption", "captions", "clip_captions") if key in entry}
    is_video = "video_path" in entry
    # 1. A video's captions are wordings of the whole, a picture's `text` is a short one of what its
    #    `long_caption` says. That code appends a video's `quality_prompt` last, to short ones too.
    keys = _VIDEO_CAPTIONS if is_video else _PICTURE_CAPTIONS
    wordings = [entry[key] for key in keys if entry.get(key)]
    quality = entry.get("quality_prompt")
    if is_video and isinstance(quality, str) and quality.strip():
        line["ending"] = quality
    if not is_video and len(wordings) == len(_PICTURE_CAPTIONS):
        line["short_captions"] = [wordings.pop()]
    if wordings:
        line["captions"] = wordings
    # 2. That code opens relative paths where it was started, not beside the list.
    path = entry["video_path" if is_video else "image_path"]
    line["path"] = str(Path.cwd() / path) if isinstance(path, str) and path else path
    # 3. Frames to seconds. The end is exclusive: that code counts (end - begin) / fps seconds, and
    #    a README's clip of 5 s at 24 a second has the frames 0 to 120.
    if is_video:
        begin, end, rate = (entry.get(key) for key in ("begin_frame_id", "end_frame_id", "fps"))
        if not (_is_number(begin) and _is_number(end)):
            raise UsageError("its begin_frame_id or end_frame_id is not the number of a frame")
        if not _is_number(rate) or rate == 0:
            raise UsageError("its fps is not a number above 0, so its frames have no time")
        line["begin"], line["end"] = begin / rate, end / rate
    return line


def _is_number(value: object) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value <= _LATEST_FRAME
