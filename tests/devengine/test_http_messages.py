"""What functions get of a request, and what becomes of their answers (H-18 to H-49, H-54 to H-57)."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iii_anyio.devengine._http_messages import (
    CorsOptions,
    RequestHead,
    Response,
    condition_not_met,
    condition_payload,
    cors_headers,
    function_failed,
    handler_payload,
    header_map,
    is_response,
    json_body,
    method_not_allowed,
    middleware_payload,
    not_found,
    overloaded,
    payload_too_large,
    preflight,
    query_map,
    read_middleware,
    read_result,
    request_traceparent,
    timed_out,
    with_cors,
)
from iii_anyio.devengine._routes import Match, Route

JSON_TYPE = (b"content-type", b"application/json")
REQUEST_BODY = {"channel_id": "c1", "access_key": "k1", "direction": "read"}
RESPONSE = {"channel_id": "c2", "access_key": "k2", "direction": "write"}


def matched(api_path: str = "e2/:id", **params: str) -> Match:
    return Match(Route("t", "f", api_path, "POST"), params)


# ---------------------------------------------------------------- the request


def test_a_handler_gets_these_nine_keys() -> None:  # H-18, H-19, H-27
    head = RequestHead("POST", {"host": "h"}, {"q": "1"})
    payload = handler_payload(matched(id="9"), head, {"z": 1}, request_body=REQUEST_BODY, response=RESPONSE)
    assert payload == {
        "path_params": {"id": "9"},
        "query_params": {"q": "1"},
        "headers": {"host": "h"},
        "path": "e2/:id",
        "method": "POST",
        "body": {"z": 1},
        "trigger": {"type": "http", "path": "e2/:id", "method": "POST"},
        "request_body": REQUEST_BODY,
        "response": RESPONSE,
    }


def test_a_condition_gets_the_same_without_channels() -> None:  # T-17
    head = RequestHead("GET", {}, {})
    payload = handler_payload(matched(), head, None, request_body=REQUEST_BODY, response=RESPONSE)
    assert condition_payload(payload) == {
        key: value for key, value in payload.items() if key not in {"request_body", "response"}
    }
    assert len(payload) == 9


def test_middleware_gets_no_body_path_or_trigger() -> None:  # H-29
    assert middleware_payload(matched(id="7"), RequestHead("GET", {"host": "h"}, {"q": "1"})) == {
        "phase": "preHandler",
        "context": {},
        "request": {
            "path_params": {"id": "7"},
            "query_params": {"q": "1"},
            "headers": {"host": "h"},
            "method": "GET",
        },
    }


def test_payloads_are_those_of_a_recorded_conversation() -> None:
    """``transcripts/http.jsonl``: POST /rec/a%20b?x=1&x=2&y=z, and what its condition and middleware get."""
    headers = {"content-length": "13", "content-type": "application/json", "host": "127.0.0.1:3199"}
    head = RequestHead("POST", headers, query_map(b"x=1&x=2&y=z"))
    payload = handler_payload(
        matched("rec/:id", id="a%20b"), head, json_body(b'{"v": [1, 2]}'), request_body=REQUEST_BODY, response=RESPONSE
    )
    assert sorted(payload) == [
        "body", "headers", "method", "path", "path_params", "query_params", "request_body", "response", "trigger",
    ]  # fmt: skip
    assert payload["body"] == {"v": [1, 2]}
    assert payload["query_params"] == {"x": "2", "y": "z"}
    assert payload["trigger"] == {"method": "POST", "path": "rec/:id", "type": "http"}


@pytest.mark.parametrize(
    ("query", "params"),
    [
        (b"", {}),
        (b"q=1&q=2", {"q": "2"}),
        (b"flag&x=", {"flag": "", "x": ""}),
        (b"e=+x%20y", {"e": " x y"}),
        (b"a[]=1&a[]=2", {"a[]": "2"}),
        (b"a=%zz&b=%&c=%4", {"a": "%zz", "b": "%", "c": "%4"}),
        (b"a=%ff%C3%A9", {"a": "\ufffd\u00e9"}),
        (b"a=1=2&&=v&", {"a": "1=2", "": "v"}),
        (b"p=%2B%26%3D", {"p": "+&="}),
        (b"a;b=1", {"a;b": "1"}),
    ],
)
def test_the_query_is_form_decoded_to_strings(query: bytes, params: dict[str, str]) -> None:  # H-21
    assert query_map(query) == params


@given(st.binary(max_size=60))
def test_any_query_gives_strings(query: bytes) -> None:
    for key, value in query_map(query).items():
        assert json.loads(json.dumps([key, value])) == [key, value]
        (key + value).encode()  # no lone surrogates: a payload must be JSON


def test_of_repeated_headers_the_last_counts_and_unprintable_values_are_empty() -> None:  # H-22
    raw = [
        (b"X-A", b"1"),
        (b"x-a", b"2"),
        (b"X-Tab", b"a\tb"),
        (b"x-utf", "é".encode()),
        (b"x-nul", b"a\x00"),
        (b"x-del", b"a\x7f"),
    ]
    assert header_map(raw) == {"x-a": "2", "x-tab": "a\tb", "x-utf": "", "x-nul": "", "x-del": ""}


@pytest.mark.parametrize(
    ("content_type", "parsed"),
    [
        ("application/json", True),
        ("application/json; charset=utf-8", True),
        ("text/x, application/json", True),
        ("Application/JSON", False),
        ("application/vnd.api+json", False),
        ("text/plain", False),
    ],
)
def test_json_is_told_by_a_case_sensitive_substring(content_type: str, parsed: bool) -> None:  # H-23
    assert RequestHead("POST", {"content-type": content_type}, {}).has_json is parsed
    assert not RequestHead("POST", {}, {}).has_json


@pytest.mark.parametrize("raw", [b"", b"{", b"{'a': 1}", b"NaN", b"\xff", b'"\\ud800"', b"[" * 5000, b"1 2", b"nul"])
def test_a_body_that_is_no_json_is_null(raw: bytes) -> None:  # H-24
    assert json_body(raw) is None


def test_json_bodies_are_parsed() -> None:
    assert json_body(b'{"b": [1, null, "\xc3\xa9"]}') == {"b": [1, None, "é"]}
    assert json_body(b"false") is False


def test_a_trace_begins_with_the_request_or_goes_on() -> None:
    one, other = request_traceparent({}), request_traceparent({})
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", one)
    assert one[3:35] != other[3:35]
    inbound = f"00-{'a' * 32}-{'b' * 16}-00"
    continued = request_traceparent({"traceparent": inbound})
    assert continued.startswith(f"00-{'a' * 32}-")
    assert continued.endswith("-00")
    assert continued[36:52] != "b" * 16


@pytest.mark.parametrize(
    "bad",
    [
        "", "x", f"00-{'0' * 32}-{'b' * 16}-01", f"00-{'a' * 32}-{'0' * 16}-01", f"ff-{'a' * 32}-{'b' * 16}-01",
        f"00-{'A' * 32}-{'b' * 16}-01", f"00-{'a' * 31}-{'b' * 16}-01",
    ],
)  # fmt: skip
def test_a_malformed_traceparent_begins_a_new_trace(bad: str) -> None:
    made = request_traceparent({"traceparent": bad})
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", made)
    assert "a" * 31 not in made


# ---------------------------------------------------------------- middleware answers


@pytest.mark.parametrize(
    "answer",
    [None, True, 5, "respond", [], {}, {"action": "continue"}, {"action": "stop"}, {"action": None}, {"action": []}],
)
def test_anything_but_respond_means_continue(answer: object) -> None:  # H-30
    assert read_middleware(answer) is None


def test_middleware_responds_with_json() -> None:  # H-31
    answer = {
        "action": "respond",
        "response": {"status_code": 403, "body": {"b": 1, "a": "é"}, "headers": {"X-A": "1"}},
    }
    made = read_middleware(answer)
    assert made is not None
    assert (made.status, made.body) == (403, '{"a":"é","b":1}'.encode())
    assert made.headers == [(b"x-a", b"1"), JSON_TYPE]
    assert not made.problems


@pytest.mark.parametrize("response", [{}, None, "x", []])
def test_a_middleware_response_is_200_and_null_by_default(response: object) -> None:  # H-31
    made = read_middleware({"action": "respond", "response": response})
    assert made is not None
    assert (made.status, made.body, made.headers) == (200, b"null", [JSON_TYPE])
    assert read_middleware({"action": "respond"}) == made


@pytest.mark.parametrize("status", ["201", 201.0, True, None, 99, 1000, -1, 65736, [201]])
def test_a_middleware_status_that_is_none_is_200(status: object) -> None:  # H-31
    made = read_middleware({"action": "respond", "response": {"status_code": status}})
    assert made is not None
    assert made.status == 200


def test_a_string_body_of_middleware_stays_quoted_under_any_content_type() -> None:  # H-31, H-32
    made = read_middleware({"action": "respond", "response": {"body": "no", "headers": {"Content-Type": "text/plain"}}})
    assert made is not None
    assert made.body == b'"no"'
    assert made.headers == [(b"content-type", b"text/plain")]


@pytest.mark.parametrize("headers", [{"X-A": "1", "X-B": 2}, ["X-A: 1"], "X-A: 1"])
def test_one_bad_middleware_header_drops_all(headers: object) -> None:  # H-32
    made = read_middleware({"action": "respond", "response": {"headers": headers}})
    assert made is not None
    assert made.headers == [JSON_TYPE]
    assert made.problems


# ---------------------------------------------------------------- handler results


@pytest.mark.parametrize(
    ("status", "sent"),
    [
        (201, 201), (100, 100), (999, 999), (99, 200), (1000, 200), (70000, 200), (65736, 200), (65737, 201), (0, 200),
        (-1, 200), ("201", 200), (201.0, 200), (True, 200), (None, 200), ([201], 200),
    ],
)  # fmt: skip
def test_the_status_is_an_integer_modulo_65536_or_200(status: object, sent: int) -> None:  # H-37
    assert read_result({"status_code": status}).status == sent


def test_status_code_in_camel_case_is_ignored() -> None:  # H-37
    assert read_result({"statusCode": 404, "body": 1}).status == 200


@pytest.mark.parametrize("result", ["hello", 5, [1], False, True, 0.5, {"a": 1}, {}, {"statusCode": 404}])
def test_a_result_that_is_no_response_is_200_and_an_empty_object(result: object) -> None:  # H-38
    assert not is_response(result)
    assert read_result(result) == Response(200, [JSON_TYPE], b"{}")


def test_an_absent_body_is_an_empty_object() -> None:  # H-38
    assert is_response({"status_code": 204})
    assert read_result({"status_code": 204}).body == b"{}"


JSON_BODIES: list[tuple[Any, bytes]] = [
    ("txt", b'"txt"'),
    ("", b'""'),
    (None, b"null"),
    (True, b"true"),
    (1.5, b"1.5"),
    ([1, {"b": 2, "a": [{"d": 1, "c": 2}]}], b'[1,{"a":[{"c":2,"d":1}],"b":2}]'),
    ({"é": "ü"}, '{"é":"ü"}'.encode()),
]


@pytest.mark.parametrize(("body", "sent"), JSON_BODIES)
def test_without_a_content_type_every_body_is_json(body: Any, sent: bytes) -> None:  # H-40
    assert read_result({"body": body}) == Response(200, [JSON_TYPE], sent)
    assert read_result({"body": body, "headers": {"X-Ok": "1"}}).headers == [(b"x-ok", b"1"), JSON_TYPE]


@pytest.mark.parametrize("name", ["content-type", "Content-Type"])
@pytest.mark.parametrize("content_type", ["text/xml", "application/json", "application/json; charset=utf-8"])
@pytest.mark.parametrize(
    ("body", "sent"),
    [("<r/>", b"<r/>"), ("", b""), ("é", "é".encode()), (None, b""), ({"b": 1, "a": 2}, b'{"a":2,"b":1}'), (5, b"5")],
)
def test_with_a_content_type_strings_are_raw_and_null_is_empty(
    name: str, content_type: str, body: Any, sent: bytes
) -> None:  # H-40
    made = read_result({"headers": {name: content_type}, "body": body})
    assert made.headers == [(b"content-type", content_type.encode())]
    assert made.body == sent


def test_the_examples_of_the_specification() -> None:
    assert read_result({"status_code": 201, "body": {"created": True}}) == Response(
        201, [JSON_TYPE], b'{"created":true}'
    )
    assert read_result({"headers": {"Content-Type": "application/json"}, "body": "raw"}).body == b"raw"
    assert read_result({"status_code": 404, "headers": {"X-Ok": "1"}, "body": "<p>"}) == Response(
        404, [(b"x-ok", b"1"), JSON_TYPE], b'"<p>"'
    )


def test_a_list_of_lines_can_repeat_a_header() -> None:  # H-39
    made = read_result({"headers": ["Set-Cookie: a=1", "Set-Cookie:b=2", "Content-Type: text/plain"], "body": "x:y"})
    assert made.headers == [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"content-type", b"text/plain")]
    assert made.body == b"x:y"
    assert not made.problems


def test_object_headers_say_each_name_once_and_need_strings() -> None:  # H-39
    made = read_result({"headers": {"X-A": "1", "X-N": 5, "X-Z": None, "x-a": "2"}})
    assert made.headers == [(b"x-a", b"2"), JSON_TYPE]
    assert made.problems == ["malformed header 'x-n'", "malformed header 'x-z'"]


@pytest.mark.parametrize("headers", [5, "X-A: 1", True])
def test_headers_of_another_kind_are_none(headers: object) -> None:
    assert read_result({"headers": headers}).headers == [JSON_TYPE]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A", "1\r\nSet-Cookie: evil=1"), ("X-A", "1\nb"), ("X-A", "1\rb"), ("X-A", "a\x00b"), ("X-A", "\x7f"),
        ("X-A\r\nX-B", "1"), ("X A", "1"), ("", "1"), ("X:A", "1"), ("X-é", "1"), (" X", "1"), ("X\x00", "1"),
    ],
)  # fmt: skip
def test_headers_cannot_be_smuggled(name: str, value: str) -> None:  # H-39
    made = read_result({"headers": {name: value, "X-Good": "1"}})
    assert made.headers == [(b"x-good", b"1"), JSON_TYPE]
    assert len(made.problems) == 1
    assert "\n" not in made.problems[0]
    assert "\r" not in made.problems[0]


@given(
    st.one_of(
        st.dictionaries(st.text(max_size=8), st.one_of(st.text(max_size=8), st.integers())),
        st.lists(st.one_of(st.text(max_size=16), st.integers())),
    )
)
def test_whatever_headers_a_handler_gives_those_sent_are_well_formed(headers: Any) -> None:
    for made in (
        read_result({"headers": headers}),
        read_middleware({"action": "respond", "response": {"headers": headers}}),
    ):
        assert made is not None
        for name, value in made.headers:
            assert re.fullmatch(rb"[!#$%&'*+\-.^_`|~0-9a-z]+", name)
            assert not re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", value)
            assert name not in {b"content-length", b"transfer-encoding", b"connection"}


@pytest.mark.parametrize("name", ["Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "Date", "Keep-Alive"])
def test_framing_headers_are_left_to_the_server(name: str) -> None:
    made = read_result({"headers": {name: "1"}})
    assert made.headers == [JSON_TYPE]
    assert made.problems == [f"header {name.lower()!r}, which the server sets"]


# ---------------------------------------------------------------- errors


def error_of(response: Response) -> dict[str, Any]:
    assert response.headers == [JSON_TYPE]
    return json.loads(response.body)


def test_a_failed_function_gives_500_with_its_code_and_an_error_id() -> None:  # H-42, H-49
    made = function_failed("invocation_failed", "boom!")
    body = error_of(made)
    assert made.status == 500
    error_id = body["error"].pop("error_id")
    assert re.fullmatch("[0-9a-f]{1,12}", error_id)
    assert body == {"error": {"code": "invocation_failed", "message": "boom!"}}


def test_only_a_500_has_an_error_id() -> None:  # H-41, H-45, H-49
    assert (not_found().status, error_of(not_found())) == (
        404,
        {"error": {"code": "NOT_FOUND", "message": "Not Found"}},
    )
    assert (condition_not_met().status, error_of(condition_not_met())) == (
        422,
        {"error": {"code": "CONDITION_NOT_MET", "message": "Request condition not met"}, "skipped": True},
    )
    for made, status in ((payload_too_large(10), 413), (overloaded(), 503)):
        assert made.status == status
        assert sorted(error_of(made)["error"]) == ["code", "message"]


def test_405_and_504_are_empty() -> None:  # H-44, H-46
    assert method_not_allowed(("GET", "HEAD")) == Response(405, [(b"allow", b"GET,HEAD")])
    assert timed_out() == Response(504, has_cors=False)


# ---------------------------------------------------------------- CORS

VARY = (b"vary", b"origin, access-control-request-method, access-control-request-headers")
ANY_ORIGIN = (b"access-control-allow-origin", b"*")


@pytest.mark.parametrize("origin", [None, b"http://a.example"])
def test_without_cors_options_every_origin_is_allowed(origin: bytes | None) -> None:  # H-55
    assert cors_headers(None, origin) == [ANY_ORIGIN, (b"access-control-expose-headers", b"*"), VARY]
    assert preflight(None, origin) == Response(
        200,
        [ANY_ORIGIN, (b"access-control-allow-methods", b"*"), (b"access-control-allow-headers", b"*"), VARY],
        has_cors=False,
    )


@pytest.mark.parametrize(
    ("allowed", "origin", "sent"),
    [
        ([], b"http://a.example", [ANY_ORIGIN]),
        (["http://b.example", "*"], None, [ANY_ORIGIN]),
        (["http://a.example"], b"http://a.example", [(b"access-control-allow-origin", b"http://a.example")]),
        (["http://a.example"], b"http://b.example", []),
        (["http://a.example"], b"HTTP://A.example", []),
        (["http://a.example"], None, []),
        (["http://a.example"], b"\xff", []),
    ],
)
def test_a_listed_origin_is_echoed(
    allowed: list[str], origin: bytes | None, sent: list[tuple[bytes, bytes]]
) -> None:  # H-56
    assert cors_headers(CorsOptions(allowed_origins=allowed), origin) == [*sent, VARY]


def test_a_preflight_joins_the_allowed_methods() -> None:  # H-57
    made = preflight(CorsOptions(["http://a.example"], ["GET", "POST"]), b"http://b.example")
    assert made.headers == [
        (b"access-control-allow-methods", b"GET,POST"),
        (b"access-control-allow-headers", b"*"),
        VARY,
    ]
    assert made.body == b""


def test_cors_headers_replace_a_functions_own_but_vary_is_added_to() -> None:
    own = [(b"access-control-allow-origin", b"http://own.example"), (b"vary", b"cookie"), (b"x-a", b"1")]
    assert with_cors(Response(200, own), cors_headers(None, None)) == [
        (b"vary", b"cookie"),
        (b"x-a", b"1"),
        *cors_headers(None, None),
    ]
    kept = with_cors(Response(200, own), cors_headers(CorsOptions(["http://a.example"]), b"http://b.example"))
    assert kept == [*own, VARY]


def test_a_timeout_has_no_cors_headers() -> None:  # H-44
    assert with_cors(timed_out(), cors_headers(None, None)) == []
