"""Keeps states of conversations on disk from one worker to the next: bounded, private, and never believed unchecked."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from localllm.contract.decoder import State, StateSaving
from localllm.engine.keeping import Conversation
from localllm.worker.state_format import BrokenStateError, StateHead, pack_head, read_head, read_state

FOLDER = "conversations"
MAX_AGE_SECONDS = 30 * 24 * 3600
"""A conversation that nobody went on with for so long is forgotten: what was said should not lie about for ever."""

FREE_BYTES = 256 * 1024 * 1024
"""So much is left free on the disk."""

T = TypeVar("T")

_SUFFIX, _UNFINISHED = ".state", ".part"
_ABANDONED_SECONDS = 3600.0
_CHUNK_BYTES = 4 * 1024 * 1024
_OPEN_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class FolderStateFiles:
    """A folder of files, one for each conversation, shared by all workers of all models of a server.

    Files of one model and its settings begin with the same letters. The least recently used go first, whoever's they
    are. What the disk refuses is said once on stderr and costs nothing but time; no method raises ``OSError``.
    """

    def __init__(self, folder: Path, saving: StateSaving) -> None:
        self._folder = folder
        self._identity = saving.identity
        self._limit_bytes = saving.disk_bytes
        self._prefix = hashlib.sha256(saving.identity.encode()).hexdigest()[:16]
        self._known: dict[str, Conversation] = {}  # least recently used first
        self._written: set[str] = set()
        self._is_usable = False
        with self._telling("can't be used"):
            _make_private(folder)
            self._prune()
            self._look()
            self._is_usable = True

    def index(self) -> Sequence[tuple[str, Conversation]]:
        """Return (name, conversation) of this model's files as they were when this was made, oldest use first."""
        return list(self._known.items())

    def read(self, name: str) -> State | None:
        """Return a state that is what was written, to the bit; a file that is not is removed."""

        def check_and_read(file: BinaryIO, head: StateHead) -> State:
            known = self._known.get(name)
            if known is None or list(head.conversation.tokens) != list(known.tokens):
                raise BrokenStateError
            return read_state(file, head)

        state = self._with_file(name, check_and_read)
        if state is not None:
            self._use(name)
        return state

    def write(self, conversation: Conversation, state: State, is_late: Callable[[], bool]) -> bool:
        """File a state, in place of what it makes needless; False when the room or the time is used up.

        One that is larger than all files together may be is left aside.
        """
        if not self._is_usable:
            return False
        tokens = list(conversation.tokens)
        same = [name for name, one in self._known.items() if _whose(one) == _whose(conversation)]
        for name in same:
            if list(self._known[name].tokens[: len(tokens)]) == tokens and self._use(name):
                return True
        with self._telling("can't be written to"):
            head = pack_head(self._identity, conversation, state)
            if len(head) + len(state) > self._limit_bytes:
                return True  # there is never room for it, and there may be for others
            new = self._write(head, state, is_late)
            if new is None:
                return False
            for older in self._known.keys() & same:
                if tokens[: len(self._known[older].tokens)] == list(self._known[older].tokens):
                    self._remove(older)
            self._known[new] = conversation
            return True
        return False

    def _use(self, name: str) -> bool:
        """Note that a file was of use; False if it is gone, as another worker may have decided."""
        try:
            os.utime(self._folder / name)
        except FileNotFoundError:
            self._known.pop(name, None)
            return False
        except OSError:  # a read-only disk
            pass
        return True

    # --- the folder ---

    def _look(self) -> None:
        """Read the heads of this model's files; remove what is broken."""
        for name, _ in self._by_age():
            if name.startswith(self._prefix):
                conversation = self._with_file(name, lambda _, head: head.conversation)
                if conversation is not None:
                    self._known[name] = conversation

    def _prune(self) -> None:
        """Remove what is too old, too much, or was never finished."""
        now = time.time()
        for name, status in self._by_age(_UNFINISHED):
            if now - status.st_mtime > _ABANDONED_SECONDS:
                self._remove(name)
        files = self._by_age()
        total = sum(status.st_size for _, status in files)
        for name, status in files:
            if total > self._limit_bytes or now - status.st_mtime > MAX_AGE_SECONDS:
                self._remove(name)
                total -= status.st_size

    def _make_room(self, n_bytes: int) -> bool:
        """Remove the least recently used until so much may be written; False, and none is removed, if it never may.

        What was just written stays: it was used later than what is to be written now.
        """
        files = self._by_age()
        written = sum(status.st_size for name, status in files if name in self._written)
        if written + n_bytes > self._limit_bytes:
            return False
        total = sum(status.st_size for _, status in files)
        for name, status in files:
            if total + n_bytes <= self._limit_bytes:
                break
            if name not in self._written:
                self._remove(name)
                total -= status.st_size
        return shutil.disk_usage(self._folder).free >= n_bytes + FREE_BYTES

    def _by_age(self, suffix: str = _SUFFIX) -> list[tuple[str, os.stat_result]]:
        """Return all files of a kind, also other models', the least recently used first."""
        found: list[tuple[str, os.stat_result]] = []
        for entry in os.scandir(self._folder):
            with contextlib.suppress(FileNotFoundError):  # another worker's doing
                if entry.name.endswith(suffix):
                    found.append((entry.name, entry.stat(follow_symlinks=False)))
        return sorted(found, key=lambda one: (one[1].st_mtime_ns, one[0]))

    def _write(self, head: bytes, state: State, is_late: Callable[[], bool]) -> str | None:
        """Write a file that is whole or not there; None when there is no room or time for it. Raises ``OSError``."""
        if not self._make_room(len(head) + len(state)):
            return None
        stem = f"{self._prefix}-{secrets.token_hex(8)}"
        path = self._folder / (stem + _UNFINISHED)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN_FLAGS, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(head)
                view = memoryview(state)
                for start in range(0, len(view), _CHUNK_BYTES):
                    if is_late():
                        return None
                    file.write(view[start : start + _CHUNK_BYTES])
                file.flush()
                os.fsync(file.fileno())
            path.rename(self._folder / (stem + _SUFFIX))
            self._written.add(stem + _SUFFIX)
            return stem + _SUFFIX
        finally:
            path.unlink(missing_ok=True)

    def _remove(self, name: str) -> None:
        self._known.pop(name, None)
        (self._folder / name).unlink(missing_ok=True)

    def _with_file(self, name: str, use: Callable[[BinaryIO, StateHead], T]) -> T | None:
        """Return what ``use`` makes of a file of ours, behind its head; None, if it is broken: then it is removed."""
        with self._telling(f"has a file that can't be read, {name}"):
            try:
                with os.fdopen(os.open(self._folder / name, os.O_RDONLY | _OPEN_FLAGS), "rb") as file:
                    status = os.fstat(file.fileno())
                    if not (stat.S_ISREG(status.st_mode) and _is_private(status)):
                        raise BrokenStateError
                    head = read_head(file, status.st_size)
                    if head.identity != self._identity:
                        raise BrokenStateError
                    return use(file, head)
            except FileNotFoundError:
                self._known.pop(name, None)
            except BrokenStateError:
                self._remove(name)
                _say(f"{self._folder / name} was not what was written, and is removed")
        return None

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            _say(f"{self._folder} {what}: {error.strerror or error}")


def _whose(conversation: Conversation) -> tuple[str, str]:
    return conversation.owner, conversation.group


def _make_private(folder: Path) -> None:
    """Make a folder that nobody else can look into. Raises ``OSError``."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or _owner_differs(status):
        message = "it must be a folder of the user who runs the server"
        raise PermissionError(None, message)
    folder.chmod(0o700)


def _is_private(status: os.stat_result) -> bool:
    return not _owner_differs(status) and (sys.platform == "win32" or not status.st_mode & 0o077)


def _owner_differs(status: os.stat_result) -> bool:
    return sys.platform != "win32" and status.st_uid != os.geteuid()


def _say(sentence: str) -> None:
    sys.stderr.write(f"conversations on disk: {sentence}\n")
