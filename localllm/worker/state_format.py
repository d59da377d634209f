"""The form of a file that holds the state of one sequence: a head with its tokens, then the state; both hashed."""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from array import array
from dataclasses import dataclass
from typing import BinaryIO

from localllm.contract.decoder import State
from localllm.engine.keeping import Conversation

_MAGIC = b"localllm state 1"
_SIZES = struct.Struct("<16s I I Q 32s")
"""Magic and version; bytes of JSON, number of tokens, bytes of state; SHA-256 of the sizes, the JSON and the tokens."""
_MAX_JSON_BYTES = 64 * 1024
_MAX_TOKENS = 16 * 1024 * 1024
_TOKEN_BYTES = 4
_CHUNK_BYTES = 4 * 1024 * 1024


class BrokenStateError(Exception):
    """A file is not what was written, or was written by a later version."""


@dataclass(frozen=True, slots=True)
class StateHead:
    """What a file says of its state before it. ``identity`` is that of ``StateSaving``."""

    identity: str
    conversation: Conversation
    n_bytes: int
    sha256: str


def pack_head(identity: str, conversation: Conversation, state: State) -> bytes:
    """Return what stands in a file before the state."""
    facts = {
        "identity": identity,
        "owner": conversation.owner,
        "group": conversation.group,
        "prompt_length": conversation.prompt_length,
        "sha256": hashlib.sha256(state).hexdigest(),
    }
    text = json.dumps(facts).encode()
    tokens = _little_endian(array("I", conversation.tokens)).tobytes()
    sizes = len(text), len(conversation.tokens), len(state)
    return _SIZES.pack(_MAGIC, *sizes, _head_hash(sizes, text, tokens)) + text + tokens


def read_head(file: BinaryIO, file_bytes: int) -> StateHead:
    """Read a head from the beginning of a file of this size. Raises ``BrokenStateError``, ``OSError``."""
    start = file.read(_SIZES.size)
    if len(start) < _SIZES.size or not start.startswith(_MAGIC):
        raise BrokenStateError
    _, n_json, n_tokens, n_bytes, expected = _SIZES.unpack(start)
    head_bytes = _SIZES.size + n_json + _TOKEN_BYTES * n_tokens
    if n_json > _MAX_JSON_BYTES or n_tokens > _MAX_TOKENS or head_bytes + n_bytes != file_bytes:
        raise BrokenStateError
    text, tokens = file.read(n_json), file.read(_TOKEN_BYTES * n_tokens)
    if _head_hash((n_json, n_tokens, n_bytes), text, tokens) != expected:
        raise BrokenStateError
    ids = _little_endian(array("I", tokens)).tolist()
    try:
        facts = json.loads(text)
        conversation = Conversation(facts["owner"], facts["group"], ids, facts["prompt_length"])
        return StateHead(facts["identity"], conversation, n_bytes, facts["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise BrokenStateError from error


def read_state(file: BinaryIO, head: StateHead) -> State:
    """Read the state that stands behind its head, and check it. Raises ``BrokenStateError``, ``OSError``."""
    state = bytearray(head.n_bytes)
    view, done = memoryview(state), 0
    hashed = hashlib.sha256()
    while done < head.n_bytes:
        piece = view[done : done + _CHUNK_BYTES]
        n_read = file.readinto(piece)  # type: ignore[attr-defined]  # files in binary mode have it
        if not n_read:
            raise BrokenStateError
        hashed.update(piece[:n_read])
        done += n_read
    if hashed.hexdigest() != head.sha256:
        raise BrokenStateError
    return state


def _head_hash(sizes: tuple[int, int, int], text: bytes, tokens: bytes) -> bytes:
    return hashlib.sha256(struct.pack("<I I Q", *sizes) + text + tokens).digest()


def _little_endian(tokens: array[int]) -> array[int]:
    if sys.byteorder == "big":
        tokens.byteswap()
    return tokens
