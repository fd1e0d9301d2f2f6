"""`--from`: the settings of a file that istar wrote, in place of options that were not typed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from istar.cli.console import warn
from istar.cli.inputs import is_take, take_input
from istar.clip_format import is_numbered
from istar.errors import MediaError, UsageError

if TYPE_CHECKING:
    from istar.file_settings import FileSettings
    from istar.media.file_info import FileInfo
    from istar.models.find import FoundModel
    from istar.placement import Placement
    from istar.request import GenerationRequest, Mode
    from istar.take import Take


@dataclass(frozen=True, kw_only=True)
class Reused:
    """What a file says of how it was made, for something new.

    Attributes:
        name: of the file.
        settings: what it says.
        model_settings: a hash of the model's own settings then, of a take.
    """

    name: str
    settings: FileSettings
    model_settings: str | None = None

    @classmethod
    def read(cls, path: Path) -> Reused:
        """The settings that a file holds.

        Raises:
            UsageError: the file is not there.
            MediaError: it cannot be read, istar did not write it, or its settings are not whole.
            StateError: it is a take that cannot be read.
        """
        path = take_input(path)
        if is_take(path):
            from istar.take import Take

            take = Take.load(path)
            return cls(
                name=f"'{path}'",
                settings=settings_of_take(take),
                model_settings=take.model.settings,
            )
        from istar.media import probe_file

        info, name = probe_file(path), f"'{path}'"
        settings = whole_settings(path, info)
        if settings is None and info.is_cut:
            raise MediaError(
                f"{name} holds its settings in part only: a JPEG had no room for texts that long"
            )
        if settings is None:
            raise MediaError(f"{name} holds no settings: istar did not write it")
        return cls(name=name, settings=settings)

    def as_typed(self) -> dict[str, Any]:
        """The common options but the model, by name, that one would type for the same."""
        then = self.settings
        options: dict[str, Any] = {
            "seed": then.seed,
            "guidance": then.asked.guidance_scale,
            "negative": then.negative_prompt,
            "no_suffix": not then.suffix,
        }
        if then.aspect is not None:
            options["aspect"] = f"1:{then.aspect!r}"
        taus = (then.asked.tau_image, then.asked.tau_video)
        if any(tau is not None for tau in taus):
            options["tau"] = ",".join("" if tau is None else repr(tau) for tau in taus)
        return options

    def prompts(self, mode: Mode) -> tuple[str, ...]:
        """The file's prompts, for a mode.

        Raises:
            UsageError: there are several, and the mode takes one.
        """
        prompts = self.settings.prompts
        if mode != "interact" and len(prompts) != 1:
            raise UsageError(
                f"{self.name} was made from {len(prompts)} prompts, and {mode} takes one: type it"
            )
        return prompts

    def seconds(self, mode: Mode) -> float | None:
        """The file's length, for a mode."""
        return None if mode in ("t2i", "interact") else self.settings.seconds or None

    def fps_for(self, output: str | None) -> float | None:
        """How fast a clip plays, where a file of that name has a speed.

        Args:
            output: as typed.
        """
        return None if output and is_numbered(Path(output)) else self.settings.fps

    def say_end(self) -> None:
        """Say that something new goes to its end, where the file may not have."""
        if self.settings.unfinished:
            warn(f"{self.name} is of a run that was not finished; this one goes to its end")
        elif (seconds := self.settings.deadline) is not None:
            warn(f"{self.name} had a deadline of {seconds:g} s; this run has none")

    def dtype_on(self, kind: str) -> str | None:
        """What the file was computed in, if that was on the same kind of device."""
        return self.settings.dtype if kind == self.settings.device else None

    def model_of_then(
        self, model: FoundModel, placement: Placement, request: GenerationRequest
    ) -> FoundModel:
        """The model with the sampling of then, once it is said what cannot be as it was.

        Args:
            model: that is used now.
            placement: where it computes, and in which numbers.
            request: what is made; with another seed it is not expected to be the same.

        Raises:
            MediaError: the sampling does not fit the model.
        """
        then, kind = self.settings, placement.device.type
        changes = []
        if then.model != model.spec.name:
            changes.append(f"by the {then.model} model, not by {model.spec.name}")
        elif self.model_settings not in (None, model.spec.settings_hash):
            changes.append(f"with other settings of the {then.model} model than it has now")
        if (then.dtype, then.device) != (placement.precision, kind):
            changes.append(
                f"in {then.dtype} on {then.device}, not in {placement.precision} on {kind}"
            )
        if then.varied:
            changes.append("as a variation of a take")
        if then.seeds is not None:
            changes.append("with other seeds for later prompts")
        if then.cuts is not None:
            changes.append("from pictures that it does not hold")
        if changes and request.seed == then.seed:
            warn(
                f"{self.name} was made {', and '.join(changes)}: the same seed gives other pictures"
            )
        return replace(model, spec=then.put_into(model.spec))


def whole_settings(path: Path, info: FileInfo) -> FileSettings | None:
    """The settings in a picture or a video, or beside it where it has none or not all of them.

    Args:
        path: the file.
        info: what it holds.

    Raises:
        MediaError: they are damaged.
    """
    from istar.file_settings import FileSettings, read_beside

    own = None if info.is_cut else FileSettings.read(info.texts, f"'{path}'")
    return own or read_beside(path)


def settings_of_take(take: Take) -> FileSettings:
    """What a take says of how it was made."""
    from istar.file_settings import AskedSampling, FileSettings, cuts_of

    request, made_by = take.request, take.model
    return FileSettings(
        model=made_by.name,
        repository=made_by.repository,
        revision=made_by.revision,
        folder=made_by.folder,
        device=made_by.device,
        dtype=made_by.dtype,
        mode=request.mode,
        prompt=request.prompt,
        seconds=request.seconds or 0,
        aspect=request.aspect,
        seed=request.seed,
        negative_prompt=request.negative_prompt,
        suffix=request.suffix,
        cuts=cuts_of(request),
        asked=AskedSampling.of(request),
        unfinished=not take.finished,
        varied=take.is_varied,
        seeds=take.seeds,
        typed_prompt=request.typed_prompt,
    )
