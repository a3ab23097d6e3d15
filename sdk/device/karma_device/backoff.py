import random
from collections.abc import Callable


class Backoff:
    """Delays between connection attempts: exponential, capped, with equal jitter.

    The n-th delay lies between half of and the whole of `min(cap_s, base_s * 2**n)`. A fleet that loses its broker at
    one moment therefore does not come back at one moment, and no device ever retries without a pause.
    """

    def __init__(
        self, *, base_s: float = 1.0, cap_s: float = 60.0, uniform: Callable[[float, float], float] = random.uniform
    ) -> None:
        if not 0 < base_s <= cap_s:
            raise ValueError("base_s must be above 0 and not above cap_s")
        self._base_s = base_s
        self._cap_s = cap_s
        self._uniform = uniform
        self._attempts = 0

    def next_delay_s(self) -> float:
        """Return the pause before the next attempt and count that attempt."""
        # 2**64 s is beyond any cap; the bound keeps the float from overflowing after years offline.
        ceiling = min(self._cap_s, self._base_s * 2.0 ** min(self._attempts, 64))
        self._attempts += 1
        return self._uniform(ceiling / 2, ceiling)

    def reset(self) -> None:
        """Start again from the shortest delay, after a connection has proved stable."""
        self._attempts = 0
