"""From a model's name to its files on this machine, fetching what is missing.

A model is named by `auto`, a name of the registry, `tiny`, a directory, or
`owner/repo[@revision][:path]` on the Hub.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from platformdirs import user_data_path

from istar.errors import CheckpointError, HubError, Remedy, UsageError
from istar.files import expanded
from istar.model_spec import ModelSpec
from istar.models import bundled, hub
from istar.models.download_events import DownloadListener, DownloadNote, ignore
from istar.models.manifest import MANIFEST_NAME, find_models, read_manifest
from istar.models.released import RELEASED_MODELS, fitting
from istar.models.repository import HubPlace, RepoRevision
from istar.request import AUTO_MODEL, Mode

_HUB_NAME = re.compile(
    r"(?P<repo>[^/@:\s.~][^/@:\s]*/[^/@:\s]+)(?:@(?P<revision>[^:\s]+))?(?::(?P<path>.+))?"
)


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """Where the three networks of a model lie.

    Attributes:
        transformer: a safetensors file, or a directory of shards.
        tokenizer: `.pth` or `.safetensors`.
        text_encoder: the directory that transformers loads.
        place: where on the Hub they are from; None where that is not known.
    """

    transformer: Path
    tokenizer: Path
    text_encoder: Path
    place: HubPlace | None = None

    @classmethod
    def below(cls, root: Path, spec: ModelSpec) -> ModelFiles:
        """All three at a model's own paths below one directory."""
        return cls(
            transformer=root / spec.transformer,
            tokenizer=root / spec.tokenizer,
            text_encoder=root / spec.text_encoder,
            place=_published_place(spec),
        )


@dataclass(frozen=True, kw_only=True)
class FoundModel:
    """A model that was chosen, and how to have its files.

    Attributes:
        spec: the model.
        files: gives its files, fetching first what is missing, and reports that to a listener.
        is_here: nothing is missing.
        bytes_to_fetch: the size of all its files, asked of the Hub; 0 if they are here.
        if_damaged: what helps if a file is.
    """

    spec: ModelSpec
    files: Callable[[DownloadListener], ModelFiles]
    is_here: bool = True
    bytes_to_fetch: Callable[[], int] = lambda: 0
    if_damaged: tuple[Remedy, ...] = ()


def find_model(
    name: str | Path,
    *,
    mode: Mode = "t2v",
    resolution: str | None = None,
    seconds: float | None = None,
    dtype: str | None = None,
    on_event: DownloadListener = ignore,
) -> FoundModel:
    """The model to use; of a repository on the Hub no more is fetched than says what it holds.

    Of models that fit equally, one that is here is used before one that would have to be fetched.

    Args:
        name: `auto`, a name, `tiny`, a directory, or `owner/repo[@revision][:path]`.
        mode: what it is for.
        resolution: `192p`, `384p`, `480p`, `720p`, or a manifest's own.
        seconds: the length wanted.
        dtype: a `Precision`: a converted copy of that dtype is preferred.
        on_event: receives download events.

    Raises:
        UsageError: nothing of that name.
        CheckpointError: it does not do what is asked.
        HubError: the Hub does not say what a repository holds.
    """

    def fit(models: Sequence[ModelSpec]) -> tuple[ModelSpec, ...]:
        return fitting(tuple(models), mode, resolution=resolution, seconds=seconds)

    check_name(name)
    root, models = _described_here(name)
    if root:
        spec = fit(models)[0]
        return _in_place(spec, ModelFiles.below(root, spec))
    if not models:
        return _on_hub(name, fit, on_event)
    best, *_ = fitted = fit(models)
    found = next((found for spec in fitted if (found := _here(spec, dtype))), None)
    if found and found.spec.name != best.name:
        text = f"using {found.spec.name}, because {best.name} is not here"
        on_event(DownloadNote(text=text, remedies=("pull",)))
    return found or _to_be_fetched(best)


def _in_place(
    spec: ModelSpec, files: ModelFiles, if_damaged: tuple[Remedy, ...] = ()
) -> FoundModel:
    return FoundModel(spec=spec, files=lambda _: files, if_damaged=if_damaged)


def _here(spec: ModelSpec, dtype: str | None) -> FoundModel | None:
    """A published model that is here whole: its converted copy, or what was fetched."""
    if copy := converted(spec, dtype):
        return _in_place(*copy, if_damaged=("repair",))
    files = cached_files(spec)
    return _in_place(spec, files, if_damaged=("repair",)) if files else None


def _to_be_fetched(spec: ModelSpec) -> FoundModel:
    def fetched(listen: DownloadListener) -> ModelFiles:
        with _small_model_offered():
            return released_files(spec, listen)

    def size() -> int:
        with _small_model_offered():
            return hub.bytes_of(wanted_files(spec))

    return FoundModel(
        spec=spec, files=fetched, is_here=False, bytes_to_fetch=size, if_damaged=("repair",)
    )


