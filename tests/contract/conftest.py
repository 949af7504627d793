"""A test that takes ``target`` runs on the embedded engine, in process and over sockets, and on ``--engine-url``."""

from __future__ import annotations

import pytest

from tests.contract.targets import Target


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "target" not in metafunc.fixturenames:
        return
    kinds: list[object] = ["direct", "socket"]
    if metafunc.config.getoption("--engine-url") is not None:
        kinds.append(pytest.param("outside", marks=pytest.mark.engine))
    metafunc.parametrize("target", kinds, indirect=True)


@pytest.fixture
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Target:
    """An engine to open: see ``targets.py``."""
    for name in ("III_URL", "III_NAMESPACE", "III_WORKER_NAME", "III_NAMESPACE_GRACE_MS"):
        monkeypatch.delenv(name, raising=False)
    outside = request.getfixturevalue("real_engine") if request.param == "outside" else None
    return Target(request.param, outside)
