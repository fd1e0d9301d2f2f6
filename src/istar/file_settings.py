"""What a picture or video says of how it was made: written into it, and read out of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from istar import __version__
from istar.clip_format import ClipEncoding
from istar.errors import CheckpointError, MediaError
from istar.files import LONGEST_NAME, write_text
from istar.generation.guidance import GuidanceConfig
from istar.generation.sampling import SamplingConfig, Temperature
from istar.model_spec import ModelSpec, Precision
from istar.models.repository import HubPlace
from istar.request import GenerationRequest, Mode
from istar.tables import decode, encode
from istar.text_files import read_text


@dataclass(frozen=True, kw_only=True)
class UsedSampling:
    """Guidance and temperatures that made something.

    Attributes:
        guidance: how branches were combined.
        tau: temperatures of image and of video clips.
    """

    guidance: GuidanceConfig
    tau: tuple[Temperature, Temperature]

    @classmethod
    def of(cls, own: SamplingConfig, request: GenerationRequest) -> UsedSampling:
        """A model's own settings, except where a request says otherwise."""
        used = own.for_request(request)
        return cls(guidance=used.guidance, tau=(used.tau_image, used.tau_video))

    @property
    def config(self) -> SamplingConfig:
        """The same as a model has them."""
        image, video = self.tau
        return SamplingConfig(guidance=self.guidance, tau_image=image, tau_video=video)


@dataclass(frozen=True, kw_only=True)
class AskedSampling:
    """What the request itself said of guidance and temperatures; None left it to the model."""

    guidance_scale: float | None = None
    tau_image: float | None = None
    tau_video: float | None = None

    @classmethod
    def of(cls, request: GenerationRequest) -> AskedSampling:
        """What a request says."""
        return cls(
            guidance_scale=request.guidance_scale,
            tau_image=request.tau_image,
            tau_video=request.tau_video,
        )


