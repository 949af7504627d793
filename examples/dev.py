"""Keep an engine and the shop's worker running, for curl. Run with ``make dev``; Ctrl-C ends it."""

from __future__ import annotations

import anyio
import shop

from iii_anyio import InitOptions, open_worker
from iii_anyio.devengine import open_engine


async def main() -> None:
    """Serve until interrupted."""
    async with (
        open_engine() as engine,
        open_worker(engine.url, InitOptions(worker_name="shop")) as iii,
    ):
        shop.register(iii, "shop")
        await iii.wait_ready()
        await shop.define_queue(iii)
        print(f"engine {engine.url}, HTTP {engine.http_url}. Ctrl-C ends it. Try:\n")
        print(f"  curl '{engine.http_url}/prices'")
        order = '{"customer": "Ada", "lines": [{"sku": "tea", "quantity": 2}]}'
        print(f"  curl -i '{engine.http_url}/orders/A-1' -H 'content-type: application/json' -d '{order}'\n")
        await iii.serve()


if __name__ == "__main__":
    anyio.run(main)
