"""The request and the answer of ``POST /v1/embeddings``."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from struct import Struct
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import orjson
from pydantic import Field

from localllm.contract.pooling import PoolFinished, PoolRequest
from localllm.openai.texts import Texts, texts_field, to_prompts
from localllm.openai.unsupported import EMBEDDING_REFUSALS, refuse_unsupported
from localllm.openai.wire_model import WireModel, validate

MAX_INPUTS: Final = 2048

if TYPE_CHECKING:
    InputField = Texts
else:
    InputField = texts_field(Annotated[str, Field(min_length=1)], max_texts=MAX_INPUTS)


class EmbeddingRequest(WireModel):
    """A checked embeddings request; :func:`parse_embedding` makes it.

    ``truncate`` cuts the end of texts that are longer than the model's context. ``normalize`` false leaves vectors at
    the length that the model gave them.
    """

    model: str | None = Field(None, max_length=512)
    input: InputField
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)
    truncate: bool = False
    normalize: bool = True

    def pool_request(self) -> PoolRequest:
        """Return what the model is asked for: the inputs keep their order."""
        return PoolRequest(
            to_prompts(self.input), truncate=self.truncate, dimensions=self.dimensions, normalize=self.normalize
        )


def parse_embedding(body: Mapping[str, Any]) -> EmbeddingRequest:
    """Return the checked request in ``body`` (decoded JSON).

    Raises ``InvalidRequestError``, or ``UnsupportedFeatureError`` for what would change the answer and isn't there;
    both name the field as ``param``.
    """
    refuse_unsupported(body, EMBEDDING_REFUSALS)
    return validate(EmbeddingRequest, body)


def embedding_pieces(
    model: str, vectors: Sequence[bytes], finished: PoolFinished, encoding_format: Literal["float", "base64"]
) -> Iterator[bytes]:
    """Yield the JSON of an answer, one piece for each vector (little-endian float32), so that it need not be held.

    ``truncated`` lists the inputs that were cut, where any were.
    """
    encode = _base64 if encoding_format == "base64" else _floats(len(vectors[0]))
    yield b'{"object":"list","data":['
    for index, vector in enumerate(vectors):
        comma = b"," if index else b""
        yield b'%b{"object":"embedding","index":%d,"embedding":%b}' % (comma, index, encode(vector))
    rest = {
        "model": model,
        "usage": {"prompt_tokens": finished.prompt_tokens, "total_tokens": finished.prompt_tokens},
        **({"truncated": sorted(finished.truncated)} if finished.truncated else {}),
    }
    yield b"]," + orjson.dumps(rest)[1:]


def _base64(vector: bytes) -> bytes:
    return b'"%b"' % b2a_base64(vector, newline=False)


def _floats(n_bytes: int) -> Callable[[bytes], bytes]:
    unpack = Struct(f"<{n_bytes // 4}f").unpack
    return lambda vector: orjson.dumps(unpack(vector))
