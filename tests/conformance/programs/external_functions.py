"""Functions that the engine finds by HTTP, and the server behind them."""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from iii import InitOptions, InvocationError, register_worker
from iii_helpers.http import HttpAuthBearer, HttpInvocationConfig

requests: list[tuple[str, str | None, str | None, Any]] = []
handles: dict[str, Any] = {}


class Legacy(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        requests.append((self.command, self.headers["x-tenant"], self.headers["authorization"], body))
        answer = json.dumps({"path": self.path, "n": body.get("n")}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None: ...


def register(iii: Any) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Legacy)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    handles["server"], handles["thread"] = server, thread
    os.environ["LEGACY_TOKEN"] = "t0ken"
    handles["function"] = iii.register_function(
        "legacy::order",
        HttpInvocationConfig(
            url=f"http://127.0.0.1:{server.server_port}/order",
            method="PUT",
            timeout_ms=5000,
            headers={"x-tenant": "acme"},
            auth=HttpAuthBearer(token_key="LEGACY_TOKEN"),
        ),
        description="Lives elsewhere",
    )


def use(iii: Any) -> None:
    try:
        assert iii.trigger({"function_id": "legacy::order", "payload": {"n": 1}}) == {"path": "/order", "n": 1}
        ((method, tenant, token, body),) = requests
        assert (method, tenant, token, body["n"]) == ("PUT", "acme", "Bearer t0ken", 1)
        handles["function"].unregister()
        with pytest.raises(InvocationError):
            iii.trigger({"function_id": "legacy::order", "payload": {"n": 2}})
    finally:
        handles["server"].shutdown()
        handles["thread"].join()
        handles["server"].server_close()
    assert len(requests) == 1


def main() -> None:
    iii = register_worker(os.environ["III_URL"], InitOptions(worker_name="legacy"))
    try:
        register(iii)
        use(iii)
    finally:
        iii.shutdown()


if __name__ == "__main__":
    main()
