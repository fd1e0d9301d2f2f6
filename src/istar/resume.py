"""From a job to a take, and from a take to a job that continues it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from istar.errors import IstarError, StateError
from istar.generation.state import JobState
from istar.inputs import Inputs, picture_size, pixels_hash
from istar.media import read_clip
from istar.model_spec import ModelSpec
from istar.networks import Networks
from istar.plan import Plan, plan_request
from istar.request import GenerationRequest
from istar.take import Take
from istar.take_file import ClipFile, ModelIdentity
from istar.video_tokenizer.config import FRAMES_PER_SECOND


class Resumed(NamedTuple):
    """What a job that continues a take begins with."""

    request: GenerationRequest
    inputs: Inputs
    plan: Plan
    state: JobState


def identity(networks: Networks) -> ModelIdentity:
    """The weights and settings of loaded networks."""
    spec, place = networks.spec, networks.place
    return ModelIdentity(
        name=spec.name,
        fingerprint=networks.fingerprint,
        settings=spec.settings_hash,
        dtype=networks.precision,
        device=networks.device.type,
        repository=place.repository if place else None,
        revision=place.revision if place else None,
        folder=place.folder if place else None,
    )


def take_of(
    networks: Networks, request: GenerationRequest, inputs: Inputs, plan: Plan, state: JobState
) -> Take:
    """A job's tokens: those it has taken, and those it knows and has not come to.

    Of a file's clip no more is held than windows read.
    """
    clip, clip_file = inputs.clip, inputs.clip_file
    if clip is not None and isinstance(request.clip, Path):
        # What continues the take may run in another directory.
        request = replace(request, clip=request.clip.absolute())
        clip_file = clip_file or ClipFile(pictures=len(clip), sha256=inputs.clip_hash)
        clip = clip[-(networks.spec.clip_seconds * FRAMES_PER_SECOND + 1) :]
    windows = state.windows if state.current is None else (*state.windows, state.current)
    windows += state.known[len(windows) :]
    return Take(
        request=request,
        template=plan.template.name,
        model=identity(networks),
        semantic_bits=networks.config.semantic_bits,
        detail_bits=networks.config.latent_channels,
        windows=windows,
        total=len(plan.windows),
        generator=state.generation.generator if state.generation else state.generator,
        image=inputs.image,
        clip=clip,
        clip_file=clip_file,
        before=inputs.take,
        images=inputs.images,
    )


def check_maker(take: Take, spec: ModelSpec) -> None:
    """Refuse a published model whose name already says that it did not make a take.

    Whether its weights are those is known only when they are loaded, see `resumed`: of a model that
    was not published the same weights may have another name, and in another commit, too.

    Raises:
        StateError: another model made it.
    """
    if spec.source is not None and take.model.name != spec.name:
        raise StateError(
            f"the take was made by the {take.model.name} model, and {spec.name} is another",
            remedies=("other_model",),
        )


def resumed(take: Take, networks: Networks, *, continues: bool = True) -> Resumed:
    """What continues a take with the model that made it.

    Args:
        take: begun or not.
        networks: the loaded model.
        continues: steps will be drawn; a note says where they may be others than in one run.

    Raises:
        StateError: another model or schedule made it, or what it holds does not fit together.
    """
    made_by, ours = take.model, identity(networks)
    if made_by.fingerprint != ours.fingerprint:
        raise StateError(
            f"the take was made by the {made_by.name} model, and these are other weights",
            remedies=("other_model",),
        )
    if made_by.settings != ours.settings:
        raise StateError(
            f"the take was made with other settings of the {made_by.name} model than it has now",
            remedies=("other_model",),
        )
    try:
        inputs = _inputs(take, networks, continues=continues)
        given = take.given_pictures
        plan = plan_request(take.request, networks.spec, inputs.template, given_pictures=given)
    except StateError:
        raise
    except IstarError as error:
        raise StateError(f"the take is damaged: {error}") from error
    _check_plan(take, plan, networks)
    state = JobState(generator=take.generator, known=take.windows)
    return Resumed(take.request, inputs, plan, state)


def _check_plan(take: Take, plan: Plan, networks: Networks) -> None:
    """Refuse windows that are not those of the plan.

    Raises:
        StateError: they are others.
    """
    own = tuple(window.schedule for window in take.windows)
    if own != plan.schedules[: len(own)] or take.total != len(plan.windows):
        raise StateError(
            f"the take has another schedule than the {networks.spec.name} model now",
            remedies=("other_model",),
        )
    config = networks.config
    if (take.semantic_bits, take.detail_bits) != (config.semantic_bits, config.latent_channels):
        raise StateError("the take's tokens have other bits than the model's")


def _inputs(take: Take, networks: Networks, *, continues: bool) -> Inputs:
    """The input of a take: its clip from the file, where that is as it was, else as it is held.

    Raises:
        StateError: it does not fit.
    """
    inputs = Inputs.of_take(take)
    size = picture_size(inputs.template, networks.spec)
    shots = (("image", picture) for picture in take.images.values())
    for name, pictures in (("image", take.image), ("clip", take.clip), *shots):
        if pictures is not None and tuple(pictures.shape[1:3]) != size:
            raise StateError(f"the take's {name} has the wrong size")
    notes = []
    if continues and take.model.dtype != networks.precision:
        notes.append(
            f"the take was made in {take.model.dtype} and continues in {networks.precision}: it "
            "may end in other pictures than in one run"
        )
    clip, file = take.clip, take.clip_file
    if clip is not None and file is not None and len(clip) < file.pictures:
        whole = _clip_again(take)
        if whole is None:
            notes.append(
                f"'{take.request.clip}' is not there as it was: the video begins with its last "
                f"{len(clip) / FRAMES_PER_SECOND:.3g} s"
            )
        else:
            inputs = replace(inputs, clip=whole)
    return replace(inputs, notes=tuple(notes))


def clip_is_as_it_was(take: Take) -> bool:
    """Whether a take continues the clip of a file, and that file is there with the same pictures.

    Args:
        take: of any model.
    """
    return _clip_again(take) is not None


def _clip_again(take: Take) -> Tensor | None:
    """The whole clip `(F, H, W, 3)` that a take continues; None where its file is another now."""
    clip, file, path = take.clip, take.clip_file, take.request.clip
    if clip is None or file is None or not isinstance(path, Path):
        return None
    if path.is_fifo() or path.is_char_device():  # stdin, which would be waited for
        return None
    try:
        again = read_clip(path, size=(clip.shape[1], clip.shape[2])).frames
    except IstarError:
        return None
    return again if pixels_hash(again) == file.sha256 else None
