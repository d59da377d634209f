"""Brings a model's memory into huge pages while it serves, so that reading it costs less.

A processor finds pages of 4 KiB through a table that holds few of them: reading all weights for each token misses it
tens of thousands of times. In pages of 2 MiB single tokens come 5 to 15 % sooner. What llama.cpp has allocated, the
system gathers in place. Files can't lie in huge pages on most systems, so that a copy takes the place of a mapped file,
at the same addresses: llama.cpp notices nothing.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import chain
from pathlib import Path

from .hardware import available_memory_bytes, total_memory_bytes
from .tensors import parts_of

SMALLEST_BYTES = 64 * 1024**2
"""Of weights; smaller ones stay in the processor's caches, table and all."""

DELAY_SECONDS = 2.0  # after loading: the first requests come, and many models are only tried out
_SHARE = 0.1  # of the time goes into copying, so that answers being written are held up by no more
_CHUNK_BYTES = 8 * 1024**2
_LARGEST_PAGE = 32 * 1024**2  # huge pages of 512 MiB, as with base pages of 64 KiB, are hardly ever to be had
_LARGE_BYTES = 32 * 1024**2  # stacks of threads and the interpreter's heap are smaller
_MEMORY_RESERVE = 0.1  # of the machine's memory stays free

_SYSTEM = Path("/sys/kernel/mm/transparent_hugepage")
_MAPS = Path("/proc/self/maps")
_OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
_MREMAP_MAYMOVE_FIXED = 3
_MADV_COLLAPSE = 25
_FAILED = ctypes.c_void_p(-1).value


class HugePages:
    """Works for one model, in a thread of its own: gathers what it has allocated, and moves its file if that is wanted.

    ``path`` is the model's file, the first where there are several. Linux only; elsewhere nothing happens.
    """

    def __init__(self, path: Path, *, moves_file: bool, delay_seconds: float = DELAY_SECONDS) -> None:
        self._path = path
        self._moves_file = moves_file
        self._delay_seconds = delay_seconds
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="huge pages", daemon=True)
        self.moved_bytes = 0

    def start(self) -> None:
        """Begin, unless this system has no huge pages to give."""
        if page_bytes():
            self._thread.start()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until all is moved that will be; return whether that is so."""
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Move no more. Call this before the model is freed, and its addresses with it."""
        self._closing.set()
        self.wait()

    def _run(self) -> None:
        page, pause_seconds = page_bytes(), self._delay_seconds
        work = chain(self._move_file(page) if self._moves_file else (), _gather_own(page))
        with suppress(OSError):  # a system that does not tell what is asked here
            while not self._closing.wait(pause_seconds):
                began_at = time.monotonic()
                moved_bytes = next(work, None)
                if moved_bytes is None:
                    return
                self.moved_bytes += moved_bytes
                pause_seconds = (time.monotonic() - began_at) * (1 / _SHARE - 1)

    def _move_file(self, page: int) -> Iterator[int]:
        """Move it chunk by chunk, and yield the bytes of each, as long as there is memory and it is of use."""
        spans = [_aligned(span, page) for span in mapped_spans(self._path)]
        left_bytes = sum(map(len, spans))
        for chunk in _chunks(spans, page):
            if not _may_copy(left_bytes):
                return
            left_bytes -= len(chunk)
            faults = _page_faults()
            try:
                move(chunk, page)
            except OSError:
                return
            is_scattered = _page_faults() - faults > len(chunk) // mmap.PAGESIZE // 2
            yield len(chunk)
            if is_scattered:
                return  # there are no huge pages left: that copy lies in small ones, and can't even be dropped


def _gather_own(page: int) -> Iterator[int]:
    """Gather what llama.cpp has allocated, and used, in huge pages, chunk by chunk; yield the bytes of each."""
    libc = _libc()
    for chunk in _chunks([_aligned(span, page) for span in own_spans()], page):
        libc.madvise(chunk.start, len(chunk), mmap.MADV_HUGEPAGE)
        # One by one: what was never touched is refused, and stays untouched. Linux before 6.1 refuses all; the kernel's
        # own thread gathers them there, some time.
        done = [libc.madvise(start, page, _MADV_COLLAPSE) == 0 for start in range(chunk.start, chunk.stop, page)]
        yield page * sum(done)


