"""`istar models`: what models there are, and their files on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from istar.byte_size import readable_size
from istar.cli.console import aligned, asked_yes, print_json, print_lines, print_path, say, speak
from istar.cli.option_types import NumberType, QuietOption
from istar.errors import IstarError, UsageError

if TYPE_CHECKING:
    from istar.cli.display import DownloadDisplay
    from istar.model_spec import ModelSpec, Precision
    from istar.models.find import ModelFiles
    from istar.models.store import ModelState

models = typer.Typer(
    no_args_is_help=True,
    help="See, fetch, check, convert and remove models.",
)

NameArgument = Annotated[str, typer.Argument(help="A model's name; `istar models list` has them.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on stdout, sizes in bytes.")]


@models.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List the models: what each makes, its size, what of it is here."""
    from istar.models.store import all_states

    states = all_states()
    if as_json:
        print_json([_described(state) for state in states])
        return
    rows = [("NAME", "MAKES", "SIZE", "STATE", "PATH")]
    for state in states:
        here = f" ({readable_size(state.bytes_here)})" if state.state == "partial" else ""
        spec = state.spec
        path = str(state.path or "-")
        rows.append((spec.name, _makes(spec), _size(state), state.state + here, path))
        rows += [
            (f"  {copy.dtype} copy", "", readable_size(copy.bytes_here), "ready", str(copy.path))
            for copy in state.copies
        ]
    print_lines(aligned(rows))


