"""Everything about this machine in one report, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from istar.doctor.hub import Cache, Hub, Token, ask_hub, read_cache, read_token
from istar.doctor.machine import Cuda, Gpus, Host, read_cuda, read_gpus, read_host
from istar.doctor.needs import ModelNeeds, bundled_needs, fit, needs_of
from istar.doctor.software import Codecs, Software, read_codecs, read_software
from istar.models.bundled import bundled_model, bundled_parameters
from istar.models.released import RELEASED_MODELS

_AGAIN = "then `istar doctor` again"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is wrong.

    Attributes:
        text: what, in a sentence.
        advice: what to type or do next.
        prevents_generating: istar makes nothing until that is done.
    """

    text: str
    advice: str
    prevents_generating: bool


@dataclass(frozen=True, kw_only=True)
class Report:
    """What there is and what is wrong.

    Attributes:
        software: versions.
        codecs: for videos.
        gpus: as nvidia-smi tells them.
        cuda: as torch tells it; None if torch was not asked.
        host: processor and memory.
        cache: where models are kept.
        hub: whether models can be fetched.
        token: whether there is one.
        models: what each released model needs, and at the end the bundled one.
        problems: what is wrong, what prevents generating first.
    """

    software: Software
    codecs: Codecs
    gpus: Gpus
    cuda: Cuda | None
    host: Host
    cache: Cache
    hub: Hub
    token: Token
    models: tuple[ModelNeeds, ...]
    problems: tuple[Problem, ...]

    @property
    def can_generate(self) -> bool:
        """Nothing that was found prevents it; it may be slow."""
        return not any(problem.prevents_generating for problem in self.problems)


def examine(
    *,
    gpu_details: bool = False,
    offline: bool = False,
    bytes_to_fetch: Mapping[str, int] | None = None,
) -> Report:
    """Look at everything that decides whether istar runs here; nothing is changed.

    Args:
        gpu_details: import torch and ask it about its devices.
        offline: do not ask the Hub.
        bytes_to_fetch: what of each model is not here, by its name; as if nothing were, for a
            model that is not named.
    """
    software, codecs, gpus, host = read_software(), read_codecs(), read_gpus(), read_host()
    cuda = read_cuda() if gpu_details and software.torch else None
    sources = [spec.source for spec in RELEASED_MODELS if spec.source]
    cache = read_cache(source.repo for source in sources)
    known = bytes_to_fetch or {}
    free = usable_gpu_memory(software, gpus, cuda)
    models = tuple(
        needs_of(
            spec,
            known.get(spec.name, spec.source.expected_bytes if spec.source else 0),
            gpu_free=free,
            host_free=host.available_bytes,
            disk_free=cache.free_bytes,
        )
        for spec in RELEASED_MODELS
    )
    own = bundled_model()
    return diagnosed(
        software=software,
        codecs=codecs,
        gpus=gpus,
        cuda=cuda,
        host=host,
        cache=cache,
        hub=ask_hub(sources[0].repo, sources[0].revision, ask=not offline),
        token=read_token(),
        models=models,
        bundled=bundled_needs(
            own, bundled_parameters(), gpu_free=free, host_free=host.available_bytes
        )
        if own
        else None,
    )


def usable_gpu_memory(software: Software, gpus: Gpus, cuda: Cuda | None) -> list[int | None]:
    """Free bytes of each GPU that torch can use; None of one of which they are not known."""
    if cuda is not None:
        return [device.free_bytes for device in cuda.devices]
    if software.torch_build in ("cpu", "xpu") or gpus.all_hidden:
        return []
    if software.torch_build == "rocm" or gpus.problem:
        return [None]
    return [gpu.free_bytes for gpu in gpus.found]


def diagnosed(
    *,
    software: Software,
    codecs: Codecs,
    gpus: Gpus,
    cuda: Cuda | None,
    host: Host,
    cache: Cache,
    hub: Hub,
    token: Token,
    models: Sequence[ModelNeeds],
    bundled: ModelNeeds | None = None,
) -> Report:
    """A report of facts, and what is wrong with them for the released models."""
    some_model_here = any(model.is_here for model in models)
    problems = (
        *_software_problems(software, codecs),
        *_gpu_problems(software, gpus, cuda),
        *_memory_problems(gpus, host, models, usable_gpu_memory(software, gpus, cuda)),
        *_cache_problems(cache, models, some_model_here),
        *_hub_problems(hub, token, some_model_here),
    )
    return Report(
        software=software,
        codecs=codecs,
        gpus=gpus,
        cuda=cuda,
        host=host,
        cache=cache,
        hub=hub,
        token=token,
        models=(*models, bundled) if bundled else tuple(models),
        problems=tuple(sorted(problems, key=lambda problem: not problem.prevents_generating)),
    )


def _software_problems(software: Software, codecs: Codecs) -> Iterator[Problem]:
    for package, version in (
        ("torch", software.torch),
        ("transformers", software.transformers),
        ("huggingface-hub", software.huggingface_hub),
        ("av", software.av),
    ):
        if version is None:
            yield Problem(
                text=f"{package} is not installed",
                advice=f"`pip install {package}`",
                prevents_generating=True,
            )
    reinstall = "`pip install --force-reinstall av`, whose wheels bring the codecs"
    if software.av and not codecs.importable:
        yield Problem(
            text=f"PyAV cannot be imported: {codecs.problem}",
            advice=reinstall,
            prevents_generating=True,
        )
    if codecs.importable and not codecs.encoder:
        yield Problem(
            text="PyAV has no encoder for H.264, so no video can be written",
            advice=reinstall,
            prevents_generating=True,
        )
    if codecs.importable and not codecs.decoder:
        yield Problem(
            text="PyAV has no decoder for H.264, so most videos cannot be read",
            advice=reinstall,
            prevents_generating=False,
        )


