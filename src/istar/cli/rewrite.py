"""`rewrite` and `--rewrite`: a language model's richer words for a prompt."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from istar.cli.console import print_lines, say, warn
from istar.cli.inputs import read_prompt
from istar.cli.option_types import DeviceOption
from istar.cli.remedies import message
from istar.errors import HubError, RewriteError, UsageError
from istar.files import expanded
from istar.plurals import counted

if TYPE_CHECKING:
    from istar.cli.session_lines import Prompt
    from istar.request import GenerationRequest, Mode
    from istar.rewriting import Answering

TOKEN_VARIABLE = "ISTAR_REWRITE_TOKEN"
OPENAI_VARIABLE = "OPENAI_API_KEY"


class RewriteMode(str, Enum):
    """What a prompt can be rewritten for."""

    T2I = "t2i"
    T2V = "t2v"
    I2V = "i2v"
    EXTEND = "extend"
    INTERACT = "interact"


@dataclass(frozen=True, kw_only=True)
class RewriteSettings:
    """Which language model rewrites, and how it is asked.

    Attributes:
        url: of an endpoint; None for a model on this machine.
        model: the model's name at the endpoint, or the local model.
        directory: of instructions that take the place of istar's own.
        timeout: seconds that an endpoint has to answer.
    """

    url: str | None
    model: str | None
    directory: Path | None
    timeout: float

    @classmethod
    def settled(
        cls,
        *,
        url: str | None = None,
        model: str | None = None,
        directory: Path | None = None,
        timeout: float | None = None,
    ) -> RewriteSettings:
        """The settings as typed, and the person's own where none was.

        Raises:
            UsageError: neither an endpoint nor a model is named; as `istar.cli.settings.setting`.
        """
        from istar.cli.settings import setting

        url = url or setting("rewrite.url")
        model = model or setting("rewrite.model")
        if url is None and model is None:
            raise UsageError("no language model is named that rewrites", remedies=("rewriter",))
        if directory is None and (named := setting("rewrite.prompts")):
            directory = Path(named)
        if timeout is None:
            timeout = setting("rewrite.timeout")
        return cls(
            url=url,
            model=model,
            directory=directory and expanded(directory),
            timeout=timeout,
        )

    @contextmanager
    def answering(self, device: str) -> Iterator[Answering]:
        """Inside, the language model answers; a local one is in memory no longer than that.

        Args:
            device: where a local one computes, as typed.

        Raises:
            UsageError: the endpoint's address or the device cannot be that.
            RewriteError: the local model cannot be loaded.
        """
        if self.url is not None:
            from istar.models.chat import ChatEndpoint, is_hub_address

            token = os.environ.get(TOKEN_VARIABLE, "").strip()
            if not token and not is_hub_address(self.url):
                token = os.environ.get(OPENAI_VARIABLE, "").strip()
            endpoint = ChatEndpoint(
                url=self.url, model=self.model, token=token or None, timeout=self.timeout
            )
            yield endpoint.answer
            return
        from istar.language_model import loaded_language_model
        from istar.placement import Placement

        assert self.model is not None
        name = str(expanded(self.model)) if self.model.startswith("~") else self.model
        with loaded_language_model(name, Placement.choose(device).device) as answer:
            yield answer


def rewritten_requests(
    requests: Sequence[GenerationRequest], device: str
) -> list[GenerationRequest]:
    """Requests with richer prompts, and beside each the one that was typed.

    A prompt that several have is rewritten once.

    Args:
        requests: what is made, in one mode, one prompt each; one whose prompt was rewritten before
            is rewritten from what was typed then.
        device: where a local language model computes, as typed.

    Raises:
        UsageError: there is no prompt, or as `richer_prompts`.
    """
    typed = [request.typed_prompts[0] for request in requests]
    wanted = {prompt: requests[0].mode for prompt in typed if prompt.strip()}
    if not wanted:
        raise UsageError("there is no prompt that --rewrite could rewrite")
    richer = richer_prompts(wanted, device)
    return [
        replace(request, prompt=richer[prompt], typed_prompt=prompt)
        if prompt in richer
        else request
        for request, prompt in zip(requests, typed, strict=True)
    ]


def richer_prompts(modes: Mapping[str, Mode], device: str) -> dict[str, str]:
    """Richer prompts by what was typed; where the language model gives none, that is said.

    Args:
        modes: what each prompt is for, by what was typed.
        device: where a local language model computes, as typed.

    Raises:
        UsageError: the settings of the rewriter cannot be used.
    """
    from istar.rewriting import rewritten

    settings = RewriteSettings.settled()
    richer: dict[str, str] = {}
    failures: Counter[str] = Counter()
    say(f"rewriting {counted(len(modes), 'prompt')}")
    try:
        with settings.answering(device) as answering:
            for typed, mode in modes.items():
                try:
                    richer[typed] = rewritten(typed, mode, answering, settings.directory)
                    say(f"rewritten: {richer[typed]}")
                except (RewriteError, HubError) as error:
                    failures[message(error)] += 1
    except (RewriteError, HubError) as error:  # the language model cannot be had
        failures[message(error)] = len(modes)
    for text, count in failures.items():
        some = f"{count} prompts stay as they are"
        warn(f"{text}; {'the prompt stays as it is' if count == 1 else some}")
    return richer


def rewritten_prompts(prompts: Sequence[Prompt], device: str, *, is_new: bool) -> list[Prompt]:
    """The prompts of an interactive video with richer texts; those that are alike stay alike.

    Args:
        prompts: in order.
        device: where a local language model computes, as typed.
        is_new: the video begins with the first, which nothing shows yet.

    Raises:
        UsageError: as `richer_prompts`.
    """
    modes: dict[str, Mode] = {}
    for number, prompt in enumerate(prompts):
        modes.setdefault(prompt.typed_text, "t2v" if is_new and number == 0 else "interact")
    richer = richer_prompts(modes, device) if modes else {}
    return [prompt.rewritten(richer) for prompt in prompts]


def check_rewriting_as_typed() -> None:
    """Refuse to rewrite prompts one after the other with a language model that is loaded for each.

    Raises:
        UsageError: the settings name one, or as `RewriteSettings.settled`.
    """
    if RewriteSettings.settled().url is None:
        raise UsageError(
            "prompts typed one by one are rewritten by an endpoint only (rewrite.url): a model "
            "here would be loaded anew for each; --script FILE has all of them rewritten at once"
        )


def rewriting_as_typed(device: str, *, is_new: bool) -> Callable[[Prompt], Prompt]:
    """Gives the prompts of an interactive video richer texts, one after the other.

    Args:
        device: as typed.
        is_new: as `rewritten_prompts` takes it.
    """
    firsts = chain([is_new], repeat(False))

    def rewriting(prompt: Prompt) -> Prompt:
        return rewritten_prompts([prompt], device, is_new=next(firsts))[0]

    return rewriting


def rewrite(
    prompt: Annotated[
        str, typer.Argument(help="What to show, in a few words; - reads it from stdin.")
    ],
    mode: Annotated[
        RewriteMode,
        typer.Option(
            "--mode",
            help="What it is for. For i2v and extend the answer describes what happens, since the "
            "picture or video shows the rest.",
        ),
    ] = RewriteMode.T2V,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            help="An endpoint that speaks as OpenAI's does.",
            show_default="rewrite.url of the settings",
        ),
    ] = None,
    rewriter: Annotated[
        str | None,
        typer.Option(
            "--rewriter",
            metavar="NAME|DIR|REPO",
            help="The model's name at the endpoint; without an endpoint a language model here, a "
            "directory or a repository in the Hub's cache.",
            show_default="rewrite.model of the settings",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="DIR",
            help="A directory with instructions of your own: t2i.txt, t2v.txt, i2v.txt, "
            "extend.txt.",
            show_default="rewrite.prompts of the settings",
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            help="How long an endpoint may take.",
            show_default="rewrite.timeout of the settings, 60",
        ),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Print a richer prompt, written by a language model.

    --rewrite does the same on the way to a picture or a video.

    Example: istar rewrite "a fox in the snow" --url http://localhost:8080/v1
    """
    from istar.rewriting import rewritten

    typed = read_prompt(prompt)
    assert typed is not None
    settings = RewriteSettings.settled(url=url, model=rewriter, directory=prompts, timeout=timeout)
    with settings.answering(device) as answering:
        text = rewritten(typed, mode.value, answering, settings.directory)
    print_lines([text])