def _may_copy(n_bytes: int) -> bool:
    """Whether so much can be copied; others may have taken memory since the last chunk.

    A system that lets programs take no more than it can keep counts copies that come and go against all of them.
    """
    if _OVERCOMMIT.read_text(encoding="ascii").strip() == "2":
        return False
    return n_bytes <= available_memory_bytes() - int(_MEMORY_RESERVE * total_memory_bytes())


def _page_faults() -> int:
    """Return how many pages were given to this thread, huge or small."""
    import resource  # which Windows lacks

    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt


def page_bytes() -> int:
    """Return the size of a huge page; 0 where there are none, or none that are of use."""
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) < 8:
        return 0
    try:
        if "[never]" in (_SYSTEM / "enabled").read_text(encoding="ascii"):
            return 0
        size = int((_SYSTEM / "hpage_pmd_size").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
    return size if size <= _LARGEST_PAGE else 0


def mapped_spans(path: Path) -> list[range]:
    """Return the addresses where a model's files are mapped as llama.cpp does it: shared, to be read only."""
    files = {str(part.resolve()) for part in parts_of(path)}
    return [span for span, access, name in _mappings() if access == "r--s" and name in files]


def own_spans() -> list[range]:
    """Return the addresses of large allocations of this process: what llama.cpp repacked or read, and its caches."""
    return [span for span, access, name in _mappings() if access == "rw-p" and not name and len(span) >= _LARGE_BYTES]


def _mappings() -> Iterator[tuple[range, str, str]]:
    for line in _MAPS.read_text(encoding="utf-8", errors="surrogateescape").rstrip("\n").split("\n"):
        addresses, access, _offset, _device, _inode, *name = line.split(maxsplit=5)
        start, end = addresses.split("-")
        yield range(int(start, 16), int(end, 16)), access, "".join(name)


def move(span: range, page: int) -> None:
    """Put a copy in huge pages in the place of what is mapped at ``span``, whose ends are multiples of ``page``.

    Threads may read there meanwhile: the system puts whoever comes in the very moment off until the new pages stand.
    Raises ``OSError``, with everything as it was: what the last step could lack, ``_may_copy`` has looked for.
    """
    libc = _libc()
    size = len(span)
    room = libc.mmap(None, size + page, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if room == _FAILED:
        raise _error("no memory was given")
    copy = -(-room // page) * page
    _give_back(libc, range(room, copy))
    _give_back(libc, range(copy + size, room + size + page))
    try:
        if libc.madvise(copy, size, mmap.MADV_HUGEPAGE) != 0:
            raise _error("huge pages were refused")
        ctypes.memmove(copy, span.start, size)
        if libc.mprotect(copy, size, mmap.PROT_READ) != 0:
            raise _error("the copy could not be protected")
        if libc.mremap(copy, size, size, _MREMAP_MAYMOVE_FIXED, span.start) != span.start:
            raise _error("the copy could not be moved")
    except OSError:
        _give_back(libc, range(copy, copy + size))
        raise


def _give_back(libc: ctypes.CDLL, span: range) -> None:
    if len(span):
        libc.munmap(span.start, len(span))


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    libc.mmap.argtypes, libc.mmap.restype = [pointer, size, number, number, number, ctypes.c_long], pointer
    libc.mremap.argtypes, libc.mremap.restype = [pointer, size, size, number, pointer], pointer
    libc.munmap.argtypes = [pointer, size]
    libc.madvise.argtypes = libc.mprotect.argtypes = [pointer, size, number]
    return libc


def _error(message: str) -> OSError:
    return OSError(ctypes.get_errno(), message)


def _aligned(span: range, page: int) -> range:
    start, end = -(-span.start // page) * page, span.stop // page * page
    return range(start, max(start, end))


def _chunks(spans: Sequence[range], page: int) -> Iterator[range]:
    size = max(page, _CHUNK_BYTES)
    for span in spans:
        for start in range(span.start, span.stop, size):
            yield range(start, min(start + size, span.stop))
