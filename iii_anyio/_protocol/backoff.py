"""When to try the next connection: arithmetic on the attempt number and a random number."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ("Backoff",)


@dataclass(slots=True, frozen=True)
class Backoff:
    """Delays between connection attempts, in seconds (protocol §6.6, P-23)."""

    initial: float = 1.0
    maximum: float = 30.0
    multiplier: float = 2.0
    jitter: float = 0.3
    max_retries: int = -1

    def delay(self, attempt: int, random: float) -> float:
        """Seconds to wait before retry ``attempt`` (from 0); ``random`` is uniform in [0, 1)."""
        try:
            base = min(self.initial * self.multiplier**attempt, self.maximum)
        except OverflowError:  # the power alone is past 2 ** 1024
            base = self.maximum if self.initial else 0.0
        return max(0.0, base + base * self.jitter * (2.0 * random - 1.0))

    def is_exhausted(self, attempt: int) -> bool:
        """Whether retry ``attempt`` (from 0) is one too many (P-24)."""
        return 0 <= self.max_retries <= attempt
