"""Runs kosoku: ``kosoku_judge.py fuzzingclient URL [EXCLUDED ...]``, or ``fuzzingserver "" [EXCLUDED ...]``.

Prints one line of JSON, a list with an object for each case; as a server, its URL on a line before. Needs nothing but
kosoku, and is run by an interpreter that has it.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from typing import Any


async def main(mode: str, url: str, *excluded: str) -> None:
    kosoku: Any = importlib.import_module("kosoku")  # not where this file is checked
    try:
        if mode == "fuzzingclient":
            results = await kosoku.run_fuzzingclient(url, None, excluded, 2)
        else:
            async with kosoku.run_fuzzingserver(None, excluded, port=0) as server:
                print(f"ws://127.0.0.1:{server.port}", flush=True)
                results = await server.get_result()
    except kosoku.FailureError as failure:
        results = failure.results
    rows = [
        {
            "case": result.case_id,
            "behavior": result.behavior.value,
            "close": result.behavior_close.value,
            "result": result.result,
            "result_close": result.result_close,
        }
        for result in results
    ]
    print(json.dumps(rows), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
    os._exit(0)  # its threads now and then abort an orderly end
