"""A metric in at most so many points, for the browser; the spool keeps them all."""

from __future__ import annotations

import math
from dataclasses import dataclass

Point = tuple[int, float, float]
"""(env steps, seconds since 1970, value)"""

MAX_POINTS = 10_000


@dataclass
class _Bucket:
    """The extremes of neighbouring points, in their order, and the last of them."""

    low: Point
    high: Point
    num: int

    def add(self, point: Point) -> None:
        self.low, self.high = _lower(self.low, point), _higher(self.high, point)
        self.num += 1

    def merged(self, other: _Bucket) -> _Bucket:
        return _Bucket(
            _lower(self.low, other.low), _higher(self.high, other.high), self.num + other.num
        )

    def points(self) -> list[Point]:
        return [self.low] if self.low == self.high else sorted((self.low, self.high))


class Decimator:
    """Takes points one by one and keeps at most `max_points`, of equal strides, with the extremes.

    All points are kept until there are too many; then pairs of neighbouring buckets are merged, so
    that each holds twice as many points. What is kept follows from the points alone: whoever
    replays them arrives at the same. A value that is not a number stands where no other value of
    its bucket does.
    """

    def __init__(self, max_points: int = MAX_POINTS) -> None:
        self._max_buckets = max_points // 2
        self._buckets: list[_Bucket] = []
        self._stride = 1
        self._last: Point | None = None

    def add(self, point: Point) -> None:
        """Take the next point."""
        self._last = point
        last = self._buckets[-1] if self._buckets else None
        if last is not None and last.num < self._stride:
            last.add(point)
            return
        self._buckets.append(_Bucket(point, point, 1))
        limit = self._max_buckets * (2 if self._stride == 1 else 1)
        if len(self._buckets) > limit:
            self._halve()

    @property
    def stride(self) -> int:
        """Points in a bucket; while it stays the same, `settled` grows at its end alone."""
        return self._stride

    def settled(self) -> list[Point]:
        """The points of full buckets."""
        full = self._buckets
        if full and full[-1].num < self._stride:
            full = full[:-1]
        return [point for bucket in full for point in bucket.points()]

    def points(self) -> list[Point]:
        """All that is kept, in order, the last point among them."""
        kept = [point for bucket in self._buckets for point in bucket.points()]
        if self._last is not None and kept[-1] is not self._last:
            kept.append(self._last)
        return kept

    def _halve(self) -> None:
        while len(self._buckets) > self._max_buckets:
            pairs = zip(self._buckets[::2], self._buckets[1::2], strict=False)
            merged = [first.merged(second) for first, second in pairs]
            if len(self._buckets) % 2:
                merged.append(self._buckets[-1])
            self._buckets = merged
            self._stride *= 2


def _lower(a: Point, b: Point) -> Point:
    return b if b[2] < a[2] or math.isnan(a[2]) else a


def _higher(a: Point, b: Point) -> Point:
    return b if b[2] > a[2] or math.isnan(a[2]) else a
