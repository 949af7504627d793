"""Virtual time: trio's clock that jumps to the next deadline when every task waits."""

from __future__ import annotations

from typing import Any

__all__ = ("virtual_time",)


def virtual_time() -> tuple[str, dict[str, Any]]:
    """Return a value for the fixture ``anyio_backend``: trio, with hours that pass in no time. Needs the extra ``trio``.

    ::

        @pytest.fixture
        def anyio_backend():
            return virtual_time()

    It is for what happens in this process: time does not wait for other threads, processes or hosts.
    """
    from trio.testing import MockClock  # only who asks for it needs trio

    return "trio", {"clock": MockClock(autojump_threshold=0)}
