"""The engine's configuration file, and what of it arguments replace (§8.1)."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio import fail_after

from iii_anyio import InitOptions, InvocationError, open_worker
from iii_anyio.devengine import Engine, Listener, open_engine
from iii_anyio.devengine._config import Arguments, EngineConfig, Settings, load_config, read_config, settle
from iii_anyio.devengine._yaml import Document, expand, read_yaml

UPSTREAM = """
# ${III_TEST_COMMENT:comments are expanded too}
registration_namespace_grace_ms: 1500
workers:
  - name: iii-worker-manager
    config:
      port: ${III_TEST_PORT:49199}
      host: 127.0.0.1
  - name: iii-worker-manager
    config:
      port: 49135
      handshake_timeout_ms: 2500
      middleware_function_id: test::middleware
      rbac:
        auth_function_id: test::auth
        on_function_registration_function_id: test::on-function
        expose_functions:
          - match("test::ew::public::*")
          - match('engine::functions::list')
          - match: "orders::*"
            namespace: orders
          - metadata: { ew_public: true, tier: match("pro*") }
  - name: iii-http
    config:
      port: 3199
      default_timeout: 2000
      concurrency_request_limit: 0
      cors: { allowed_origins: ["*"], allowed_methods: [GET] }
      middleware:
        - function_id: mw::a
          priority: 2
  - name: iii-state
    config: { adapter: { name: kv, config: { store_method: file_based } } }
modules:
  - name: iii-stream
"""


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("III_NAMESPACE_GRACE_MS", "III_TEST_PORT", "III_TEST_COMMENT"):
        monkeypatch.delenv(name, raising=False)


def read(text: str) -> EngineConfig:
    return read_config(read_yaml(expand(text, "config.yaml"), "config.yaml"))


def settled(config: Any = None, **given: Any) -> Settings:
    """Settings of ``open_engine(**given)`` with a configuration in Python."""
    defaults: dict[str, Any] = {
        "host": None, "port": -1, "http_port": -1, "stream_port": -1, "listeners": None, "allow_remote": False,
        "namespace_grace": None, "http": None, "workers": None,
    }  # fmt: skip
    return settle(Arguments(**{**defaults, **given}), None if config is None else read_config(Document(config)))


def workers(*names: str, **configs: Any) -> dict[str, Any]:
    """A configuration with these workers; keyword arguments have underscores for hyphens."""
    entries: list[Any] = [{"name": name} for name in names]
    entries += [{"name": name.replace("_", "-"), "config": config} for name, config in configs.items()]
    return {"workers": entries}


# -- the file --------------------------------------------------------------------------------------------------------


def test_a_file_as_upstreams_is_understood() -> None:
    """EC-1, EC-3, EC-4, RB-2, RB-10."""
    config = read(UPSTREAM)
    assert config.grace == 1.5
    trusted, guarded = config.listeners
    assert trusted == Listener(port=49199)
    assert (guarded.port, guarded.host, guarded.handshake_timeout) == (49135, "127.0.0.1", 2.5)
    assert guarded.middleware_function_id == "test::middleware"
    assert guarded.rbac is not None
    assert guarded.rbac.auth_function_id == "test::auth"
    assert guarded.rbac.on_trigger_registration_function_id is None
    public, listing, orders, tagged = guarded.rbac.rules
    assert (public.pattern, listing.pattern) == ("test::ew::public::*", "engine::functions::list")
    assert (orders.pattern, orders.namespace) == ("orders::*", "orders")
    assert tagged.covers("any", "default", {"ew_public": True, "tier": "pro-1"})
    assert config.workers["iii-http"]["middleware"] == [{"function_id": "mw::a", "priority": 2}]
    assert config.addresses["iii-http"].port == 3199
    assert config.addresses["iii-stream"].port == 3112
    assert config.workers["iii-state"] == {"adapter": {"name": "kv", "config": {"store_method": "file_based"}}}
    assert config.workers["iii-stream"] == {}


@pytest.mark.parametrize("text", ["", "# nothing\n", "workers: []", "modules: []\nworkers: []"])
def test_an_empty_file_is_the_mandatory_workers_and_one_listener(text: str) -> None:
    """EC-5, RB-3."""
    settings = settle(Arguments(host=None, port=-1, http_port=-1, stream_port=-1, listeners=None, allow_remote=False,
                                namespace_grace=None, http=None, workers=None), read(text))  # fmt: skip
    assert settings.listeners == (Listener(),)
    assert (settings.http_address, settings.stream_address, settings.grace) == (None, None, 5.0)
    assert settings.has_service("iii-observability")
    assert settings.has_service("configuration")
    assert not settings.has_service("iii-http")
    assert not settings.has_service("iii-state")


def test_variables_are_expanded_in_the_text_so_yaml_decides_their_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """EC-3."""
    environment = {"PORT": "12", "EMPTY": "", "LINES": "a\nb"}
    assert expand("${PORT} ${PORT:9} ${NONE:9} ${NONE:} [${EMPTY:x}]", "f", environment) == "12 12 9  []"
    assert expand("${LINES} $PORT $${PORT} ${NONE:a:b$c}", "f", environment) == "a\nb $PORT $12 a:b$c"
    monkeypatch.setenv("III_TEST_PORT", "1234")
    assert read(UPSTREAM).listeners[0].port == 1234
    with pytest.raises(ValueError, match=r"config\.yaml:2: environment variable III_TEST_NONE is not set"):
        expand("a: 1\n# ${III_TEST_NONE}", "config.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("~", None),
        ("null", None),
        ("0x1f", 31),
        ("0o17", 15),
        ("-7", -7),
        ("1e3", 1000.0),
        (".inf", float("inf")),
        ("2024-01-01", "2024-01-01"),
        ("'12'", "12"),
        ("[1, [2]]", [1, [2]]),
        ("{404: a}", {"404": "a"}),
        ("&x [1]", [1]),
    ],
)
def test_values_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    """As upstream's engine reads them: there are no dates, and yes is a word."""
    read_value = read_yaml(f"v: {text}", "f").value["v"]
    assert (read_value, type(read_value)) == (value, type(value))


