"""Two loops, not three: what is tested here is much, and the same code on both asyncio loops."""

from __future__ import annotations

from typing import Any

import pytest

from iii_anyio.testing import virtual_time


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The loop of one test; ``virtual`` as in ``tests/conftest.py``."""
    if request.param == "virtual":
        return virtual_time()
    return request.param, {}