@contextmanager
def _small_model_offered() -> Iterator[None]:
    """Where a model cannot be fetched, name the one that is here in any case."""
    try:
        yield
    except HubError as error:
        if bundled.bundled_model():
            error.remedies += ("tiny",)
        raise


def _on_hub(
    name: str | Path,
    fit: Callable[[Sequence[ModelSpec]], tuple[ModelSpec, ...]],
    on_event: DownloadListener,
) -> FoundModel:
    """A model in a repository on the Hub; its name may be a directory's, mistyped."""
    parts = _hub_name(name)
    try:
        where = RepoRevision(repo=parts["repo"], revision=parts["revision"] or "main")
        return _in_repo(where, parts["path"] or "", fit, on_event)
    except HubError as error:
        if parts["revision"] or parts["path"]:
            raise
        raise HubError(
            f"there is no directory {name}, and {error}", remedies=error.remedies
        ) from error


def check_name(name: str | Path) -> None:
    """Refuse what can name no model, without reading or asking anything.

    Raises:
        UsageError: nothing of that name.
    """
    if not str(name).strip():
        raise UsageError("the model's name is empty", remedies=("list_models",))
    if name not in _names() and not expanded(name).exists():
        _hub_name(name)


def is_known_name(name: str, repository: str | None = None) -> bool:
    """Whether a name stands for one model, a published one or the bundled one.

    Args:
        name: of a model.
        repository: where it is from, which then has to be where that one was published.
    """
    homes = {spec.name: spec.source and spec.source.repo for spec in RELEASED_MODELS}
    homes[bundled.NAME] = None
    return name in homes and repository in (None, homes[name])


def was_fetched(place: HubPlace) -> bool:
    """Whether all of the one model of a place was fetched to this machine; nothing is asked for.

    The revision has to be a commit.
    """

    def the_only(models: Sequence[ModelSpec]) -> tuple[ModelSpec, ...]:
        if len(models) > 1:
            raise CheckpointError(f"{place} holds several models")
        return tuple(models)

    try:
        where = RepoRevision(repo=place.repository, revision=place.revision)
        manifest = hub.cached_files(where, [_manifest_path(place.folder or "")])
        # The list of all files and the manifest, if there is one, would have to be fetched.
        if not where.pinned or manifest.bytes_here != manifest.bytes_total:
            return False
        return _in_repo(where, place.folder or "", the_only, ignore).is_here
    except (HubError, CheckpointError):  # a place that cannot be, or that holds no model
        return False


def similar_name(name: str, names: Sequence[str]) -> str:
    """A hint at a name like the one that was typed; empty if none is like it."""
    by_folded = {one.casefold(): one for one in names}
    found = get_close_matches(name.casefold(), by_folded, n=1)
    return f"; did you mean {by_folded[found[0]]}?" if found else ""


def _names() -> tuple[str, ...]:
    return (AUTO_MODEL, *(spec.name for spec in RELEASED_MODELS), bundled.NAME)


def _described_here(name: str | Path) -> tuple[Path | None, tuple[ModelSpec, ...]]:
    """The models that a name stands for and, if it is one, the directory that holds them.

    A name on the Hub stands for none that are known here.

    Raises:
        UsageError: nothing of that name.
        CheckpointError: a directory that holds no model.
    """
    named = tuple(spec for spec in RELEASED_MODELS if name in (AUTO_MODEL, spec.name))
    if named:
        return None, named
    if name == bundled.NAME:
        root, spec = bundled.bundled_checkpoint()
        return root, (spec,)
    directory = expanded(name)
    if directory.exists():
        return find_models(directory)
    _hub_name(name)
    return None, ()


def _hub_name(name: str | Path) -> re.Match[str]:
    """The parts of `owner/repo[@revision][:path]`.

    Raises:
        UsageError: it is not of that form.
    """
    parts = _HUB_NAME.fullmatch(str(name))
    if parts is None:
        raise UsageError(
            f"there is no model {str(name)!r}: it is neither a directory nor one of "
            f"{', '.join(_names())}, nor owner/repo on the Hub{similar_name(str(name), _names())}"
        )
    return parts


def wanted_files(spec: ModelSpec) -> dict[RepoRevision, list[str]]:
    """What a published model needs of which state of its repository.

    Raises:
        CheckpointError: the model was not published.
    """
    source = spec.source
    if source is None:
        raise CheckpointError(f"the {spec.name} model is not one that can be fetched")
    shared = RepoRevision(repo=source.repo, revision=source.revision)
    transformer = RepoRevision(repo=source.repo, revision=source.transformer_revision)
    wanted = {shared: [spec.tokenizer, f"{spec.text_encoder}/"]}
    wanted.setdefault(transformer, []).append(f"{spec.transformer}/")
    return wanted


