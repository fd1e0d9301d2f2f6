"""A story: the TOML file of a film's scenes and settings, read and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from istar.cli.parsing import parse_aspect, parse_tau
from istar.cli.session_lines import Prompt
from istar.cli.setting_checks import guidance_check
from istar.errors import UsageError
from istar.models.find import check_name, similar_name
from istar.request import check_prompt, check_seconds, check_seed
from istar.tables import decode
from istar.text_files import parse_toml, read_text

if TYPE_CHECKING:
    from istar.cli.option_types import Resolution
    from istar.cli.options import CommonOptions

_Table = TypeVar("_Table", "Scene", "StorySettings")

STORY_SUFFIX = ".toml"

_SCENES = "scene"
_MOST_CLIPS = 1000
_SCENE_LINE = re.compile(rf"^\s*\[\[\s*{_SCENES}\s*\]\]")
_TOML_PLACE = re.compile(r"(.*) \(at line (\d+), column (\d+)\)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A scene as the file has it.

    Attributes:
        prompt: what happens.
        seconds: how long, whole clips of the model; None for what the story says, or one clip.
        seed: it is drawn from it; None to continue with the draws before.
        image: the picture that it begins with, after a cut.

    Raises:
        UsageError: a value that is not allowed.
    """

    prompt: str
    seconds: float | None = None
    seed: int | None = None
    image: Path | None = None

    def __post_init__(self) -> None:
        check_prompt(self.prompt)
        if self.seconds is not None:
            check_seconds(self.seconds, least=1)
        if self.seed is not None:
            check_seed(self.seed)
        if self.image is not None and not self.image.is_file():
            raise UsageError(f"there is no picture '{self.image}'")


@dataclass(frozen=True, kw_only=True)
class StorySettings:
    """What stands in the file above its scenes: options of the command, which count more.

    Attributes:
        seconds: of a scene that does not say.
        seed: of the first scene, where that does not say.
        suffix: false leaves the model's own suffix off the prompts.

    The others are the options of their names.
    """

    model: str | None = None
    res: str | None = None
    aspect: str | None = None
    seconds: float | None = None
    seed: int | None = None
    guidance: float | None = None
    tau: str | float | None = None
    negative: str | None = None
    suffix: bool = True

    def __post_init__(self) -> None:
        if self.model is not None:
            check_name(self.model)
        parse_aspect(self.aspect)
        parse_tau(None if self.tau is None else str(self.tau))
        _resolution(self.res)
        if self.guidance is not None:
            guidance_check(self.guidance, "")
        check_prompt(self.negative or "", name="negative prompt", may_be_empty=True, longest=None)
        if self.seconds is not None:
            check_seconds(self.seconds, least=1)
        if self.seed is not None:
            check_seed(self.seed)

    def under(self, options: CommonOptions) -> CommonOptions:
        """The options with these settings for those that were not typed."""
        values: dict[str, Any] = {
            "model": self.model,
            "res": _resolution(self.res),
            "aspect": self.aspect,
            "guidance": self.guidance,
            "tau": None if self.tau is None else str(self.tau),
            "negative": self.negative,
            "no_suffix": None if self.suffix else True,
        }
        own = {
            name: value
            for name, value in values.items()
            if value is not None and name not in options.typed
        }
        return replace(options, **own, model_is_typed=options.model_is_typed or "model" in own)


@dataclass(frozen=True, kw_only=True)
class StoryClip:
    """A clip that a scene needs: a full one of the model.

    Attributes:
        scene: counted from 1.
        prompt: the scene's.
        begins: it is the scene's first.
        seed: it is drawn from it; None to continue with the draws before.
        image: the picture with which it begins a new shot.
    """

    scene: int
    prompt: Prompt
    begins: bool
    seed: int | None
    image: Path | None


