"""Virtual time: trio's clock that jumps to the next deadline when every task waits."""

from __future__ import annotations

from typing import Any

__all__ = ("virtual_time",)


def virtual_time() -> tuple[str, dict[str, Any]]:
    """Return a value for the fixture ``anyio_backend``: trio, with hours that pass in no time.

    ::

        @pytest.fixture
        def anyio_backend():
            return virtual_time()

    It is for what happens in this event loop: time does not wait for threads, processes or hosts. Opening an engine or
    a worker reads the disk in a thread, so a deadline around that may pass at once; put it around what follows.
    """
    from trio.testing import MockClock  # needs the extra ``trio``

    return "trio", {"clock": MockClock(autojump_threshold=0)}