def _gpu_problems(software: Software, gpus: Gpus, cuda: Cuda | None) -> Iterator[Problem]:
    there = f"there is {gpus.found[0].name}" if gpus.found else ""
    if gpus.problem:
        yield _slow(
            gpus.problem, "mend or restart the driver; `istar doctor --gpu` asks torch instead"
        )
    if there and software.torch_build == "cpu":
        install = "`pip install --force-reinstall torch`, or on Windows and macOS as "
        link = "https://pytorch.org/get-started/locally tells"
        yield _slow(f"{there}, but torch {software.torch} is built for the CPU", install + link)
    elif there and gpus.all_hidden:
        text = f"{there}, but CUDA_VISIBLE_DEVICES={gpus.visible!r} hides it"
        yield _slow(text, "`unset CUDA_VISIBLE_DEVICES`")
    elif cuda and cuda.problem:
        yield _slow(
            f"torch cannot use CUDA: {cuda.problem}",
            f"update the driver, or `pip install --force-reinstall torch`, {_AGAIN} with --gpu",
        )
    elif there and cuda and not cuda.available:
        yield _slow(
            f"{there}, but torch does not see it", f"update the driver, {_AGAIN} with --gpu"
        )
    for device in cuda.devices if cuda else ():
        if not device.bf16:
            yield _slow(
                f"GPU {device.index}, {device.name}, has no bf16 arithmetic and imitates it slowly",
                "add `--dtype fp32` if twice the memory is there",
            )


def _slow(text: str, advice: str) -> Problem:
    return Problem(text=text, advice=advice, prevents_generating=False)


def _memory_problems(
    gpus: Gpus,
    host: Host,
    models: Sequence[ModelNeeds],
    gpu_free: Sequence[int | None],
) -> Iterator[Problem]:
    least = min(models, key=lambda model: model.gpu_bytes)
    known = [free for free in gpu_free if free is not None]
    if any(model.fits_gpu in ("yes", "unknown") for model in models):
        first = gpu_free[0]
        if least.fits_gpu == "yes" and first is not None and first < least.gpu_bytes:
            text = f"the first GPU has {_gigabytes(first)} free, too little for any released model"
            yield _slow(text, f"add `--device cuda:{gpu_free.index(max(known))}`")
        return
    gpu = f"the GPU has {_gigabytes(max(known))} free" if known else "there is no GPU for torch"
    if any(model.may_run for model in models):
        advice = "add `--device cpu`" if known else "try `--res 480p --seconds 1` first"
        yield _slow(f"{gpu}, so models run on the CPU, very slowly", advice)
        return
    idle = [] if gpu_free else [gpu.free_bytes for gpu in gpus.found]
    remedy = (
        "let torch use the GPU, as told below"
        if fit(least.gpu_bytes, idle) in ("yes", "unknown")
        else "end other programs, or use a machine with more memory"
    )
    available = "unknown" if host.available_bytes is None else _gigabytes(host.available_bytes)
    yield Problem(
        text=(
            f"no released model fits: the weights alone take {_gigabytes(least.gpu_bytes)} of a "
            f"GPU's memory, and {gpu}; on the CPU they take {_gigabytes(least.host_bytes)}, and "
            f"{available} are available"
        ),
        advice=f"{remedy}, {_AGAIN}",
        prevents_generating=True,
    )


def _cache_problems(
    cache: Cache, models: Sequence[ModelNeeds], some_model_here: bool
) -> Iterator[Problem]:
    move = f"set HF_HUB_CACHE to a directory that can be written, {_AGAIN}"
    if cache.problem:
        prevents = cache.state == "unusable" or not some_model_here
        yield Problem(text=cache.problem, advice=move, prevents_generating=prevents)
    elif not some_model_here and all(model.fits_disk == "no" for model in models):
        least = min(model.fetch_bytes for model in models)
        yield Problem(
            text=(
                f"the disk of {cache.path} has {_gigabytes(cache.free_bytes or 0)} free, and "
                f"{_gigabytes(least)} are still to be fetched"
            ),
            advice=f"free space, or set HF_HUB_CACHE to a directory on a larger disk, {_AGAIN}",
            prevents_generating=True,
        )


def _hub_problems(hub: Hub, token: Token, some_model_here: bool) -> Iterator[Problem]:
    if hub.problem and hub.advice:
        yield Problem(text=hub.problem, advice=hub.advice, prevents_generating=not some_model_here)
    elif hub.state == "offline" and not some_model_here:
        yield Problem(
            text="HF_HUB_OFFLINE forbids to fetch a model, and none is here",
            advice="`unset HF_HUB_OFFLINE`, then `istar models pull 480p`",
            prevents_generating=True,
        )
    if token.problem:
        yield Problem(
            text=token.problem,
            advice="`hf auth login`, or set HF_TOKEN anew",
            prevents_generating=not some_model_here,
        )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