def test_an_alias_is_read_once_however_often_it_is_used() -> None:
    """Nine times nine levels would be a billion values."""
    levels = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 10))
    assert len(read_yaml(f"l0: &l0 [x]\n{levels}", "f").value["l9"]) == 9
    with pytest.raises(ValueError, match="inside itself"):
        read_yaml("a: &x [*x]", "f")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("worker: []", "config.yaml:1: worker: unknown key; known are modules"),
        ("workers:", "config.yaml:1: workers: must be a list; write [] for none"),
        ("- a", "config.yaml:1: must be a mapping"),
        ("workers:\n- iii-http", "config.yaml:2: workers[0]: must be a mapping"),
        ("workers:\n- config: {}", "config.yaml:2: workers[0].name: is required"),
        ("workers:\n- name: 7", "workers[0].name: must be text"),
        ("workers:\n- name: iii-http\n  image: x", "config.yaml:3: workers[0].image: iii-http is built in"),
        ("workers:\n- name: iii-http\n  config: 7", "config.yaml:3: workers[0].config: must be a mapping"),
        ("workers:\n- name: iii-http\n- name: http", "config.yaml:3: workers[1]: iii-http and http do the same work"),
        ("registration_namespace_grace_ms: -1", "grace_ms: must be a whole number, 0 or more"),
        ("registration_namespace_grace_ms: true", "grace_ms: must be a whole number"),
        ("a: 1\na: 2", "config.yaml:2: a: the key is there twice"),
        ("a: [1\nb: 2", "config.yaml:2: not YAML"),
        ("a: 1\n---\nb: 2", "not YAML"),
        ("a: \x00", "not YAML"),
        ("? [a]\n: b", "no text"),
        ("a: " + "[" * 1000, "config.yaml"),
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_key(text: str, problem: str) -> None:
    """EC-1, EC-2, EC-7."""
    with pytest.raises(ValueError, match=r"config\.yaml") as failure:
        read(text)
    assert problem in str(failure.value)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("ports: 1", "unknown key"),
        ("port: 70000", "from 0 to 65535"),
        ("port: '1'", "from 0 to 65535"),
        ("port: null", "from 0 to 65535"),
        ("host: ''", "must be text"),
        ("handshake_timeout_ms: 0", "1 or more"),
        ("rbac: {expose_functions: 'x'}", "must be a list of rules"),
        ("rbac: {expose_functions: [api]}", "rbac.expose_functions[0]: 'api' is no rule; write match(\"api\")"),
        ("rbac: {auth_function_id: 3}", "rbac.auth_function_id: must be text"),
        ("rbac: 3", "must be a mapping"),
    ],
)
def test_a_wrong_listener_is_named(config: str, problem: str) -> None:
    """RB-2, RB-10."""
    with pytest.raises(ValueError, match=r"config\.yaml:3: workers\[0\]\.config") as failure:
        read(f"workers:\n- name: iii-worker-manager\n  config: {{{config}}}")
    assert problem in str(failure.value)