def released_files(spec: ModelSpec, on_event: DownloadListener = ignore) -> ModelFiles:
    """A published model's files in the Hub's cache, fetched first if they are not there.

    Raises:
        HubError: something cannot be fetched.
    """
    wanted = wanted_files(spec)
    snapshots = hub.pull(wanted, on_event)
    places = [snapshots[where] for where in wanted]
    return _assembled(spec, places[0], places[-1])


def cached_files(spec: ModelSpec) -> ModelFiles | None:
    """A published model's files in the Hub's cache, if all are there; nothing is asked for."""
    places = [
        hub.cached_files(where, wanted).snapshot for where, wanted in wanted_files(spec).items()
    ]
    if places[0] is None or places[-1] is None:
        return None
    return _assembled(spec, places[0], places[-1])


def _assembled(spec: ModelSpec, shared: Path, transformer: Path) -> ModelFiles:
    return ModelFiles(
        transformer=transformer / spec.transformer,
        tokenizer=shared / spec.tokenizer,
        text_encoder=shared / spec.text_encoder,
        place=_published_place(spec, commit=transformer.name),
    )


def _published_place(spec: ModelSpec, commit: str | None = None) -> HubPlace | None:
    """Where a model was published.

    Args:
        spec: the model.
        commit: of its transformer, where it is known better than the model says.
    """
    if spec.source is None:
        return None
    revision = commit or spec.source.transformer_revision
    return HubPlace(repository=spec.source.repo, revision=revision, folder=spec.transformer)


def converted_directory(spec: ModelSpec, dtype: str) -> Path:
    """Where the converted copy of a model in a dtype lies, or would lie."""
    return user_data_path("istar", appauthor=False) / "models" / f"{spec.name}-{dtype}"


def converted(spec: ModelSpec, dtype: str | None) -> tuple[ModelSpec, ModelFiles] | None:
    """A model's converted copy, if there is one of this dtype and of the same source."""
    if dtype is None:
        return None
    directory = converted_directory(spec, dtype)
    if not (directory / MANIFEST_NAME).is_file():
        return None
    try:
        copy = read_manifest(directory / MANIFEST_NAME)
    except CheckpointError:
        # Verifying reports it; the original is used.
        return None
    if copy.source != spec.source or copy.dtype != dtype:
        return None
    return copy, ModelFiles.below(directory, copy)


def _manifest_path(folder: str) -> str:
    """Where the manifest of a folder of a repository would lie."""
    return f"{folder.strip('/')}/{MANIFEST_NAME}".lstrip("/")


def _in_repo(
    where: RepoRevision,
    path: str,
    fit: Callable[[Sequence[ModelSpec]], tuple[ModelSpec, ...]],
    on_event: DownloadListener,
) -> FoundModel:
    """A model in any repository: by its manifest, or by the released names."""
    names = [file.path for file in hub.list_files(where)]
    manifest = _manifest_path(path)
    prefix = manifest.removesuffix(MANIFEST_NAME)
    has_manifest = manifest in names
    if has_manifest:
        snapshot = hub.pull({where: [manifest]}, on_event)[where]
        models = [read_manifest(snapshot / manifest)]
    else:
        # The path is that of a released transformer, or of the directory that holds some.
        one = [spec for spec in RELEASED_MODELS if f"/{prefix}".endswith(f"/{spec.transformer}/")]
        if one:
            prefix = prefix.removesuffix(f"{one[0].transformer}/")
        models = [
            spec
            for spec in one or RELEASED_MODELS
            if any(name.startswith(f"{prefix}{spec.transformer}/") for name in names)
        ]
    if not models:
        raise CheckpointError(
            f"{where} holds no model{f' in {path}' if path else ''}: neither {MANIFEST_NAME} nor "
            f"one of {', '.join(spec.transformer for spec in RELEASED_MODELS)}"
        )
    spec = fit(models)[0]
    wanted = [
        prefix + part if prefix + part in names else f"{prefix}{part}/"
        for part in (spec.transformer, spec.tokenizer, spec.text_encoder)
    ]
    is_here = hub.cached_files(where, wanted).snapshot is not None
    folder = prefix if has_manifest else prefix + spec.transformer

    def files(listen: DownloadListener) -> ModelFiles:
        snapshot = hub.pull({where: wanted}, listen)[where]
        place = HubPlace(
            repository=where.repo, revision=snapshot.name, folder=folder.strip("/") or None
        )
        return replace(ModelFiles.below(snapshot / prefix, spec), place=place)

    return FoundModel(
        spec=spec,
        files=files,
        is_here=is_here,
        bytes_to_fetch=lambda: 0 if is_here else hub.bytes_of({where: wanted}),
    )
