"""A request's length as windows: the passes that the network makes, one after another.

A window is one schedule with a context of its own. The first makes a video from nothing or from a
picture; every later one takes the last seconds of what is there as its first clips, their bits
given, and adds one clip. In the interactive mode every prompt is a window: one full clip that
looks at the frames before it through condition blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from istar.errors import CheckpointError, Remedy
from istar.generation.sampling import SamplingConfig
from istar.generation.schedule import (
    LATENT_FRAMES_PER_SECOND,
    Schedule,
    Step,
    Template,
    clip_lengths,
    clip_plans,
)
from istar.model_spec import InteractConfig, ModelSpec
from istar.request import GenerationRequest, Mode
from istar.video_tokenizer.config import FRAMES_PER_SECOND


@dataclass(frozen=True, kw_only=True)
class Window:
    """One pass.

    Attributes:
        given_seconds: whole seconds of video that its first clips show again; 0 starts a video.
        new_seconds: seconds that it adds.
        interactive: it continues the frames before it through condition blocks, and shows nothing
            again.
    """

    given_seconds: int
    new_seconds: float
    interactive: bool = False

    @property
    def seconds(self) -> float:
        """Length of the whole window."""
        return self.given_seconds + self.new_seconds

    @property
    def given_pictures(self) -> int:
        """Pictures that its given clips are made of."""
        return FRAMES_PER_SECOND * self.given_seconds + 1 if self.given_seconds else 0

    def clip_lengths(self, spec: ModelSpec) -> tuple[int, ...]:
        """Latent frames of each clip, the given ones first, as a model cuts video."""
        new = int(self.new_seconds * LATENT_FRAMES_PER_SECOND)
        if self.interactive:
            return (new,)
        if not self.given_seconds:
            return clip_lengths(1 + new, spec.clip_frames, spec.pyramid)
        return (1, self.given_seconds * LATENT_FRAMES_PER_SECOND, new)

    def schedule(self, spec: ModelSpec, template: Template) -> Schedule:
        """The window's schedule for one model."""
        return Schedule(
            clips=clip_plans(
                self.clip_lengths(spec),
                image_repeats=spec.image_repeats,
                video_repeats=interact_of(spec).repeats if self.interactive else spec.video_repeats,
            ),
            scales=spec.pixel_budget.scales(template),
            semantic_scales=spec.semantic_scales,
            context=spec.context,
        )

    def steps(self, spec: ModelSpec, template: Template) -> tuple[Step, ...]:
        """The steps of the window's schedule."""
        return self.schedule(spec, template).steps


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a request becomes for one model.

    Attributes:
        spec: the model.
        template: the ratio of the output.
        windows: the passes, in order.
        prompts: of each window.
        taken: how many steps of the last window are taken; None for all.

    Example:
        >>> plan = plan_request(request, spec, template)
        >>> [len(plan.steps(number)) for number in range(len(plan.windows))]
    """

    spec: ModelSpec
    template: Template
    windows: tuple[Window, ...]
    prompts: tuple[str, ...]
    taken: int | None = None

    @cached_property
    def schedules(self) -> tuple[Schedule, ...]:
        """The schedule of every window."""
        return tuple(window.schedule(self.spec, self.template) for window in self.windows)

    def steps(self, window: int) -> tuple[Step, ...]:
        """The steps of one window."""
        steps = self.schedules[window].steps
        return steps[: self.taken] if window == len(self.windows) - 1 else steps

    def until(self, window: int, step: int) -> Plan:
        """The plan without a step and everything after it.

        Args:
            window: the step's.
            step: its index there.
        """
        end = window + (step > 0)
        return replace(
            self, windows=self.windows[:end], prompts=self.prompts[:end], taken=step or None
        )

    def sampling(self, window: int, request: GenerationRequest) -> SamplingConfig:
        """Guidance and temperatures of one window.

        Without a prompt nothing guides: both branches would read the same.
        """
        own = self.spec.sampling
        if self.windows[window].interactive:
            own = interact_of(self.spec).sampling
        sampling = own.for_request(request)
        if self.prompts[window].strip() or request.negative_prompt:
            return sampling
        return replace(sampling, guidance=replace(sampling.guidance, scale=1.0))

    def warnings(self, request: GenerationRequest) -> Iterator[tuple[str, tuple[Remedy, ...]]]:
        """What of the request has no effect, or may not come out well: sentences, and remedies."""
        yield from self._training_warnings(request.mode)
        scale = request.guidance_scale
        if scale is None or scale == 1 or not self.windows:
            return
        if self.sampling(0, request).guidance.scale == 1:
            yield (
                "without a prompt or a negative prompt nothing guides: a guidance scale of "
                f"{scale:g} has no effect",
                (),
            )

    def _training_warnings(self, mode: Mode) -> Iterator[tuple[str, tuple[Remedy, ...]]]:
        spec = self.spec
        continued = [window.given_seconds for window in self.windows if window.given_seconds]
        if mode not in ("extend", "interact") and mode not in spec.modes:
            trained = ", ".join(spec.modes)
            text = f"the {spec.name} model was not trained for {mode}, but for {trained}"
            yield text, ("any_model",)
        if continued and not spec.extends:
            yield f"the {spec.name} model was not trained to continue given video", ()
        if continued and min(continued) < spec.clip_seconds:
            yield (
                f"the clip gives {min(continued)} s to continue, and the model learned to continue "
                f"{spec.clip_seconds} s: the result may suffer",
                (),
            )

    def prompt_text(self, window: int, request: GenerationRequest) -> str:
        """The text of a window's prompt as the model reads it, with prefix and suffix."""
        return self.spec.prompt.apply(
            self.prompts[window],
            request.mode,
            self.windows[window].seconds,
            suffix=request.suffix,
        )

    def with_prompt(self, prompt: str, *, anew: bool = False) -> Plan:
        """The plan with one more window of the interactive mode.

        Args:
            prompt: the window's.
            anew: it starts a video, and looks at nothing before it.
        """
        clip = self.spec.clip_seconds
        window = Window(given_seconds=0, new_seconds=clip, interactive=not anew)
        return replace(self, windows=(*self.windows, window), prompts=(*self.prompts, prompt))


