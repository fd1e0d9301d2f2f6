"""The model of a command: chosen once, asked what it can do, loaded when it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from istar.request import GenerationRequest, Mode

if TYPE_CHECKING:
    from istar.cli.options import CommonOptions
    from istar.inputs import Inputs
    from istar.memory_use import NetworkSizes, Work
    from istar.model_spec import ModelSpec
    from istar.models.find import FoundModel
    from istar.pipeline import InfinityStarPipeline
    from istar.placement import Placement
    from istar.plan import Plan


def find_chosen(
    options: CommonOptions, mode: Mode, seconds: float | None = None
) -> tuple[FoundModel, Placement]:
    """The model that options name, and where it computes.

    Args:
        options: of the command.
        mode: of what is made.
        seconds: the longest of it; None where any length does.

    Raises:
        IstarError: as `istar.models.find.find_model`.
    """
    from istar.cli.display import DownloadDisplay
    from istar.models.find import find_model
    from istar.placement import Placement

    dtype = options.dtype.value if options.dtype else None
    if dtype is None and options.reused:
        dtype = options.reused.dtype_on(Placement.choose(options.device).device.type)
    placement = Placement.choose(options.device, dtype)
    with DownloadDisplay() as display:
        model = find_model(
            options.model,
            mode=mode,
            resolution=options.res.value if options.res else None,
            seconds=seconds,
            dtype=placement.precision,
            on_event=display,
        )
    return model, placement


class ChosenModel:
    """A model that does what some requests of one mode ask.

    Args:
        options: of the command.
        requests: what is made.
        found: the model and where it computes, where that was found before.

    Raises:
        IstarError: as `find_chosen`.
    """

    def __init__(
        self,
        options: CommonOptions,
        requests: Sequence[GenerationRequest],
        found: tuple[FoundModel, Placement] | None = None,
    ) -> None:
        first, lengths = requests[0], [one.seconds for one in requests if one.seconds is not None]
        self._options = options
        found = found or find_chosen(options, first.mode, max(lengths, default=None))
        model, self.placement = found
        if options.reused:
            model = options.reused.model_of_then(model, self.placement, first)
        self._model = model
        self._longest = max(map(model.spec.seconds_for, requests))
        self._guided = next(filter(self._is_guided, requests), first)
        self._read: tuple[tuple[Any, ...], Inputs] | None = None

    @property
    def spec(self) -> ModelSpec:
        """The model."""
        return self._model.spec

    def read(self, request: GenerationRequest) -> Inputs:
        """A request's input; that of the request before is not read again.

        Raises:
            IstarError: as `istar.inputs.read_inputs`.
        """
        from istar.inputs import read_inputs

        wanted = (request.image, request.clip, request.aspect)
        if self._read is None or self._read[0] != wanted:
            self._read = wanted, read_inputs(request, self.spec)
        return self._read[1]

    def size_of(self, request: GenerationRequest) -> tuple[int, int]:
        """Height and width of a request's pictures; errors are those of `read`."""
        from istar.inputs import picture_size

        return picture_size(self.read(request).template, self.spec)

    def plan(self, request: GenerationRequest, inputs: Inputs) -> Plan:
        """A request's plan.

        Raises:
            CheckpointError: the model cannot do it.
            StateError: another model made the take that is continued.
        """
        from istar.plan import plan_request
        from istar.resume import check_maker

        if inputs.take is not None:
            check_maker(inputs.take, self.spec)
        given = inputs.given_pictures
        return plan_request(request, self.spec, inputs.template, given_pictures=given)

    def sizes(self) -> NetworkSizes | None:
        """The sizes of its networks, as `NetworkSizes.of_found` gives them."""
        from istar.memory_use import NetworkSizes

        return NetworkSizes.of_found(self._model, self.placement)

    def work(self, inputs: Inputs) -> Work:
        """What is computed for a request as long as the longest, and guided if any is."""
        from istar.memory_use import Work

        largest = self._guided
        if self._longest > self.spec.seconds_for(largest):
            largest = replace(largest, seconds=self._longest)
        pictures = inputs.given_pictures if inputs.image is None else 1
        return Work.of_request(largest, self.spec, inputs.template, pictures=pictures)

    def _is_guided(self, request: GenerationRequest) -> bool:
        is_led = bool(request.prompts[0].strip() or request.negative_prompt)
        return is_led and self.spec.sampling.for_request(request).guidance.scale != 1

    def load(
        self, request: GenerationRequest, inputs: Inputs, *, target: Path | None = None
    ) -> InfinityStarPipeline:
        """The model, loaded; its memory plan is for `work`.

        Args:
            request: what is made first.
            inputs: its input.
            target: its file, as `--dry-run` names it.

        Raises:
            Exit: with `--dry-run`, once the plan is printed.
            IstarError: as `InfinityStarPipeline.load`, or it does not fit and nobody agreed.
        """
        from istar.cli.display import DownloadDisplay
        from istar.cli.dry_run import print_plan
        from istar.cli.memory_check import check_memory, say_plan
        from istar.pipeline import InfinityStarPipeline

        options, work = self._options, self.work(inputs)
        if options.dry_run:
            print_plan(
                self.plan(request, inputs),
                request,
                self._model,
                self.placement,
                work,
                options.memory.value,
                target,
            )
            raise typer.Exit
        anyway = check_memory(
            self._model, self.placement, work, options.memory.value, yes=options.yes
        )
        with DownloadDisplay() as display:
            return InfinityStarPipeline.load(
                self._model,
                self.placement,
                work,
                memory=options.memory.value,
                anyway=anyway,
                on_plan=say_plan,
                on_event=display,
            )