def test_unknown_keys_inside_rbac_only_warn(caplog: pytest.LogCaptureFixture) -> None:
    """RB-2: unlike those one level up."""
    read("workers:\n- name: iii-worker-manager\n  config:\n    rbac: {auth_function: x}")
    assert "config.yaml:4: workers[0].config.rbac.auth_function: an unknown key" in caplog.text


# -- workers ---------------------------------------------------------------------------------------------------------


def test_names_of_the_stand_alone_workers_mean_the_built_in_ones() -> None:
    """EC-7."""
    settings = settled(workers("queue", "http", state={"a": 1}))
    assert settings.has_service("iii-queue")
    assert settings.workers["iii-state"] == {"a": 1}
    assert settings.http_address is not None


def test_only_the_first_entry_of_a_built_in_worker_is_used(caplog: pytest.LogCaptureFixture) -> None:
    """EC-4: upstream runs both; nothing is dropped in silence."""
    config = read("workers:\n- name: iii-state\n  config: {n: 1}\n- name: iii-state\n  config: {n: 2}")
    assert config.workers["iii-state"] == {"n": 1}
    assert "config.yaml:4: workers[1]: only the first entry of iii-state" in caplog.text


def test_workers_that_do_not_run_here_are_named_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    names = ["iii-http", "iii-telemetry", "iii-worker-manager", "configuration", "iii-exec", "resizer"]
    config = read("workers:\n" + "".join(f"- name: {name}\n" for name in names))
    config.warn_unserved({"iii-http"}, "ws://127.0.0.1:1")
    assert [line.partition(" this engine")[0] for line in caplog.messages] == [
        "config.yaml:6: workers[4]:",
        "config.yaml:7: workers[5]:",
    ]
    assert "iii-exec" in caplog.messages[0]
    assert "start it yourself with III_URL=ws://127.0.0.1:1" in caplog.messages[1]


def test_a_worker_named_in_arguments_is_started_and_its_config_replaces_the_files() -> None:
    config = workers("iii-cron", iii_state={"a": 1, "b": 2})
    settings = settled(config, workers={"iii-state": {"c": 3}, "queue": {}})
    assert settings.workers == {"iii-cron": {}, "iii-state": {"c": 3}, "iii-queue": {}}
    assert settings.has_service("iii-queue")


# -- arguments -------------------------------------------------------------------------------------------------------

