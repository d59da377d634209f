"""Gets one file over HTTP, whole and unchanged: goes on where an earlier try broke off, and believes no length."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from localllm.contract.errors import ModelFileError
from localllm.contract.fetch import PullError, PullStatus, RemoteFile
from localllm.models.fetch.connection import Answer, Dialer, TransferBrokenError
from localllm.models.fetch.job import FetchPolicy
from localllm.models.fetch.meter import Meter, SpeedFloor
from localllm.models.fetch.part import Identity, PartFile

MAGIC = b"GGUF"

_READ_BYTES = 256 * 1024
_PROGRESS_BYTES = 1024 * 1024  # a try that brought so much was no failure: tries are bounded by the file's size
_LONGEST_PAUSE_SECONDS = 30.0
_LONGEST_WISHED_PAUSE_SECONDS = 120.0
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True, slots=True)
class Tools:
    """What a pull uses of the world; tests replace it.

    ``clock`` is monotonic, in seconds. ``require_room`` raises ``StorageFullError`` when so many more bytes, and the
    reserve, don't fit on the disk.
    """

    dialer: Dialer
    policy: FetchPolicy
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    require_room: Callable[[int], None]


def download(file: RemoteFile, part: PartFile, tools: Tools, meter: Meter) -> None:
    """Bring all bytes of ``file`` into ``part``, and check length, beginning and hash.

    What a broken connection has left is kept and continued as long as it is the same file (``If-Range``); a changed
    one begins anew. Raises ``PullError``, ``AddressRefusedError``, ``StorageFullError``, and ``ModelFileError`` for
    what is no GGUF file. After the first and the third of these a later pull can go on.
    """
    url = file.url or ""
    meter.show(PullStatus.VERIFYING if part.path.stat().st_size else PullStatus.DOWNLOADING, file=file.name)
    part.recall(url, lambda n_bytes: meter.add(n_bytes, transferred=False))
    resumed = part.n_bytes > 0
    meter.show(PullStatus.DOWNLOADING, file=file.name)
    _Transfer(file, part, tools, meter).run()
    if resumed and _is_other_file(file, part):  # what lay on our disk may be at fault
        _throw_away(part, meter)
        _Transfer(file, part, tools, meter).run()
    if _is_other_file(file, part):
        found = part.sha256
        part.discard()
        message = f"{file.name} has the sha256 {found}, but {file.sha256} was expected; it was thrown away."
        raise PullError(message)


def _is_other_file(file: RemoteFile, part: PartFile) -> bool:
    return file.sha256 is not None and file.sha256 != part.sha256


def _throw_away(part: PartFile, meter: Meter) -> None:
    meter.add(-part.n_bytes)
    part.start_over(None)


class _Transfer:
    """The tries at one file."""

    def __init__(self, file: RemoteFile, part: PartFile, tools: Tools, meter: Meter) -> None:
        self.file = file
        self.part = part
        self.tools = tools
        self.meter = meter
        self._announced = file.size_bytes is not None

    def run(self) -> None:
        """Try until all is there. Raises ``PullError`` after too many tries without progress."""
        failures = 0
        while not self._complete():
            before = self.part.n_bytes
            try:
                self._try_once()
            except TransferBrokenError as error:
                failures = 1 if self.part.n_bytes - before >= _PROGRESS_BYTES else failures + 1
                if failures > self.tools.policy.retries:
                    self.part.sync()
                    raise PullError(self._gave_up(error, failures)) from None
                self.tools.sleep(_pause_seconds(failures, error.retry_after_seconds))
        self._announce(self.part.n_bytes)

    def _announce(self, size_bytes: int) -> None:
        if not self._announced:
            self._announced = True
            self.meter.expect(size_bytes)

    def _complete(self) -> bool:
        identity = self.part.identity
        if identity is not None and identity.size_bytes != (self.file.size_bytes or identity.size_bytes):
            _throw_away(self.part, self.meter)
            return False
        return identity is not None and self.part.n_bytes == identity.size_bytes

    def _try_once(self) -> None:
        answer = self.tools.dialer.open(self.file.url or "", self._headers())
        try:
            self._check_status(answer)
            if answer.status == 206:
                self._check_continuation(answer)
            else:
                self._begin(answer)
            self._receive(answer)
        finally:
            answer.close()

    def _headers(self) -> dict[str, str]:
        headers = dict(self.file.headers)
        identity = self.part.identity
        if not self.part.n_bytes or identity is None:
            return headers
        if identity.validator is None and self.file.sha256 is None:  # nobody could tell whether it is the same file
            _throw_away(self.part, self.meter)
            return headers
        headers["Range"] = f"bytes={self.part.n_bytes}-"
        if identity.validator is not None:
            headers["If-Range"] = identity.validator
        return headers

    def _check_status(self, answer: Answer) -> None:
        status, host = answer.status, answer.address.host
        if status in (200, 206):
            encoding = (answer.header("content-encoding") or "identity").strip().lower()
            if encoding != "identity":
                message = f"{host} sends {self.file.name} encoded as {encoding[:40]!r}, which nobody asked for."
                raise PullError(message)
            return
        if status == 416:
            _throw_away(self.part, self.meter)
            raise TransferBrokenError(f"{host} has fewer bytes than are here already")
        if status in _PASSING:
            wished = answer.header("retry-after") or ""
            seconds = float(wished) if wished.isascii() and wished.isdigit() else None
            raise TransferBrokenError(f"{host} answered {status}", retry_after_seconds=seconds)
        hints = {
            401: "it asks for credentials",
            403: "it is not allowed; a gated repository wants its terms accepted, and a token",
            404: "it is not there",
        }
        message = f"{host} answered {status} for {self.file.name}: {hints.get(status, 'it can not be fetched')}."
        raise PullError(message)

    def _begin(self, answer: Answer) -> None:
        """Start with the first byte of what may be another version than the one that is half here."""
        length = answer.header("content-length") or ""
        if not (length.isascii() and length.isdigit()) or answer.header("transfer-encoding") is not None:
            message = f"{answer.address.host} does not say how long {self.file.name} is; it can't be checked."
            raise PullError(message)
        size_bytes = int(length)
        if size_bytes != (self.file.size_bytes or size_bytes):
            message = f"{self.file.name} has {size_bytes} bytes there, but {self.file.size_bytes} were announced."
            raise PullError(message)
        self._announce(size_bytes)
        self.tools.require_room(size_bytes)
        self.meter.add(-self.part.n_bytes)
        etag = answer.header("etag")
        strong = etag if etag and etag.startswith('"') else None
        self.part.start_over(Identity(self.file.url or "", size_bytes, strong, answer.header("last-modified")))

    def _check_continuation(self, answer: Answer) -> None:
        """Take the rest only from where it is missing, and of the file that it is missing of."""
        identity = self.part.identity
        found = _RANGE.fullmatch((answer.header("content-range") or "").strip())
        if identity is None or not self.part.n_bytes or found is None:
            self._refuse_continuation(answer, "sends a piece that nobody asked for")
        elif tuple(int(number) for number in found.groups()) != (
            self.part.n_bytes,
            identity.size_bytes - 1,
            identity.size_bytes,
        ):
            self._refuse_continuation(answer, f"sends bytes {found[0][6:]}, not those from {self.part.n_bytes} on")
        elif _differs(identity.etag, answer.header("etag")) or (
            identity.etag is None and _differs(identity.last_modified, answer.header("last-modified"))
        ):
            self._refuse_continuation(answer, "continues another version of the file")
        else:
            self._announce(identity.size_bytes)
            self.tools.require_room(identity.size_bytes - self.part.n_bytes)

    def _refuse_continuation(self, answer: Answer, reason: str) -> None:
        _throw_away(self.part, self.meter)
        raise TransferBrokenError(f"{answer.address.host} {reason}")

    def _receive(self, answer: Answer) -> None:
        part, policy = self.part, self.tools.policy
        size_bytes = part.identity.size_bytes if part.identity else 0
        floor = SpeedFloor(policy.min_bytes_per_second, policy.stall_seconds, self.tools.clock)
        while part.n_bytes < size_bytes:
            data = answer.read(min(_READ_BYTES, size_bytes - part.n_bytes))
            if not data:
                raise TransferBrokenError(f"the connection ended {size_bytes - part.n_bytes} bytes early")
            if part.n_bytes < len(MAGIC):
                self._check_beginning(data)
            part.append(data)
            self.meter.add(len(data))
            if floor.crawls(len(data)):
                raise TransferBrokenError(f"it came slower than {policy.min_bytes_per_second:g} bytes a second")
        part.sync()

    def _check_beginning(self, data: bytes) -> None:
        """Refuse what is no model before gigabytes of it have come: an error page, say."""
        begin = self.part.n_bytes
        expected = MAGIC[begin : begin + len(data)]
        if data[: len(expected)] != expected:
            self.part.discard()
            message = f"{self.file.name} is no GGUF file: it begins with {data[:16]!r}."
            raise ModelFileError(message)

    def _gave_up(self, error: TransferBrokenError, failures: int) -> str:
        kept = f" {self.part.n_bytes} bytes are kept; pull again to go on." if self.part.n_bytes else ""
        return f"{self.file.name} could not be fetched, after {failures} tries: {error}.{kept}"


def _differs(known: str | None, told: str | None) -> bool:
    return known is not None and told is not None and known != told


def _pause_seconds(failures: int, wished: float | None) -> float:
    """Return how long to wait: doubling, and spread, so that clients do not come back all at once."""
    if wished is not None:
        return min(wished, _LONGEST_WISHED_PAUSE_SECONDS)
    return float(min(2.0 ** (failures - 1), _LONGEST_PAUSE_SECONDS)) * random.uniform(0.75, 1.25)  # noqa: S311
