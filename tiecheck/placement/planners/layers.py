"""The largest layer that is still to be placed, for which the planners keep room free.

A layer is a module without children, or of a class that must not be split. accelerate 1.15 (`get_max_layer_size`,
which transformers 5.23 uses) walks the whole rest of the model anew each time; here the layers stand in one row, in the
order of the walk, and what is left is always a part of that row less the modules that went with a tie.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

_GONE = -1


class Layers:
    """The layers in a row, by position."""

    def __init__(self, sizes: list[Any], tensors: set[int]) -> None:
        """Take the row.

        Args:
            sizes: Bytes of each layer.
            tensors: Positions that are no layers but tensors of the root: the first look counts them, no later one.
        """
        self._count = max(len(sizes), 1)
        self._sizes = sizes
        self._alive = [True] * len(sizes)
        self._tensors = tensors
        self._tree: list[Any] = [_GONE] * self._count + (sizes or [_GONE])
        for node in range(self._count - 1, 0, -1):
            self._tree[node] = max(self._tree[2 * node], self._tree[2 * node + 1])
        self._buckets: dict[Any, list[int]] = {}
        for position, size in enumerate(sizes):
            self._buckets.setdefault(size, []).append(position)
        self.largest: Any = 0
        """Bytes of the largest layer at the last look."""
        self._bucket: list[int] = []
        self._cursor = 0
        self._stale = False

    def look(self, front: int, *, first: bool = False) -> None:
        """Look for the largest of the layers that are left, from a position on; none is nothing.

        Args:
            front: The first position that is left.
            first: Whether this is the look before anything was placed.
        """
        if not first and self._tensors:
            for position in self._tensors:
                self._drop(position)
            self._tensors = set()
        self._stale = False
        found = self._maximum(front)
        self.largest = max(found, 0)
        self._bucket = self._buckets[found] if found != _GONE else []
        self._cursor = bisect_left(self._bucket, front)

    def any_left(self, front: int) -> bool:
        """Whether one of the largest of the last look does not stand before a position.

        One that went with a tie counts as well: the planners strike the names off that they take from their list, and
        those that they place beside it stay.
        """
        if self._stale:
            return True
        bucket, alive = self._bucket, self._alive
        while self._cursor < len(bucket) and (bucket[self._cursor] < front or not alive[bucket[self._cursor]]):
            self._cursor += 1
        return self._cursor < len(bucket)

    def take(self, low: int, high: int) -> None:
        """Take the layers of a module away that is placed out of turn."""
        for position in range(low, high):
            if self._alive[position]:
                if self._bucket and self._sizes[position] == self._sizes[self._bucket[0]]:
                    self._stale = True
                self._drop(position)

    def _drop(self, position: int) -> None:
        self._alive[position] = False
        node = position + self._count
        self._tree[node] = _GONE
        node //= 2
        while node:
            top = max(self._tree[2 * node], self._tree[2 * node + 1])
            if self._tree[node] == top:
                break
            self._tree[node] = top
            node //= 2

    def _maximum(self, low: int) -> Any:
        """The largest size from a position on; `_GONE` where there is none."""
        found: Any = _GONE
        left, right = low + self._count, 2 * self._count
        while left < right:
            if left & 1:
                found = max(found, self._tree[left])
                left += 1
            if right & 1:
                right -= 1
                found = max(found, self._tree[right])
            left //= 2
            right //= 2
        return found
