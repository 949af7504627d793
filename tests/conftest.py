"""What every test runs under: three event loops, no blocking call on any of them, no thread left behind."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

# A deadline, or how long making examples takes, would measure the machine. In CI the same examples come every time, and
# more of them.
timeless = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("default", timeless, max_examples=50)
settings.register_profile("ci", timeless, max_examples=200, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("iii", "a real iii engine for the tests marked `engine`")
    group.addoption("--engine-url", metavar="WS_URL", help="its worker address, e.g. ws://127.0.0.1:49134")
    group.addoption("--engine-http", metavar="HTTP_URL", help="its HTTP address, e.g. http://127.0.0.1:3111")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Reports go between processes as UTF-8, and some tests log what is not."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(params=["asyncio", "uvloop", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The loop of one test; a new one each time.

    A test of timing asks for virtual time, where a wait with nothing else to do is over at once, or, beside real
    sockets and processes, for time that is held, which goes on only as ``tests.timing`` lets it::

        @pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
    """
    match request.param:
        case "asyncio":
            return "asyncio", {"use_uvloop": False}
        case "uvloop":
            pytest.importorskip("uvloop")
            return "asyncio", {"use_uvloop": True}
        case "trio":
            return "trio", {}
        case "virtual":
            from trio.testing import MockClock

            return "trio", {"clock": MockClock(autojump_threshold=0)}
        case "held":
            from trio.testing import MockClock

            return "trio", {"clock": MockClock()}
        case unknown:
            raise ValueError(f"no backend {unknown!r}")


@pytest.fixture(scope="session", autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """A blocking call in the package or below it, on the thread of a running loop, raises ``BlockingError``.

    Only asyncio's loops are seen; the same code runs on trio. What tests do by themselves is not looked at.
    """
    with blockbuster_ctx(scanned_modules="iii_anyio"):
        yield


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    """A test ends the threads it started, those of portals above all."""
    before = set(threading.enumerate())
    yield
    # Idle threads of anyio and trio end by themselves; waiting for them would cost seconds.
    pooled = ("AnyIO worker thread", "Trio thread")
    left = [thread for thread in threading.enumerate() if thread not in before and not thread.name.startswith(pooled)]
    for thread in left:
        thread.join(30)
    assert not [thread for thread in left if thread.is_alive()]


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A home directory of the tests' own: workers write process markers there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


class RealEngine(NamedTuple):
    """Where the engine of ``--engine-url`` and ``--engine-http`` listens."""

    url: str
    http: str | None


@pytest.fixture(scope="session")
def real_engine(pytestconfig: pytest.Config) -> RealEngine:
    """The engine named on the command line; without one the test is skipped. Use with the marker ``engine``."""
    url: str | None = pytestconfig.getoption("--engine-url")
    if url is None:
        pytest.skip("needs a real engine: --engine-url")
    return RealEngine(url, pytestconfig.getoption("--engine-http"))
