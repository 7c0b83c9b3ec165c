"""The heap of the process: what clients made the server hold goes back to the system when it is free.

The C library keeps memory that was freed below something that is still used. So a list of megabytes that was sent long
ago could stay in the process for good.
"""

from __future__ import annotations

import ctypes
import threading

TRIM_SECONDS = 2.0
# What is freed in between is not worth the look at all that is free: some 10 ms for 100 MB in small pieces.
TRIM_BYTES = 16 << 20


class _HeapInfo(ctypes.Structure):
    """The fields of glibc's heap report, from `mallinfo2(3)`."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


class Heap:
    """The heap of glibc 2.33 or later.

    Raises:
        AttributeError, TypeError: the C library is another.
    """

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self._info = library.mallinfo2
        self._info.restype = _HeapInfo
        self._trim = library.malloc_trim
        # Free memory that went back still counts as free: what matters is by how much it grows.
        self._least = self.free()

    def free(self) -> int:
        """Return how many bytes are free in it, also those that went back."""
        return int(self._info().fordblks)

    def trim(self) -> bool:
        """Give back what is free if much became free since the last time; return whether it was done."""
        free = self.free()
        self._least = min(self._least, free)
        if free - self._least < TRIM_BYTES:
            return False
        self._trim(0)
        self._least = self.free()
        return True


class HeapTrimmer:
    """Trims the heap from a thread of its own, until it is stopped; other threads go on meanwhile."""

    def __init__(self, heap: Heap) -> None:
        self._heap = heap
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bbio-heap", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Trim no more."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(TRIM_SECONDS):
            self._heap.trim()


def heap_trimmer() -> HeapTrimmer | None:
    """Return a running trimmer, None where the C library is another."""
    try:
        return HeapTrimmer(Heap())
    except (AttributeError, TypeError):  # Windows has no library of the process
        return None
