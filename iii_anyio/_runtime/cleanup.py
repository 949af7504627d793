"""Waiting after cancellation, and exceptions out of task groups."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

from anyio import CancelScope, move_on_after

__all__ = ("last_words", "unwrap_single")


@contextmanager
def last_words(seconds: float) -> Generator[CancelScope]:
    """The only place where cancelled code may await: shielded, and over after ``seconds``."""
    with move_on_after(seconds, shield=True) as scope:
        yield scope


@contextmanager
def unwrap_single() -> Generator[None]:
    """Raise the exception in a group of one, at any depth, bare."""
    try:
        yield
    except BaseExceptionGroup as group:
        inner = _single(group)
        if inner is group:
            raise
        raise inner from inner.__cause__


def _single(exc: BaseException) -> BaseException:
    if isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        return _single(group.exceptions[0]) if len(group.exceptions) == 1 else group
    return exc
