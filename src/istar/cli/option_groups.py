"""Groups of options: dataclasses in a command's signature, single options on the command line."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import fields, is_dataclass
from functools import cache, wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_origin, get_type_hints

import typer

from istar.cli.console import emit, speak
from istar.cli.json_events import start_event


def typed_options(context: typer.Context) -> Set[str]:
    """The names of the parameters that were typed; not of those from settings."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def set_options(context: typer.Context) -> Set[str]:
    """The names of the parameters that have the value of a setting."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source and source.name == "DEFAULT_MAP"}


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters that are dataclasses of options are typed in as single options.

    From the first moment it speaks as `--quiet`, `--verbose` and `--json` say, where it has them.
    One of them is called `options`; it is completed with what was typed, see
    `istar.cli.options.CommonOptions.completed`.
    """
    typed = signature(command, eval_str=True).parameters.values()
    groups = {
        p.name: p.annotation
        for p in typed
        if isinstance(p.annotation, type) and is_dataclass(p.annotation)
    }
    own = [p for p in typed if p.name not in groups]
    common = [p for group in groups.values() for p in _parameters(group)]
    context = Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context)

    @wraps(command)
    def wrapped(context: typer.Context, **values: Any) -> None:
        from istar.cli.setting_table import SETTINGS

        speak(
            quiet=values.get("quiet", False),
            verbose=values.get("verbose", False),
            as_json=values.get("as_events", False),
        )
        for name in set_options(context):
            if not SETTINGS[name].counts(values):
                values[name] = defaults[name]
        for name, group in groups.items():
            chosen = {
                parameter.name: values.pop(parameter.name) for parameter in _parameters(group)
            }
            values[name] = group(**chosen)
        values["options"] = values["options"].completed(typed_options(context))
        settings = {p.name: values[p.name] for p in own}
        for name, group in groups.items():
            settings |= {p.name: getattr(values[name], p.name) for p in _parameters(group)}
        emit(start_event(context.info_name or "", settings))
        command(**values)

    parameters = [context, *(p.replace(kind=Parameter.KEYWORD_ONLY) for p in own), *common]
    defaults = {parameter.name: parameter.default for parameter in parameters}
    wrapped.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped


@cache
def _parameters(group: type) -> tuple[Parameter, ...]:
    """The options in a group, as a command's parameters."""
    hints = get_type_hints(group, include_extras=True)
    return tuple(
        Parameter(
            field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(group)
        if get_origin(hints[field.name]) is Annotated
    )
