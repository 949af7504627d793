"""``python -m iii_anyio``: the command line, without the script."""

from __future__ import annotations

import sys

from .cli import main

__all__ = ("main",)

if __name__ == "__main__":
    sys.exit(main())
