"""The pictures of ``docs/performance.md``, from one run's figures."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
COLOURS = {
    "bare": "#9aa0a6",
    "iii-sdk": "#d98e04",
    "node": "#5a9e4b",
    "asyncio": "#3b6fb6",
    "uvloop": "#6f9ad3",
    "trio": "#23457a",
}


def draw(figures: dict[str, Any], grown: dict[str, Any]) -> None:
    """Write ``benchmarks.svg`` and ``growth.svg``."""
    plt: Any = import_module("matplotlib.pyplot")
    plt.rcParams.update({"svg.hashsalt": "iii_anyio", "font.size": 9, "axes.spines.top": False})
    plt.rcParams["axes.spines.right"] = False
    PICTURES.mkdir(parents=True, exist_ok=True)
    draw_rates(plt, figures)
    draw_growth(plt, grown)


def draw_rates(plt: Any, figures: dict[str, Any]) -> None:
    """Calls a second as multiples of iii-sdk's."""
    cases = [case for case, kinds in figures.items() if "iii-sdk" in kinds]
    figure, axes = plt.subplots(figsize=(8, 0.75 * len(cases)))
    for row, case in enumerate(cases):
        kinds = figures[case]
        base = kinds["iii-sdk"]["rate"]
        height = 0.8 / len(kinds)
        for number, (kind, report) in enumerate(kinds.items()):
            axes.barh(
                row + number * height,
                report["rate"] / base,
                height,
                color=COLOURS[kind],
                label=kind if row == 0 else None,
            )
    axes.set_yticks([row + 0.35 for row in range(len(cases))], cases)
    axes.invert_yaxis()
    axes.set_xlabel("calls a second, iii-sdk = 1")
    axes.legend(frameon=False, ncols=3, loc="lower right")
    save(plt, figure, "benchmarks.svg")


def draw_growth(plt: Any, grown: dict[str, Any]) -> None:
    """CPU of a call by what grows, both axes logarithmic."""
    curves = grown["cpu_us"]
    figure, several = plt.subplots(1, len(curves), figsize=(11, 2.6))
    for axes, (name, curve) in zip(several, curves.items(), strict=True):
        axes.loglog([at for at, _ in curve], [value for _, value in curve], marker="o", markersize=3, color="#3b6fb6")
        axes.set_title(name, fontsize=9)
        low = min(value for _, value in curve)
        axes.set_ylim(low / 3, max(30 * low, 3 * max(value for _, value in curve)))
    several[0].set_ylabel("CPU µs a call")
    save(plt, figure, "growth.svg")


def save(plt: Any, figure: Any, name: str) -> None:
    """Write one picture, the same bytes for the same figures."""
    figure.tight_layout()
    figure.savefig(PICTURES / name, metadata={"Date": None})
    plt.close(figure)