@models.command()
def pull(
    names: Annotated[list[str], typer.Argument(help="Names of models.", metavar="NAME...")],
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fetch models; a stopped pull continues where it was.

    Example: istar models pull 480p
    """
    from istar.cli.display import DownloadDisplay

    speak(quiet=quiet)
    specs = [_named(name) for name in names]
    fetched = []
    with DownloadDisplay() as display:
        for spec in specs:
            transformer = _files(spec, display).transformer
            fetched.append({"name": spec.name, "path": str(transformer)})
            if not as_json:
                print_path(transformer)
    if as_json:
        print_json(fetched)


@models.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of models.", show_default="all that are here")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Fetch again what is damaged or missing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare models' files with their hashes, without the network.

    Exit code 1 if something is wrong and was not repaired.
    """
    from istar.cli.display import DownloadDisplay
    from istar.models.bundled import NAME as BUNDLED_NAME
    from istar.models.bundled import is_bundled
    from istar.models.find import released_files
    from istar.models.store import all_states, state_of, verify_model

    specs = [_named(name) for name in names or ()] or [
        state.spec for state in all_states() if state.has_transformer or state.copies
    ]
    if not specs:
        raise IstarError("no model is here yet; `istar models pull NAME` fetches one")
    found: dict[str, list[str]] = {}
    with DownloadDisplay() as display:
        for spec in specs:
            before, copies = _here(spec), _copies(spec)
            found[spec.name] = verify_model(spec, display, repair=repair)
            if repair and found[spec.name] and not is_bundled(spec):
                if before.state != "absent":
                    released_files(spec, display)
                _say_what_copies_went(spec.name, copies - _copies(spec))
                found[spec.name] = [] if state_of(spec).is_absent else verify_model(spec, display)
    if as_json:
        print_json([{"name": name, "problems": problems} for name, problems in found.items()])
    else:
        print_lines(
            f"{name}: {problem}"
            for name, problems in found.items()
            for problem in problems or ["every file is right"]
        )
    if any(found.values()):
        advice = "they cannot be repaired" if repair else "`--repair` fetches those files again"
        if [name for name, problems in found.items() if problems] == [BUNDLED_NAME]:
            advice = "install istar again"
        raise IstarError(f"some files are not what they should be; {advice}")


@models.command()
def rm(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove a model's files and its converted copies.

    Files that other models here need stay.
    """
    from istar.models.store import remove_model

    spec = _named(name)
    _refuse_bundled(spec, "removed")
    state = _here(spec)
    size = state.bytes_here + sum(copy.bytes_here for copy in state.copies)
    if not asked_yes(f"remove {name}, up to {readable_size(size)}", yes=yes):
        raise UsageError("nothing was removed; --yes removes without asking")
    freed = remove_model(spec)
    if as_json:
        print_json({"name": name, "bytes_freed": freed})
    else:
        say(f"{readable_size(freed)} freed")


@models.command()
def path(name: NameArgument, as_json: JsonOption = False) -> None:
    """Print the path of a model's transformer, if it is here.

    Exit code 1 if it is not.
    """
    from istar.models.store import state_of

    state = state_of(_named(name))
    if state.path is None:
        here = "only partly here" if state.state == "partial" else "not here"
        raise IstarError(f"{name} is {here}; `istar models pull {name}` fetches it")
    if as_json:
        print_json({"name": name, "path": str(state.path)})
    else:
        print_path(state.path)


@models.command()
def info(name: NameArgument, as_json: JsonOption = False) -> None:
    """Print everything known about a model."""
    from istar.models.store import state_of

    described = _described(state_of(_named(name)))
    if as_json:
        print_json(described)
        return
    print_lines(
        f"{key.replace('_', ' ')}: {value if isinstance(value, str) else json.dumps(value)}"
        for key, value in described.items()
    )


@models.command()
def convert(
    name: NameArgument,
    dtype: Annotated[NumberType, typer.Option("--dtype", help="Of the copy.")] = NumberType.BF16,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Copy a model in one dtype; the copy is then loaded.

    The released transformers are float32: a bf16 copy is half as much to read, an int8 or fp8 copy
    a quarter.

    Example: istar models convert 480p --dtype bf16
    """
    from istar.checkpoint.convert import convert as convert_model
    from istar.cli.display import DownloadDisplay
    from istar.models.find import converted_directory, released_files

    speak(quiet=quiet)
    spec = _named(name)
    _refuse_bundled(spec, "converted")
    with DownloadDisplay() as display:
        files = released_files(spec, display)
    precision: Precision = dtype.value
    target = converted_directory(spec, precision)
    convert_model(
        spec, files, target, precision, on_progress=lambda what: say(f"converting {what}")
    )
    if as_json:
        print_json({"name": name, "dtype": dtype.value, "path": str(target)})
    else:
        print_path(target)


def _named(name: str) -> ModelSpec:
    from istar.models.bundled import NAME as BUNDLED_NAME
    from istar.models.bundled import bundled_checkpoint
    from istar.models.find import similar_name
    from istar.models.store import known_models

    if name == BUNDLED_NAME:
        return bundled_checkpoint()[1]
    for spec in known_models():
        if spec.name == name:
            return spec
    names = [spec.name for spec in known_models()]
    raise UsageError(
        f"there is no model {name!r}; there are {', '.join(names)}{similar_name(name, names)}"
    )


def _here(spec: ModelSpec) -> ModelState:
    """What of a model is here.

    Raises:
        IstarError: nothing is.
    """
    from istar.models.store import state_of

    state = state_of(spec)
    if state.is_absent:
        raise IstarError(
            f"nothing of {spec.name} is here; `istar models pull {spec.name}` fetches it"
        )
    return state


def _copies(spec: ModelSpec) -> set[str]:
    """The dtypes of which there is a copy, whole or not."""
    from istar.models.find import converted_directory

    return {kind.value for kind in NumberType if converted_directory(spec, kind.value).exists()}


def _say_what_copies_went(name: str, dtypes: set[str]) -> None:
    """Name the copies that a repair removed; they are not made again unasked."""
    for dtype in sorted(dtypes):
        say(
            f"the damaged {dtype} copy of {name} was removed; `istar models convert {name} "
            f"--dtype {dtype}` makes it again"
        )


def _files(spec: ModelSpec, display: DownloadDisplay) -> ModelFiles:
    """A model's files, fetched first if need be; of the bundled model there is no need."""
    from istar.models.bundled import bundled_checkpoint, is_bundled
    from istar.models.find import ModelFiles, released_files

    if is_bundled(spec):
        return ModelFiles.below(*bundled_checkpoint())
    return released_files(spec, display)


def _refuse_bundled(spec: ModelSpec, done: str) -> None:
    from istar.models.bundled import is_bundled

    if is_bundled(spec):
        raise UsageError(f"{spec.name} is part of this installation and cannot be {done}")


def _size(state: ModelState) -> str:
    if state.bytes_total is not None:
        return readable_size(state.bytes_total)
    return f"about {readable_size(state.spec.source.expected_bytes)}" if state.spec.source else "?"


def _makes(spec: ModelSpec) -> str:
    kinds = ", ".join(spec.modes)
    return f"{spec.pixel_budget.resolution}, {spec.max_seconds:g} s, {kinds}"


def _described(state: ModelState) -> dict[str, Any]:
    spec = state.spec
    return {
        "name": spec.name,
        "source": asdict(spec.source) if spec.source else None,
        "modes": list(spec.modes),
        "resolution": spec.pixel_budget.resolution,
        "seconds_in_one_pass": spec.max_seconds,
        "seconds_of_a_clip": spec.clip_seconds,
        "guidance": asdict(spec.sampling.guidance),
        "tau": [spec.sampling.tau_image, spec.sampling.tau_video],
        "repeats": {"image": list(spec.image_repeats), "video": list(spec.video_repeats)},
        "prompt": asdict(spec.prompt),
        "state": state.state,
        "bytes_here": state.bytes_here,
        "bytes_total": state.bytes_total,
        "path": None if state.path is None else str(state.path),
        "files": [asdict(part) for part in state.parts],
        "copies": [
            {"dtype": copy.dtype, "bytes": copy.bytes_here, "path": str(copy.path)}
            for copy in state.copies
        ],
    }
