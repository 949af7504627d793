"""Recorded conversations of the official SDK with the real engine, held against our engine and our worker.

The tables list what differs, as patterns of ``fnmatch``, and why. A difference that is not listed fails, and so does
one that does not occur any more.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Final

import pytest
from anyio import fail_after

from iii_anyio import InitOptions, open_worker
from iii_anyio.devengine import open_engine
from tests.conformance.playing import Tap, external, replay
from tests.conformance.recordings import compare_clients, load, said, unexplained
from tests.conformance.scenarios import SCENARIOS

pytestmark = pytest.mark.anyio

RECORDINGS: Final = {
    "invoke": ["invoke"],
    "http": ["http"],
    "namespace": ["namespace"],
    "conflict": ["conflict"],
    "trigger-type": ["trigger-type"],
    "reconnect": ["reconnect-1", "reconnect-2"],
    "otel": ["otel"],
    "state-stream": ["state-stream"],
    "http-function": ["http-function"],
    "channels": ["channels"],
}
YEAR: Final = 365 * 86_400
"""Of virtual time, which jumps while a thread works."""
NEXT: Final = 10
"""What the numbers of connections grow by from one recording to the next."""

# -- the engine ------------------------------------------------------------------------------------------------------

NOT_HERE: Final = "this engine has no such built-in"
ITS_OWN: Final = "a fact about this engine"
QUEUES: Final = "queues work out of the box; the recorded engine had none (Q-1, Q-2)"
OBSERVERS: Final = "this engine has observe.v1 and local-dispatch.v1, which the recorded SDK declares (P-137, P-138)"

ENGINE_COMMON: Final = {"*:*/features is added": OBSERVERS, "* functionregistered rec::* is added": OBSERVERS}
STAMPED: Final = {"*:*/caller is added": "who calls is said to a worker that has declared observe.v1 (P-140)"}

ENGINE: Final[dict[str, dict[str, str]]] = {
    "invoke": STAMPED
    | {
        "invoke:40/result/workers/iii-engine-functions/function_count: 13, not 12": "engine::observers::get",
        "invoke:38/result/functions/stream::*/description is added": ITS_OWN,
        "invoke:40/result/workers/iii-telemetry is missing": NOT_HERE,
        "invoke:40/result/workers/iii-worker-manager#1 is missing": "there is one listener",
        "invoke:38/result/functions/configuration::*/description is added": ITS_OWN,
        "invoke:38/result/functions/state::*/description is added": ITS_OWN,
        "invoke:40/result/workers/iii-*/description: *": ITS_OWN,
        "invoke:40/result/workers/iii-*/version: *": ITS_OWN,
        "invoke:40/result/workers/configuration/description: *": ITS_OWN,
        "invoke:40/result/workers/configuration/version: *": ITS_OWN,
        "invoke:42/result/triggers/configuration/description: *": ITS_OWN,
        "invoke:38/result/functions/publish/description is added": ITS_OWN,
        "invoke:40/result/workers/iii-observability/function_count: *": "no configuration entry, no pages of a console",
        "invoke:33/error/message: *": QUEUES,
        "invoke:38/result/functions/engine::queue::* is added": QUEUES,
        "invoke:38/result/functions/iii::* is added": QUEUES,
        "invoke:38/result/functions/queue::define is added": QUEUES,
        "invoke:40/result/workers/iii-queue is added": QUEUES,
        "invoke:42/result/triggers/durable:subscriber is added": QUEUES,
        "invoke:47 invocationresult rec::add invalid_message is added": "what cannot be read is answered, not dropped",
    },
    "http": STAMPED,
    "namespace": STAMPED,
    "conflict": {},
    "trigger-type": {},
    "reconnect": STAMPED,
    "otel": STAMPED,
    "state-stream": STAMPED
    | {
        "state-stream:*/traceparent is missing": "an event carries on the trace of its write, which had none",
        "state-stream:47/result is missing": "success without a value has no result here, whoever answers (P-30)",
    },
    "pubsub-cron": STAMPED | {"pubsub-cron:8/error/message: *": "another parser's words"},
    "http-function": {},
    "channels": STAMPED,
}


async def check_engine(name: str, recordings: list[str], seconds: float = 20) -> None:
    with fail_after(seconds):
        async with (
            open_engine(
                port=0 if name in ("otel", "channels") else None, http_port=0 if name == "http" else None
            ) as engine,
            external() as url,
        ):
            is_ordered = name not in ("state-stream", "pubsub-cron")  # events are not in step with answers
            names = {"http://127.0.0.1:41829/x": url}
            found = await replay(engine, *map(load, recordings), is_ordered=is_ordered, names=names)
    assert unexplained(found, ENGINE_COMMON | ENGINE[name]) == []


@pytest.mark.parametrize("name", RECORDINGS)
async def test_the_engine_answers_the_official_sdk_as_the_real_one_did(name: str) -> None:
    """Protocol §5 to §9, §12; ST-…, X-…."""
    await check_engine(name, RECORDINGS[name])


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
async def test_the_engine_publishes_and_ticks_as_the_real_one_did() -> None:
    """PS-…, CR-…; three seconds of ticks."""
    await check_engine("pubsub-cron", ["pubsub-cron"], YEAR)


async def test_the_engine_keeps_the_recorded_telemetry() -> None:
    """OB-1, OB-4, §15."""
    with fail_after(20):
        async with (
            open_engine(port=0, http_port=None) as engine,
            open_worker(connector=engine.connector(), options=InitOptions(worker_name="reader")) as iii,
        ):
            await replay(engine, load("otel"))
            (log,) = (await iii.trigger_async("engine::logs::list", {}))["logs"]
            (root,) = (await iii.trigger_async("engine::traces::tree", {"trace_id": log["trace_id"]}))["roots"]
    assert (log["body"], log["service_name"], log["severity_text"]) == ("hello", "rec", "INFO")
    assert log["attributes"] == {"service.name": "", "log.data": {"a": 1}}
    assert (root["span_id"], root["name"], root["status"]) == (log["span_id"], "execute rec::o", "ok")
    assert [event["name"] for event in root["events"]] == ["iii.invocation.input", "iii.invocation.output"]
    assert root["events"][1]["attributes"][1:] == [["iii.payload.truncated", "false"], ["iii.payload.ok", "true"]]


# -- the worker ------------------------------------------------------------------------------------------------------

ANSWERED: Final = "the register call is answered, so that the worker knows when it has been applied (G-8)"
CONFIRMED: Final = "wait_ready() asks again after later registrations"
NULL: Final = (
    "None is sent as null and reaches the handler; the official SDK leaves data out, and the call is lost (G-1)"
)
ENDS_LATER: Final = "the recording ends before"
NOT_IN_STEP: Final = "events come when they do, between the answers"

COMMON: Final = {
    "conn * engine::workers::register #1/action is missing": ANSWERED,
    "conn * engine::workers::register #1/invocation_id is added": ANSWERED,
    "conn * engine::workers::register #1/data/telemetry/framework: *": "another SDK",
    "conn * engine::workers::register #1/data/version: *": "another SDK",
}
WORKER: Final[dict[str, dict[str, str]]] = {
    "invoke": {
        "conn 1 * engine::workers::register #2 is added": CONFIRMED,
        "conn 2 invokefunction rec::add #4/data is added": NULL,
        "conn 1 invocationresult rec::add #3/error/message: *": NULL,
        "conn 1 invocationresult rec::add #4/error/message: *": NULL,
        "conn 1 invocationresult rec::add #5 is added": NULL,
        "conn 2 invokefunction rec::add #[56]/invocation_id: *": NULL,
    },
    "http": {"conn 1 * engine::workers::register #2 is added": CONFIRMED},
    "namespace": {"conn 1 * engine::workers::register #2 is added": CONFIRMED},
    "conflict": {
        "conn [13] * engine::workers::register #2 is added": CONFIRMED,
        "conn 3 close #1 is added": ENDS_LATER,
    },
    "trigger-type": {},
    "reconnect": {"conn 1 * engine::workers::register #2 is added": CONFIRMED},
    "otel": {"conn 1 invocationresult rec::o #1/traceparent is missing": "it makes no spans unless told to"},
    "state-stream": {
        "conn 1 * engine::workers::register #2 is added": CONFIRMED,
        "conn 1 invokefunction st* #*/namespace is added": "helpers name the namespace, to work from any",
        "conn 1 invocationresult rec::ev #*/traceparent is missing": "the engine gave none",
        "conn 1 in another order: *": NOT_IN_STEP,
    },
    "pubsub-cron": {
        "conn 1 * engine::workers::register #2 is added": CONFIRMED,
        "conn 1 in another order: *": NOT_IN_STEP,
    },
    "http-function": {
        "conn 1 * engine::workers::register #2 is added": CONFIRMED,
        "conn 1 registerfunction rec::ext #1/invocation/url: *": "where the server listens",
    },
    "channels": {
        "conn 1 * engine::workers::register #2 is added": CONFIRMED,
        "conn 2 close #1 is added": ENDS_LATER,
        "conn 3 close #1 is added": "the recording leaves out answers to close frames",
    },
}


async def check_worker(name: str, recordings: list[str], seconds: float = 20) -> None:
    with fail_after(seconds):
        async with open_engine(port=None, http_port=0 if name == "http" else None) as engine:
            tap = Tap(engine)
            await SCENARIOS[name](tap)
    recorded = {
        conn + NEXT * number: texts
        for number, recording in enumerate(recordings)
        for conn, texts in said(load(recording)).items()
    }
    assert unexplained(compare_clients(recorded, tap.texts), COMMON | WORKER[name]) == []


@pytest.mark.parametrize("name", RECORDINGS)
async def test_our_worker_says_what_the_official_sdk_said(name: str) -> None:
    """Protocol §5 to §9, §12."""
    await check_worker(name, RECORDINGS[name])


@pytest.mark.parametrize("anyio_backend", ["virtual"], indirect=True)
async def test_our_worker_hears_topics_and_ticks_as_the_official_sdk_did() -> None:
    """PS-…, CR-…."""
    await check_worker("pubsub-cron", ["pubsub-cron"], YEAR)


def test_the_installed_sdk_is_the_one_that_was_recorded() -> None:
    assert version("iii-sdk") == "0.25.0"


# -- the comparison itself -------------------------------------------------------------------------------------------


def test_a_difference_must_be_listed_and_a_listed_one_must_occur() -> None:
    found = ["a:1/x is added", "a:2/y: 1, not 2"]
    assert unexplained(found, {"a:1/x is added": "why", "a:*/y: *": "why"}) == []
    assert unexplained(found, {"a:1/* is added": "why", "a:3/z is missing": "why"}) == [
        "not listed: a:2/y: 1, not 2",
        "does not occur: a:3/z is missing",
    ]


def test_what_two_conversations_have_not_in_common_is_found() -> None:
    one, two = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
    call: dict[str, Any] = {
        "type": "invokefunction",
        "function_id": "f",
        "invocation_id": one,
        "data": {"a": [1, {"b": 2}]},
    }
    answer: dict[str, Any] = {"type": "invocationresult", "function_id": "f", "invocation_id": one, "result": 1}
    same = [{**call, "invocation_id": two}, {**answer, "invocation_id": two}]
    assert compare_clients({1: [call, answer]}, {1: same}) == []
    assert compare_clients({1: [call, answer]}, {1: same[::-1]}) == [
        "conn 1 in another order: invocationresult f #1, invokefunction f #1"
    ]
    other = [{**call, "data": {"a": [1, {"b": True, "c": 3}]}}, {**answer, "invocation_id": two}, {"type": "pong"}]
    assert compare_clients({1: [call, answer]}, {1: other, 2: []}) == [
        "conn 1 invokefunction f #1/data/a/1/b: true, not 2",
        "conn 1 invokefunction f #1/data/a/1/c is added",
        f'conn 1 invocationresult f #1/invocation_id: "{two}", not "{one}"',
        "conn 1 pong #1 is added",
    ]
    assert compare_clients({1: [call, answer]}, {1: [call]}) == ["conn 1 invocationresult f #1 is missing"]
