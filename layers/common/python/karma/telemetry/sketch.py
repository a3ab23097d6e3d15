"""Percentiles of numbers that are not kept: counts of values by the power of a base that they are next to.

This is DDSketch (Masson and others, 2019) with the uniform collapse of UDDSketch (Epicoco and others, 2020). A value is
counted under `ceil(log(|value|) / log(gamma))`, so what is read from the sketch is within `error` of a true value. When
there are more than `MAX_BUCKETS` counts, pairs of neighbours become one, which squares `gamma`.

Sketches merge exactly: that of a day is the same whether it was made of samples or of the sketches of its hours, and
in whichever order.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

MAX_BUCKETS: Final = 160
BASE_ERROR: Final = 0.01
"""Largest relative error of a percentile where the values of a bucket are within a factor of 24 of each other."""
_GREATEST_EXPONENT: Final = 709.0


def _error(collapses: int) -> float:
    error = BASE_ERROR
    for _ in range(collapses):
        error = 2 * error / (1 + error * error)
    return error


@dataclass
class Sketch:
    """Counts of values by their size."""

    positive: Counter[int] = field(default_factory=Counter)
    negative: Counter[int] = field(default_factory=Counter)
    """By the exponent of the value without its sign."""
    zeros: int = 0
    collapses: int = 0

    @classmethod
    def of(cls, values: Iterable[float]) -> Sketch:
        """Return the sketch of finite values."""
        made = cls()
        scale = 1 / made._log_gamma()
        for value, times in Counter(values).items():
            if value > 0:
                made.positive[math.ceil(math.log(value) * scale)] += times
            elif value < 0:
                made.negative[math.ceil(math.log(-value) * scale)] += times
            else:
                made.zeros += times
        made._fit()
        return made

    @classmethod
    def merged(cls, sketches: Iterable[Sketch]) -> Sketch:
        """Return the sketch of all values of some."""
        made = cls()
        for each in sketches:
            other = Sketch(Counter(each.positive), Counter(each.negative), each.zeros, each.collapses)
            while made.collapses < other.collapses:
                made._collapse()
            while other.collapses < made.collapses:
                other._collapse()
            made.positive += other.positive
            made.negative += other.negative
            made.zeros += other.zeros
            made._fit()
        return made

    @property
    def count(self) -> int:
        """Return the number of values."""
        return self.zeros + self.positive.total() + self.negative.total()

    @property
    def error(self) -> float:
        """Return the largest relative error of what `percentile` answers."""
        return _error(self.collapses)

    def percentile(self, percent: float) -> float:
        """Return a value that `percent` of the values do not exceed, of nearest rank; there must be one."""
        rank = max(1, math.ceil(self.count * percent / 100))
        for exponent in sorted(self.negative, reverse=True):
            rank -= self.negative[exponent]
            if rank <= 0:
                return -self._value(exponent)
        rank -= self.zeros
        if rank <= 0:
            return 0.0
        for exponent in sorted(self.positive):
            rank -= self.positive[exponent]
            if rank <= 0:
                return self._value(exponent)
        raise ValueError("a sketch of no values has no percentiles")

    def stored(self) -> list[Any]:
        """Return the sketch as JSON: exponents as differences, each with its count."""
        return [self.collapses, self.zeros, _flat(self.positive), _flat(self.negative)]

    @classmethod
    def read(cls, stored: list[Any]) -> Sketch:
        """Return the sketch that `stored` wrote."""
        collapses, zeros, positive, negative = stored
        return cls(_counter(positive), _counter(negative), zeros, collapses)

    def _value(self, exponent: int) -> float:
        # The middle of a bucket, as far from its ends as `error` says.
        log_gamma = self._log_gamma()
        return math.exp(min(exponent * log_gamma, _GREATEST_EXPONENT)) * 2 / (math.exp(log_gamma) + 1)

    def _log_gamma(self) -> float:
        return math.ldexp(math.log((1 + BASE_ERROR) / (1 - BASE_ERROR)), self.collapses)

    def _fit(self) -> None:
        while len(self.positive) + len(self.negative) > MAX_BUCKETS:
            self._collapse()

    def _collapse(self) -> None:
        self.positive, self.negative = _halved(self.positive), _halved(self.negative)
        self.collapses += 1


def _halved(counts: Counter[int]) -> Counter[int]:
    made: Counter[int] = Counter()
    for exponent, times in counts.items():
        made[-(-exponent // 2)] += times
    return made


def _flat(counts: Counter[int]) -> list[int]:
    flat: list[int] = []
    last = 0
    for exponent in sorted(counts):
        flat += (exponent - last, counts[exponent])
        last = exponent
    return flat


def _counter(flat: list[int]) -> Counter[int]:
    made: Counter[int] = Counter()
    exponent = 0
    for difference, times in zip(flat[::2], flat[1::2], strict=True):
        exponent += difference
        made[exponent] = times
    return made
