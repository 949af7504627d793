"""Exceptions carry facts, and say them (A.7)."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from iii_anyio import InvocationError, InvocationTimeoutError, ObserveRejection, RegistrationRejectedError
from iii_anyio.filter import FilterError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (InvocationError("busy", "not now", "f", "Traceback …", "i"), "busy: not now"),
        (InvocationTimeoutError("TIMEOUT", "after 5 s", "f"), "TIMEOUT: after 5 s"),
        (ObserveRejection("NOT_FOR_SALE", "no gold"), "NOT_FOR_SALE: no gold"),
        (FilterError("INVALID_FILTER", "no such operator"), "no such operator"),
        (RegistrationRejectedError("WORKER_NAMESPACE_CONFLICT", "default", "w", "id"), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_pickles_with_its_facts(error: Any, text: str | None) -> None:
    """A.25, 18. The traceback of the other side is an attribute, and in no text."""
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
    assert text is None or str(error) == text
    assert "Traceback" not in repr(error)