TWO = {
    "workers": [
        {"name": "iii-worker-manager", "config": {"port": 1001}},
        {"name": "iii-worker-manager", "config": {"port": 1002, "rbac": {}}},
        {"name": "iii-http", "config": {"port": 1003}},
        {"name": "iii-stream", "config": {"port": 1004, "host": "::1"}},
    ]
}


@pytest.mark.parametrize(
    ("given", "listeners", "http", "stream"),
    [
        ({}, [1001, 1002], 1003, 1004),
        ({"port": 9}, [9, 1002], 1003, 1004),
        ({"port": 0}, [0, 0], 0, 0),
        ({"port": None}, [], None, None),
        ({"port": None, "http_port": 7}, [], 7, None),
        ({"port": 0, "stream_port": 8}, [0, 0], 0, 8),
        ({"http_port": None}, [1001, 1002], None, 1004),
        ({"listeners": [Listener(port=5)]}, [5], 1003, 1004),
    ],
)
def test_ports_of_arguments_go_before_those_of_the_file(
    given: dict[str, Any], listeners: list[int], http: int | None, stream: int | None
) -> None:
    settings = settled(TWO, **given)
    assert [listener.port for listener in settings.listeners] == listeners
    addresses = settings.http_address, settings.stream_address
    assert [address and address.port for address in addresses] == [http, stream]


def test_without_configuration_everything_is_started_on_the_usual_ports() -> None:
    settings = settled()
    assert settings.listeners == (Listener(),)
    assert settings.http_address is not None
    assert settings.stream_address is not None
    assert (settings.http_address.port, settings.stream_address.port) == (3111, 3112)
    assert settings.has_service("iii-queue")


def test_a_host_of_arguments_is_that_of_every_listener() -> None:
    settings = settled(TWO, host="127.0.0.2")
    assert {listener.host for listener in settings.listeners} == {"127.0.0.2"}
    assert settings.http_address is not None
    assert settings.stream_address is not None
    assert settings.http_address.host == settings.stream_address.host == "127.0.0.2"


def test_hosts_of_the_file_are_loopback_unless_guarded_or_allowed() -> None:
    """Upstream listens on 0.0.0.0 where the file says nothing; this engine on loopback."""
    assert settled(workers("iii-worker-manager")).listeners[0].host == "127.0.0.1"
    for config, what in (
        (workers(iii_worker_manager={"host": "0.0.0.0"}), "for workers"),
        (workers(iii_http={"host": "0.0.0.0"}), "HTTP server"),
        (workers(iii_stream={"host": "0.0.0.0"}), "streams"),
    ):
        with pytest.raises(ValueError, match=f"{what}.*--allow-remote"):
            settled(config)
        settled(config, allow_remote=True)
        settled(config, host="127.0.0.1")
    settled(workers(iii_worker_manager={"host": "0.0.0.0", "rbac": {"auth_function_id": "auth"}}))


def test_a_port_for_a_worker_that_is_left_out_is_an_error() -> None:
    with pytest.raises(ValueError, match="lists no worker iii-http"):
        settled({"workers": []}, http_port=3111)
    assert settled({"workers": []}, http_port=None).http_address is None
    assert settled({"workers": []}, http_port=3111, workers={"iii-http": {}}).http_address is not None


def test_the_grace_is_the_arguments_the_environments_or_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """EC-12."""
    config = {"registration_namespace_grace_ms": 1500}
    assert settled(config).grace == 1.5
    monkeypatch.setenv("III_NAMESPACE_GRACE_MS", "250")
    assert settled(config).grace == 0.25
    assert settled(config, namespace_grace=9.0).grace == 9.0
    monkeypatch.setenv("III_NAMESPACE_GRACE_MS", "soon")
    assert settled(config).grace == 1.5
    assert settled({}).grace == 5.0


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_config(tmp_path / "none.yaml")
    path = tmp_path / "c.yaml"
    path.write_bytes(b"workers: [] # \xff")
    with pytest.raises(ValueError, match=r"c\.yaml: not UTF-8"):
        load_config(path)
    path.write_bytes(b"\xef\xbb\xbfworkers: []")  # with a byte order mark
    assert load_config(str(path)) == EngineConfig()


