"""Checks of settings, each with a one-line error."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import Any

from istar.errors import UsageError

_SEEDS = 2**63


def below_seed_limit(seed: int) -> None:
    """Refuse seeds that torch does not take."""
    if seed >= _SEEDS:
        raise UsageError(f"seed must be below {_SEEDS}, not {seed}")


def at_least(config: Any, least: float, *names: str) -> None:
    """Refuse settings below `least`."""
    for name in names:
        if getattr(config, name) < least:
            raise UsageError(f"{name} must be at least {least}, not {getattr(config, name)}")


def positive(config: Any, *names: str) -> None:
    """Refuse settings that are not above zero."""
    for name in names:
        if not getattr(config, name) > 0:
            raise UsageError(f"{name} must be above 0, not {getattr(config, name)}")


def share(config: Any, *names: str) -> None:
    """Refuse settings outside 0 to 1."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise UsageError(f"{name} must be from 0 to 1, not {getattr(config, name)}")


def check_aspects(name: str, aspects: Sequence[float]) -> None:
    """Refuse ratios far from every template."""
    if not aspects or any(not 0.2 <= aspect <= 5 for aspect in aspects):
        raise UsageError(f"{name}: aspects must be from 0.2 to 5, not {aspects}")


def check_source(table: str, config: Any, *of_shapes: str) -> None:
    """Refuse a missing list, and settings that the source does not use.

    Args:
        table: the part of the settings that an error names.
        config: with `source` and `list`.
        of_shapes: the settings that only procedural clips have; with a list they keep their
            defaults.
    """
    if (config.list is not None) != (config.source == "list"):
        raise UsageError(f'{table}: a list is needed for source = "list", and for no other source')
    if config.source == "list":
        check_unchanged(table, config, of_shapes, 'source = "shapes" only')


def check_unchanged(table: str, config: Any, names: Collection[str], use: str) -> None:
    """Refuse settings that would be ignored and yet differ from their defaults.

    Args:
        table: the part of the settings that an error names.
        config: the settings.
        names: those that would be ignored.
        use: what they are for.
    """
    for field in fields(config):
        if field.name in names and getattr(config, field.name) != field.default:
            raise UsageError(f"{table}: {field.name} is for {use}")
