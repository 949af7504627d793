"""The official ``iii-sdk`` and this package as workers of one embedded engine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from anyio import fail_after

from iii_anyio.devengine import open_engine
from tests.conformance.judging import CASES, TAG, official, open_stage, ours, register

pytest.importorskip("iii")
pytestmark = pytest.mark.anyio

PROGRAM = [sys.executable, str(Path(__file__).with_name("official_worker.py"))]
MIB = 1_048_576


# What differs between the loops is below all of these cases, and tested there.
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"], indirect=True)
async def test_every_case_between_the_official_sdk_and_this_one(tmp_path: Path) -> None:
    """See judging.py; one process for all of them, since starting it takes longest."""
    with fail_after(50):
        async with open_stage(PROGRAM, tmp_path) as stage:
            for name, judge in CASES.items():
                print(name)  # the last one of a failure's output is the one that failed
                await judge(stage)


@pytest.mark.parametrize("anyio_backend", ["uvloop"], indirect=True)
async def test_workers_of_one_namespace_find_each_other_and_large_payloads_pass(tmp_path: Path) -> None:
    """P-04, P-05, P-21, P-37, P-102; G-1."""
    with fail_after(50):
        async with open_engine(port=0, http_port=None) as engine, ours(engine.url, namespace="blue") as iii:
            register(iii)
            await iii.wait_ready()
            async with official([*PROGRAM, engine.url, TAG, "blue"], tmp_path) as other:
                assert await iii.trigger_async(f"{TAG}::official::double", 2) == 4
                assert await other.trigger("double", 2) == 4
                text = "é" * (17 * MIB // 2)
                assert await iii.trigger_async(f"{TAG}::official::length", text) == 17 * MIB // 2
                length = {"function_id": f"{TAG}::ours::length"}
                assert await other.ask(trigger=length, kib=17 * 1024) == {"result": 17 * MIB // 2}
                # None is sent as null by us, and left out by the official SDK, which upstream's engine drops (G-1).
                assert (await other.trigger("meta", None, timeout_ms=5000))[0] == "invalid_message"