@dataclass(frozen=True, kw_only=True)
class Story:
    """A story as its file has it.

    Attributes:
        path: the file.
        settings: what stands above the scenes.
        scenes: in order, one at least.
    """

    path: Path
    settings: StorySettings
    scenes: tuple[Scene, ...]

    @classmethod
    def read(cls, path: Path) -> Story:
        """The story in a file; paths in it are relative to it.

        Raises:
            UsageError: it is not TOML, or something in it is not allowed; the first that is not.
        """
        found = _Reader(path)
        if found.problems:
            raise UsageError(found.problems[0])
        assert found.settings is not None
        return cls(path=path, settings=found.settings, scenes=tuple(found.scenes))

    def clips(self, clip_seconds: int, seeds: Mapping[int, int]) -> tuple[StoryClip, ...]:
        """The clips of all scenes.

        Args:
            clip_seconds: of the model.
            seeds: of scenes, counted from 1, in place of those that the file has.

        Raises:
            UsageError: a length is not one of whole clips, or there are too many.
        """
        own = self.settings.seconds or clip_seconds
        lengths = [scene.seconds or own for scene in self.scenes]
        uneven = [
            f"scene {number}: {seconds:g} s"
            for number, seconds in enumerate(lengths, 1)
            if seconds % clip_seconds
        ]
        if uneven:
            raise UsageError(
                f"the model makes whole clips of {clip_seconds} s; {', '.join(uneven)}"
            )
        clips: list[StoryClip] = []
        for number, scene in enumerate(self.scenes, 1):
            count = int(lengths[number - 1]) // clip_seconds
            if len(clips) + count > _MOST_CLIPS:
                raise UsageError(f"'{self.path}' needs more than {_MOST_CLIPS} clips")
            first = StoryClip(
                scene=number,
                prompt=Prompt(text=scene.prompt),
                begins=True,
                seed=seeds.get(number, self.seed_of(number)),
                image=scene.image,
            )
            later = replace(first, begins=False, seed=None, image=None)
            clips += [first, *[later] * (count - 1)]
        return tuple(clips)

    def seed_of(self, scene: int) -> int | None:
        """The seed that the file has for a scene, counted from 1."""
        own = self.scenes[scene - 1].seed
        return self.settings.seed if own is None and scene == 1 else own


def _resolution(name: str | None) -> Resolution | None:
    """A resolution as the file has it.

    Raises:
        UsageError: no resolution has that name.
    """
    from istar.cli.option_types import Resolution

    names = [one.value for one in Resolution]
    if name is not None and name not in names:
        raise UsageError(f"res is {', '.join(names)}, not {name!r}")
    return None if name is None else Resolution(name)


def problems_of(path: Path) -> tuple[str, ...]:
    """Everything in a story's file that is not allowed, in order.

    Raises:
        UsageError: it cannot be read.
    """
    return tuple(_Reader(path).problems)


class _Reader:
    """Reads a file past its problems.

    Attributes:
        problems: a line each.
        settings: those above the scenes, where they are allowed.
        scenes: those that are allowed.
    """

    def __init__(self, path: Path) -> None:
        self.problems: list[str] = []
        self.settings: StorySettings | None = None
        self.scenes: list[Scene] = []
        self._path = path
        self._text = read_text(path)
        try:
            table = parse_toml(self._text)
        except ValueError as error:
            self._add(None, f"it is not TOML: {_place_first(str(error))}")
            return
        scenes = table.pop(_SCENES, [])
        self.settings = self._read(StorySettings, table, None, {})
        if not (isinstance(scenes, list) and scenes and all(isinstance(s, dict) for s in scenes)):
            self._add(None, f"there is no scene: each begins with a line [[{_SCENES}]]")
            return
        lines = [
            number
            for number, line in enumerate(self._text.splitlines(), 1)
            if _SCENE_LINE.match(line)
        ]
        for number, scene in enumerate(scenes):
            line = f"line {lines[number]}, " if len(lines) == len(scenes) else ""
            where = f"{line}scene {number + 1}"
            read = self._read(Scene, scene, where, {"prompt": "of this scene"})
            self.scenes += [] if read is None else [read]

    def _read(
        self,
        kind: type[_Table],
        table: dict[str, Any],
        where: str | None,
        needed: Mapping[str, Any],
    ) -> _Table | None:
        """What a table says, each setting read by itself, so that no problem hides another.

        Args:
            kind: of what.
            table: as the file has it.
            where: it stands.
            needed: settings that may not be missing, with values that are allowed.
        """
        known: list[str] = [field.name for field in fields(kind)]
        count = len(self.problems)
        for name in table:
            if name not in known:
                hint = similar_name(name, (*known, *([] if needed else [_SCENES])))
                self._add(where, f"there is no setting {name!r:.80}{hint}")
        parts = [{**needed, name: value} for name, value in table.items() if name in known]
        if len(self.problems) == count and not needed.keys() <= table.keys():
            parts.append({})
        for part in parts:
            try:
                decode(kind, part, name="it", base=self._path.parent)
            except UsageError as error:
                self._add(where, str(error))
        if len(self.problems) > count:
            return None
        return decode(kind, table, name="it", base=self._path.parent)

    def _add(self, where: str | None, text: str) -> None:
        self.problems.append(self._named(where, text))

    def _named(self, where: str | None, text: str) -> str:
        return f"'{self._path}': {f'{where}: ' if where else ''}{text}"


def _place_first(text: str) -> str:
    """What the TOML parser says, the line in front."""
    found = _TOML_PLACE.fullmatch(text)
    return f"line {found[2]}, column {found[3]}: {found[1]}" if found else text