def plan_request(
    request: GenerationRequest, spec: ModelSpec, template: Template, *, given_pictures: int = 0
) -> Plan:
    """The windows and prompts of a request.

    Args:
        request: what to make.
        spec: the model that makes it.
        template: the ratio.
        given_pictures: length of the clip that is continued; 0 without one.

    Raises:
        CheckpointError: the model cannot interact.
    """
    if request.mode != "interact":
        seconds = spec.seconds_for(request)
        if given_pictures:
            windows = windows_after(given_pictures / FRAMES_PER_SECOND, seconds, spec)
        else:
            windows = windows_from_start(seconds, spec)
        prompts = (request.prompts[0],) * len(windows)
        return Plan(spec=spec, template=template, windows=windows, prompts=prompts)
    interact_of(spec)  # refuses a model that cannot
    plan = Plan(spec=spec, template=template, windows=(), prompts=())
    for number, prompt in enumerate(request.prompts):
        starts = number == 0 and not given_pictures
        plan = plan.with_prompt(prompt, anew=starts or request.image_of(number) is not None)
    return plan


def windows_from_start(seconds: float, spec: ModelSpec) -> tuple[Window, ...]:
    """The windows of a new video; 0 seconds are a picture."""
    first = min(seconds, spec.max_seconds)
    rest = windows_after(first, seconds - first, spec)
    return (Window(given_seconds=0, new_seconds=first), *rest)


def windows_after(shown: float, seconds: float, spec: ModelSpec) -> tuple[Window, ...]:
    """The windows that add `seconds` to a video of `shown` seconds.

    Sixteen pictures count as one second, although the network's first second is seventeen: where
    only that one is missing, the first picture is shown to the network twice.
    """
    windows = []
    while seconds > 0:
        new = min(seconds, spec.clip_seconds)
        given = min(int(shown), spec.clip_seconds)
        windows.append(Window(given_seconds=given, new_seconds=new))
        shown += new
        seconds -= new
    return tuple(windows)


def interact_of(spec: ModelSpec) -> InteractConfig:
    """How a model runs prompt by prompt.

    Raises:
        CheckpointError: it cannot.
    """
    if spec.interact is None:
        raise CheckpointError(f"the {spec.name} model cannot interact")
    return spec.interact
