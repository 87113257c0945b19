"""glibc's allocator as far as large blocks go: what a sequence of allocations leaves resident.

A decoder that copies its KV cache into a larger block at every step frees blocks that are each a little too small for
the next request. How much of that memory the process holds at worst is decided by the allocator: best fit, neighbours
merged, a mapping of its own for what exceeds a threshold that rises with use. The numbers are glibc's (its malloc.c and
arena.c), for a thread that isn't the process's first one. Sizes are in bytes.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass, field

KIB, MIB = 2**10, 2**20
PAGE = 4 * KIB
ALIGNMENT = 16
HEADER = 8
SMALLEST_CHUNK = 32
TOP_PAD = 128 * KIB
"""Left at the top of a heap that is trimmed, and added to a new one."""
INITIAL_THRESHOLD = 128 * KIB
LARGEST_THRESHOLD = 32 * MIB
LARGEST_HEAP = 64 * MIB
TRIMMED_FROM = 64 * KIB
"""Freeing a chunk of this size, its free neighbours included, looks whether the heap's end can be given back."""

HEAP_HEADER = 64


def round_up(size: int, multiple: int) -> int:
    """The smallest multiple that is not below the size."""
    return -(-size // multiple) * multiple


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of memory in use: a mapping of its own, or a chunk of a heap."""

    size: int
    offset: int = 0
    heap: "_Heap | None" = None


@dataclass(slots=True, eq=False)
class _Heap:
    size: int
    top: int = 0
    touched: int = 0
    closed: bool = False
    """A later heap has the top; this one's end is an ordinary free chunk."""
    free: list[tuple[int, int]] = field(default_factory=list)
    """(offset, size) of the free chunks, by offset; no two touch."""


class Arena:
    """The heaps and mappings of one thread, empty when made.

    `largest_freed` is the largest mapping that the process freed before: it has raised the threshold.
    """

    def __init__(self, *, largest_freed: int = 0) -> None:
        self._mapped = 0
        self._threshold = INITIAL_THRESHOLD
        self._trim_threshold = INITIAL_THRESHOLD
        self._heaps = [_Heap(TOP_PAD)]
        self.peak = 0
        """The most bytes that were resident at once."""
        self._raise_threshold(largest_freed)

    @property
    def resident(self) -> int:
        """Bytes of memory that are resident now."""
        return self._mapped + sum(heap.touched for heap in self._heaps)

    def take(self, size: int) -> Block:
        """Allocate and fill a block."""
        chunk = round_up(size + HEADER, ALIGNMENT)
        block = self._from_free(chunk) or self._from_top(chunk) or self._from_system(chunk)
        if block.heap is None:
            self._mapped += block.size
        else:
            block.heap.touched = max(block.heap.touched, block.offset + block.size)
        self.peak = max(self.peak, self.resident)
        return block

    def give(self, block: Block) -> None:
        """Free a block."""
        heap, offset, size = block.heap, block.offset, block.size
        if heap is None:
            self._mapped -= size
            self._raise_threshold(size)
            return
        index = bisect_left(heap.free, (offset, 0))
        if index < len(heap.free) and heap.free[index][0] == offset + size:
            size += heap.free.pop(index)[1]
        if index > 0 and sum(heap.free[index - 1]) == offset:
            offset, before = heap.free.pop(index - 1)
            size += before
        if offset + size == heap.top and not heap.closed:
            heap.top = offset
        else:
            insort(heap.free, (offset, size))
        if size >= TRIMMED_FROM:
            self._trim()

    def _raise_threshold(self, freed: int) -> None:
        if self._threshold < freed <= LARGEST_THRESHOLD:
            self._threshold = freed
            self._trim_threshold = 2 * freed

    def _from_free(self, chunk: int) -> Block | None:
        fitting = (
            (size, number, offset)
            for number, heap in enumerate(self._heaps)
            for offset, size in heap.free
            if size >= chunk
        )
        best = min(fitting, default=None)
        if best is None:
            return None
        size, number, offset = best
        heap = self._heaps[number]
        index = bisect_left(heap.free, (offset, size))
        if size - chunk < SMALLEST_CHUNK:
            del heap.free[index]
            return Block(size, offset, heap)
        heap.free[index] = (offset + chunk, size - chunk)
        return Block(chunk, offset, heap)

    def _from_top(self, chunk: int) -> Block | None:
        heap = self._heaps[-1]
        if heap.size - heap.top < chunk + SMALLEST_CHUNK:
            return None
        heap.top += chunk
        return Block(chunk, heap.top - chunk, heap)

    def _from_system(self, chunk: int) -> Block:
        mapping = Block(round_up(chunk + HEADER, PAGE))
        if chunk >= self._threshold:
            return mapping
        heap = self._heaps[-1]
        grown = heap.size + round_up(chunk + SMALLEST_CHUNK - (heap.size - heap.top), PAGE)
        if grown <= LARGEST_HEAP:
            heap.size = grown
        elif chunk + SMALLEST_CHUNK + HEAP_HEADER <= LARGEST_HEAP:
            rest = heap.size - heap.top - SMALLEST_CHUNK
            if rest >= SMALLEST_CHUNK:
                insort(heap.free, (heap.top, rest))
            heap.top, heap.closed = heap.size, True
            size = min(LARGEST_HEAP, round_up(chunk + SMALLEST_CHUNK + HEAP_HEADER + TOP_PAD, PAGE))
            self._heaps.append(_Heap(size))
        else:
            return mapping
        return self._from_top(chunk) or mapping

    def _trim(self) -> None:
        while len(self._heaps) > 1 and self._heaps[-1].top == 0:
            last = self._heaps[-2]
            tail = last.free[-1] if last.free and sum(last.free[-1]) >= last.size - SMALLEST_CHUNK else (last.size, 0)
            if tail[1] + LARGEST_HEAP - last.size < TOP_PAD + SMALLEST_CHUNK + PAGE:
                break
            self._heaps.pop()
            last.top, last.closed = tail[0], False
            if tail[1]:
                last.free.pop()
        heap = self._heaps[-1]
        unused = heap.size - heap.top
        if unused >= self._trim_threshold and unused > TOP_PAD + SMALLEST_CHUNK:
            heap.size -= (unused - SMALLEST_CHUNK - 1 - TOP_PAD) // PAGE * PAGE
            heap.touched = min(heap.touched, heap.size)