@dataclass(frozen=True, kw_only=True)
class FileSettings:
    """Everything that made a picture or a video but the picture or clip that it began with.

    Guidance and temperatures, and the version, are missing where a take is all that is known.

    Attributes:
        version: of istar.
        model: its name.
        repository: where on the Hub its files are from; None where that is not known.
        revision: the commit there, of its transformer.
        folder: its directory there; None at the top.
        device: the kind of device where the transformer computed.
        dtype: in what.
        mode: of the request, as are those that follow.
        prompt: in `interact` one for every full clip.
        seconds: the length that was used; 0 for a picture.
        aspect: None left it to the input or the model.
        seed: of all draws.
        negative_prompt: what it steered away from.
        guidance, tau: those that were used, the model's own where the request did not say.
        start: those of the start of an interactive video that begins without a clip.
        suffix: the model's own suffix was added to the prompt.
        asked: what the request itself said of guidance and temperatures.
        fps: pictures a second when the clip is played, where that is not as many as were made.
        crf: the rate factor that the clip's encoder was asked for; None for the format's own.
        preset: likewise how long the encoder looked.
        deadline: so many seconds it had; it may end early, or as a draft.
        unfinished: it is decoded from a take under way.
        varied: some tokens are another take's, which the rest of this does not give.
        seeds: in `interact` that of every prompt, where one is not `seed`.
        cuts: in `interact` the prompts, counted from 1, that began with a picture.
        typed_prompt: what a person typed, where the prompt was rewritten from it; in `interact`
            for every prompt.
    """

    version: str | None = None
    model: str
    repository: str | None = None
    revision: str | None = None
    folder: str | None = None
    device: str
    dtype: Precision
    mode: Mode
    prompt: str | tuple[str, ...]
    seconds: float
    aspect: float | None = None
    seed: int
    negative_prompt: str
    guidance: GuidanceConfig | None = None
    tau: tuple[Temperature, Temperature] | None = None
    start: UsedSampling | None = None
    suffix: bool
    asked: AskedSampling = field(default_factory=AskedSampling)
    fps: float | None = None
    crf: int | None = None
    preset: str | None = None
    deadline: float | None = None
    unfinished: bool = False
    varied: bool = False
    seeds: tuple[int, ...] | None = None
    cuts: tuple[int, ...] | None = None
    typed_prompt: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.typed_prompts) != len(self.prompts):
            raise MediaError("there is one typed prompt for each prompt")

    @classmethod
    def of(
        cls,
        request: GenerationRequest,
        spec: ModelSpec,
        *,
        place: HubPlace | None = None,
        device: str,
        dtype: Precision,
        encoding: ClipEncoding | None = None,
    ) -> FileSettings:
        """The settings of what a model makes from a request.

        Args:
            request: what is made.
            spec: the model.
            place: where on the Hub its files are from.
            device: the kind of device where the transformer computes.
            dtype: in what.
            encoding: what was asked for of the clip's encoder.
        """
        own, start = spec.sampling, None
        if request.mode == "interact" and spec.interact:
            own = spec.interact.sampling
            if request.clip is None:
                start = UsedSampling.of(spec.sampling, request)
        used = UsedSampling.of(own, request)
        encoding = encoding or ClipEncoding()
        return cls(
            version=__version__,
            model=spec.name,
            repository=place.repository if place else None,
            revision=place.revision if place else None,
            folder=place.folder if place else None,
            device=device,
            dtype=dtype,
            mode=request.mode,
            prompt=request.prompt,
            seconds=float(spec.seconds_for(request)),
            aspect=request.aspect,
            seed=request.seed,
            negative_prompt=request.negative_prompt,
            guidance=used.guidance,
            tau=used.tau,
            start=start,
            suffix=request.suffix,
            cuts=cuts_of(request),
            asked=AskedSampling.of(request),
            fps=encoding.fps,
            crf=encoding.crf,
            preset=encoding.preset and encoding.preset.value,
            typed_prompt=request.typed_prompt,
        )

    @classmethod
    def read(cls, texts: Mapping[str, str], name: str) -> FileSettings | None:
        """The settings in a file's texts; None if istar did not write them.

        Fields that this version does not know are left out.

        Args:
            texts: the file's, by name.
            name: what messages call the file.

        Raises:
            MediaError: they are damaged.
        """
        try:
            table = json.loads(texts.get("comment", "null"))
        except (ValueError, RecursionError):
            return None
        if not isinstance(table, dict) or "istar" not in table:
            return None
        own = table["istar"]
        if isinstance(own, dict):
            known = {one.name for one in fields(cls)}
            own = {key: value for key, value in own.items() if key in known}
        try:
            return decode(cls, own, error=MediaError)
        except (MediaError, CheckpointError) as error:
            raise MediaError(f"the settings in {name} are damaged: {error}") from error

    @property
    def place(self) -> HubPlace | None:
        """Where on the Hub the model's files are from, where that is known."""
        if self.repository is None or self.revision is None:
            return None
        return HubPlace(repository=self.repository, revision=self.revision, folder=self.folder)

    @property
    def sampling(self) -> UsedSampling | None:
        """The guidance and temperatures that were used, where they are known."""
        if self.guidance is None or self.tau is None:
            return None
        return UsedSampling(guidance=self.guidance, tau=self.tau)

    @property
    def prompts(self) -> tuple[str, ...]:
        """All prompts: one, or in `interact` one for every full clip."""
        return (self.prompt,) if isinstance(self.prompt, str) else self.prompt

    @property
    def typed_prompts(self) -> tuple[str, ...]:
        """All prompts as they were typed, before any was rewritten."""
        typed = self.typed_prompt
        return self.prompts if typed is None else (typed,) if isinstance(typed, str) else typed

    def texts(self) -> dict[str, str]:
        """A file's texts: the prompts as its title, everything as JSON in its comment."""
        comment = json.dumps({"istar": self.as_json()})
        return {"title": " / ".join(self.prompts), "comment": comment}

    def as_json(self) -> dict[str, Any]:
        """The settings as JSON values, without those that are None."""
        return encode(self)

    def put_into(self, spec: ModelSpec) -> ModelSpec:
        """The model with the guidance and temperatures of then as its own.

        Its own may have changed since; another model keeps its own.

        Raises:
            MediaError: they do not fit the model.
        """
        if spec.name != self.model or self.sampling is None:
            return spec
        try:
            used = self.sampling.config
            if self.mode != "interact" or spec.interact is None:
                then = replace(spec, sampling=used)
            else:
                start = spec.sampling if self.start is None else self.start.config
                interact = replace(spec.interact, sampling=used)
                then = replace(spec, sampling=start, interact=interact)
        except CheckpointError as error:
            raise MediaError(f"the file's settings do not fit the model: {error}") from error
        return spec if then == spec else then


def sidecar_of(target: Path) -> Path:
    """The file beside a picture or a video, or a directory of pictures, that holds its settings.

    Raises:
        MediaError: the name has no room for its suffix.
    """
    path = target.with_name(f"{target.name}.json")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise MediaError(f"the name of '{target}' is too long for a file of settings beside it")
    return path


def write_sidecar(target: Path, texts: Mapping[str, str]) -> None:
    """Write the settings of a file beside it, in the place of those that are there.

    Args:
        target: the file.
        texts: as `FileSettings.texts` gives them.

    Raises:
        MediaError: they cannot be written.
    """
    table = json.loads(texts["comment"])
    text = json.dumps(table, indent=2, ensure_ascii=False) + "\n"
    write_text(sidecar_of(target), text, overwrite=True)


def read_beside(path: Path) -> FileSettings | None:
    """The settings beside a file, or beside the directory of pictures that it lies in, if any are.

    Raises:
        MediaError: they are damaged.
    """
    for named in (path.absolute(), path.absolute().parent):
        beside = named.with_name(f"{named.name}.json") if named.name else None
        if beside is not None and beside.is_file():
            texts = {"comment": read_text(beside, error=MediaError)}
            if found := FileSettings.read(texts, f"'{beside}'"):
                return found
    return None


def cuts_of(request: GenerationRequest) -> tuple[int, ...] | None:
    """The prompts of a request, counted from 1, that begin with a picture; None without any."""
    return tuple(n for n, image in enumerate(request.images, 1) if image is not None) or None
