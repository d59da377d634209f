"""A file system for SQLite that fails, or remembers every write, on command: a shim around the real one, by ctypes.

It is registered in the very library that Python's ``sqlite3`` uses (https://www.sqlite.org/vfs.html), so that the
store under test knows nothing of it. Only connections that are opened meanwhile go through it.
"""

from __future__ import annotations

import _sqlite3
import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import POINTER, c_char_p, c_int, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

OK = 0
IOERR_WRITE, IOERR_FSYNC, IOERR_TRUNCATE = 10 | 3 << 8, 10 | 4 << 8, 10 | 6 << 8

Kind = Literal["open", "write", "truncate", "sync", "delete"]


@dataclass(frozen=True)
class Operation:
    """Something that happens to a file. ``size`` is that of a truncated one, ``offset`` where ``data`` is written."""

    kind: Kind
    path: Path
    offset: int = 0
    data: bytes = b""
    size: int = 0


Watch = Callable[[Operation], int]
"""Called before each operation: returns ``OK`` to let it happen, or SQLite's code of the error to fail with."""

_CLOSE = ctypes.CFUNCTYPE(c_int, c_void_p)
_WRITE = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_TRUNCATE = ctypes.CFUNCTYPE(c_int, c_void_p, c_int64)
_SYNC = ctypes.CFUNCTYPE(c_int, c_void_p, c_int)
_OPEN = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_DELETE = ctypes.CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)


class _Methods(ctypes.Structure):
    _fields_ = [
        ("iVersion", c_int),
        ("xClose", _CLOSE),
        ("xRead", c_void_p),
        ("xWrite", _WRITE),
        ("xTruncate", _TRUNCATE),
        ("xSync", _SYNC),
        ("others", c_void_p * 13),
    ]


class _File(ctypes.Structure):
    _fields_ = [("pMethods", POINTER(_Methods))]


class _Vfs(ctypes.Structure):
    _fields_ = [
        ("iVersion", c_int),
        ("szOsFile", c_int),
        ("mxPathname", c_int),
        ("pNext", c_void_p),
        ("zName", c_char_p),
        ("pAppData", c_void_p),
        ("xOpen", _OPEN),
        ("xDelete", _DELETE),
        ("others", c_void_p * 14),
    ]


class _Shim:
    """Keeps what C code points to alive."""

    def __init__(self, library: Any, watch: Watch) -> None:
        self._watch = watch
        library.sqlite3_vfs_find.restype = POINTER(_Vfs)
        self.real = library.sqlite3_vfs_find(None)
        self.vfs = _Vfs()
        ctypes.memmove(ctypes.byref(self.vfs), self.real, ctypes.sizeof(_Vfs))
        self.vfs.zName = b"faulty"
        self.vfs.xOpen = _OPEN(self._open)
        self.vfs.xDelete = _DELETE(self._delete)
        self._methods: list[_Methods] = []

    def _open(self, _: int, name: int | None, file: int, flags: int, out_flags: int) -> int:
        real = self.real.contents
        # The real one keeps the pointer, and looks for parameters behind the name: a copy would not do.
        result: int = real.xOpen(ctypes.addressof(real), name, file, flags, out_flags)
        if result == OK and name is not None:
            path = Path(ctypes.string_at(name).decode())
            self._watch(Operation("open", path))
            self._wrap(ctypes.cast(file, POINTER(_File)).contents, path)
        return result

    def _delete(self, _: int, name: bytes, sync_folder: int) -> int:
        real = self.real.contents
        failure = self._watch(Operation("delete", Path(name.decode())))
        return failure or int(real.xDelete(ctypes.addressof(real), name, sync_folder))

    def _wrap(self, file: _File, path: Path) -> None:
        """Give an open file methods that ask first. Its state stays the real one's own."""
        methods, real = _Methods(), file.pMethods.contents
        ctypes.memmove(ctypes.byref(methods), file.pMethods, ctypes.sizeof(_Methods))

        def write(this: int, data: int, n_bytes: int, offset: int) -> int:
            operation = Operation("write", path, offset, ctypes.string_at(data, n_bytes))
            return self._watch(operation) or int(real.xWrite(this, data, n_bytes, offset))

        def truncate(this: int, size: int) -> int:
            return self._watch(Operation("truncate", path, size=size)) or int(real.xTruncate(this, size))

        def sync(this: int, flags: int) -> int:
            return self._watch(Operation("sync", path)) or int(real.xSync(this, flags))

        methods.xWrite, methods.xTruncate, methods.xSync = _WRITE(write), _TRUNCATE(truncate), _SYNC(sync)
        self._methods += [methods, real]
        file.pMethods = ctypes.pointer(methods)


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Have ``watch`` asked about all files that SQLite opens meanwhile. Close them before leaving."""
    library = ctypes.CDLL(_sqlite3.__file__)
    shim = _Shim(library, watch)
    assert library.sqlite3_vfs_register(ctypes.byref(shim.vfs), 1) == OK
    try:
        yield
    finally:
        assert library.sqlite3_vfs_unregister(ctypes.byref(shim.vfs)) == OK
        assert library.sqlite3_vfs_register(shim.real, 1) == OK