# -- an engine -------------------------------------------------------------------------------------------------------


async def lists_http(engine: Engine) -> bool:
    async with open_worker(engine.url, InitOptions(worker_name="w", handle_signals=False)) as iii:
        found = await iii.trigger_async("engine::triggers::list", {"prefix": "http"})
        return found["triggers"] != []


@pytest.mark.anyio
@pytest.mark.parametrize("as_file", [True, False], ids=["file", "mapping"])
async def test_an_engine_starts_the_workers_of_its_configuration_and_no_others(as_file: bool, tmp_path: Path) -> None:
    """EC-5."""
    path = tmp_path / "config.yaml"
    with fail_after(20):
        path.write_text("workers:\n  - name: iii-http\n    config: {port: 3199}\n")
        async with open_engine(config=path if as_file else workers(iii_http={"port": 3199}), port=0) as engine:
            assert await lists_http(engine)
            assert engine.stream_url == ""
            async with open_worker(engine.url, InitOptions(worker_name="w", handle_signals=False)) as iii:
                with pytest.raises(InvocationError) as missing:
                    await iii.trigger_async("state::get", {"scope": "a", "key": "b"})
                assert missing.value.code == "function_not_found"
        path.write_text("workers: []\n")
        async with open_engine(config=str(path) if as_file else workers(), port=0) as engine:
            assert not await lists_http(engine)
            assert (engine.http_url, engine.stream_url) == ("", "")


@pytest.mark.anyio
async def test_a_wrong_file_keeps_the_engine_from_starting(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("worker: []\n")
    engine = open_engine(config=path, port=0)
    with fail_after(20), pytest.raises(ValueError, match=r"config\.yaml:1: worker: unknown key"):
        async with engine:
            pass


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["iii-state", "state"])
async def test_what_a_built_in_worker_refuses_is_named_with_file_and_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"workers:\n- name: {name}\n  config: {{adapter: 7}}\n")
    with fail_after(20), pytest.raises(ValueError, match=r"config\.yaml:2: workers\[0\]: iii-state: adapter"):
        async with open_engine(config=path, port=0):
            pass


@pytest.mark.anyio
async def test_the_http_block_of_the_file_takes_effect(tmp_path: Path) -> None:
    """H-55, by the header it adds."""
    path = tmp_path / "config.yaml"
    path.write_text("workers:\n- name: iii-http\n  config: {cors: {allowed_origins: ['https://a.example']}}\n")
    with fail_after(20):
        async with (
            open_engine(config=path, port=0) as engine,
            httpx.AsyncClient(trust_env=False, timeout=None) as client,
        ):
            answer = await client.get(engine.http_url, headers={"Origin": "https://a.example"})
            assert answer.headers["access-control-allow-origin"] == "https://a.example"


def test_the_command_line_reads_a_file_and_its_options_go_first(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "workers:\n- name: iii-worker-manager\n  config: {port: ${III_TEST_PORT:1}}\n"
        "- name: iii-worker-manager\n  config: {port: 2, host: 0.0.0.0, rbac: {}}\n- name: resizer\n"
    )
    command = [sys.executable, "-m", "iii_anyio", "dev", "--config", str(path), "--port", "0", "--host", "127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as engine:
        assert engine.stdout is not None
        assert engine.stderr is not None
        lines = [engine.stdout.readline().split() for _ in range(3)]
        engine.send_signal(signal.SIGTERM)
        assert engine.wait(30) == 0
        assert "resizer is not running" in engine.stderr.read()
    assert [line[0] for line in lines] == ["workers", "workers", "HTTP"]
    assert lines[0][1].startswith("ws://127.0.0.1:")
    path.write_text("workers: 3\n")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "config.yaml:1: workers: must be a list" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr
