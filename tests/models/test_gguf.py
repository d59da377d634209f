"""The GGUF reader tells what a right file says, and refuses a wrong one with a sentence, whatever is wrong with it."""

from __future__ import annotations

import itertools
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from localllm.contract.errors import ModelFileError
from localllm.models import gguf_bytes
from localllm.models.gguf import read_header
from localllm.models.gguf_bytes import MAX_METADATA_BYTES
from localllm.models.gguf_header import GgufHeader
from tests.models.raw_gguf import ARRAY, BOOL, F32, I8, STRING, U8, U32, U64, RawGguf, Tensor, architecture, text


def refuse(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        read_header(path)
    assert caught.value.message.startswith(path.name)
    return caught.value.message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


@pytest.mark.parametrize("version", [2, 3])
def test_a_right_file_is_described(path: Path, version: int) -> None:
    header = read_header(RawGguf(version=version).write(path))
    assert header.version == version
    assert (header.architecture, header.name, header.role) == ("llama", "Tiny", "model")
    assert (header.context_length, header.embedding_length, header.block_count) == (2048, 32, 2)
    assert (header.n_params, header.n_tensors, header.size_bytes) == (128, 1, path.stat().st_size)
    assert (header.quantisation, header.vocab_size, header.has_chat_template) == ("Q8_0", 3, True)
    assert (header.pooling_type, header.is_classifier, header.n_parts) == (None, False, 1)


def test_the_quantisation_without_a_file_type_is_that_of_most_weights(path: Path) -> None:
    raw = RawGguf(tensors=[Tensor(), Tensor("b", (32, 100), kind=8, offset=512, n_bytes=3400)])
    del raw.pairs["general.file_type"]
    assert read_header(raw.write(path)).quantisation == "Q8_0"


def test_long_strings_are_kept_in_part_and_arrays_by_length(path: Path) -> None:
    long = "x" * 1_000_000
    raw = RawGguf().with_pairs(tokenizer__chat_template=(STRING, long), general__n=(ARRAY, (U8, [1] * 70_000)))
    header = read_header(raw.write(path))
    assert header.metadata["tokenizer.chat_template"] == "x" * 1024
    assert header.arrays["general.n"] == 70_000
    assert header.context_length == 2048  # read behind them


def test_text_that_is_no_utf8_does_no_harm(path: Path) -> None:
    header = read_header(RawGguf().with_pairs(general__name=(STRING, b"\xff\xfe")).write(path))
    assert header.name == "\ufffd\ufffd"


def test_a_vocabulary_of_262144_tokens_passes_within_little_memory(path: Path) -> None:
    vocabulary = b"".join(text(f"token{n}") for n in range(262_144))
    raw = RawGguf()
    del raw.pairs["tokenizer.ggml.tokens"], raw.pairs["tokenizer.ggml.scores"]
    raw.n_pairs = len(raw.pairs) + 1
    head = raw.header()[:24]
    tokens = text("tokenizer.ggml.tokens") + struct.pack("<IIQ", ARRAY, STRING, 262_144) + vocabulary
    rest = raw.header()[24:]
    content = head + tokens + rest
    path.write_bytes(content + bytes(-len(content) % 32 + 512))
    tracemalloc.start()
    try:
        header = read_header(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert header.vocab_size == 262_144
    assert peak < 2_000_000


HUGE = 2**63
FAULTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file ends inside its first four bytes"),
    "not gguf": (b"PK\x03\x04" + bytes(100), "not a GGUF file"),
    "version 1": (RawGguf(version=1).bytes(), "GGUF version 1"),
    "version 4": (RawGguf(version=4).bytes(), "GGUF version 4"),
    "big endian": (RawGguf(version=3 << 24).bytes(), "big-endian"),
    "key count": (RawGguf(n_pairs=HUGE).bytes(), "announces 9223372036854775808 keys"),
    "tensor count": (RawGguf(n_tensors=HUGE).bytes(), "tensors, more than"),
    "more keys than bytes": (RawGguf(n_pairs=4000).bytes(), "the file ends inside its tables"),
    "more tensors than bytes": (RawGguf(n_tensors=90_000).bytes(), "the file ends inside its tables"),
    "one key too few": (RawGguf(n_pairs=9).bytes(), ""),
    "key too long": (RawGguf(pairs={"k" * 70_000: (U32, 1)}).bytes(), "70000 bytes, more than 65536"),
    "empty key": (RawGguf().with_pairs(**{"": (U32, 1)}).bytes(), "has no name"),
    "unknown value type": (RawGguf().with_pairs(x=(U32, 1)).bytes().replace(b"x\x04\0\0\0", b"x\x63\0\0\0"), "type 99"),
    "array in array": (RawGguf().with_pairs(x=(ARRAY, (ARRAY, []))).bytes(), "unknown value type 9"),
    "no architecture": (RawGguf(pairs={"general.name": (STRING, "x")}).bytes(), "names no architecture"),
    "architecture a number": (RawGguf().with_pairs(general__architecture=(U32, 1)).bytes(), "names no architecture"),
    "2**31 blocks": (RawGguf().with_pairs(llama__block_count=(U32, 2**31)).bytes(), "llama.block_count is 2147483648"),
    "blocks a float": (RawGguf().with_pairs(llama__block_count=(F32, 2.0)).bytes(), "llama.block_count is 2.0"),
    "blocks a bool": (RawGguf().with_pairs(llama__block_count=(BOOL, True)).bytes(), "llama.block_count is True"),
    "negative context": (RawGguf().with_pairs(llama__context_length=(I8, -1)).bytes(), "llama.context_length is -1"),
    "no context": (RawGguf().with_pairs(llama__context_length=(U64, 0)).bytes(), "llama.context_length is 0"),
    "heads": (RawGguf().with_pairs(**{"llama.attention.head_count": (U32, 5000)}).bytes(), "head_count is 5000"),
    "alignment 0": (RawGguf().with_pairs(general__alignment=(U32, 0)).bytes(), "general.alignment is 0"),
    "alignment 24": (RawGguf().with_pairs(general__alignment=(U32, 24)).bytes(), "general.alignment is 24"),
    "five dimensions": (RawGguf(tensors=[Tensor(shape=(1,) * 5)]).bytes(), "5 dimensions"),
    "shape overflow": (RawGguf(tensors=[Tensor(shape=(2**40, 2**40))]).bytes(), "impossibly large"),
    "type removed": (RawGguf(tensors=[Tensor(kind=4)]).bytes(), "type 4"),
    "type unknown": (RawGguf(tensors=[Tensor(kind=2**31)]).bytes(), "type 2147483648"),
    "row is no block": (RawGguf(tensors=[Tensor(shape=(33, 4), kind=8)]).bytes(), "Q8_0 can't store"),
    "misplaced": (RawGguf(tensors=[Tensor(offset=8)]).bytes(), "not a multiple of 32"),
    "beyond the file": (RawGguf(tensors=[Tensor(offset=2**62, n_bytes=-(2**62))]).bytes(), "truncated"),
    "two of one name": (RawGguf(tensors=[Tensor(), Tensor(offset=512)]).bytes(), "two tensors named"),
    "overlap": (RawGguf(tensors=[Tensor(), Tensor("b", offset=256)]).bytes(), "overlap"),
    "tensor name too long": (RawGguf(tensors=[Tensor("n" * 64)]).bytes(), "64 bytes, more than 63"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_sentence(path: Path, fault: str) -> None:
    content, sentence = FAULTS[fault]
    assert sentence in refuse(path, content)


def test_a_key_that_stands_twice(path: Path) -> None:
    raw = RawGguf(n_pairs=11)
    pair = text("general.name") + struct.pack("<I", STRING) + text("again")
    content = raw.bytes()
    assert "the name 'general.name' a second time" in refuse(path, content[:24] + pair + content[24:])


@pytest.mark.parametrize("count", [2**64 - 1, 10_000_001, 9_000_000])
@pytest.mark.parametrize("kind", [STRING, U8, U64])
def test_an_array_that_announces_more_than_there_is(path: Path, kind: int, count: int) -> None:
    content = RawGguf().with_pairs(x=(ARRAY, (kind, []))).bytes()
    announced = content.replace(
        b"x" + struct.pack("<IIQ", ARRAY, kind, 0), b"x" + struct.pack("<IIQ", ARRAY, kind, count)
    )
    message = refuse(path, announced)
    assert "values, more than" in message or "the file ends inside x" in message


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 10_000])
@pytest.mark.parametrize("kind", ["scalar", "array"])
def test_a_string_that_announces_more_than_there_is(path: Path, kind: str, length: int) -> None:
    pair = (STRING, "zzzz") if kind == "scalar" else (ARRAY, (STRING, ["zzzz"]))
    content = RawGguf().with_pairs(x=pair).bytes()
    assert "the file ends inside x" in refuse(path, content.replace(text("zzzz"), struct.pack("<Q", length) + b"zzzz"))


@pytest.mark.parametrize("missing", [1, 32, 511, 512])
def test_a_file_cut_inside_its_tensors(path: Path, missing: int) -> None:
    assert "truncated or still being copied" in refuse(path, RawGguf().bytes()[:-missing])


def test_a_file_cut_anywhere_in_its_header(path: Path) -> None:
    content = RawGguf().bytes()
    for length in range(0, len(content) - 512, 7):
        refuse(path, content[:length])


def test_metadata_beyond_its_limit(path: Path) -> None:
    raw = RawGguf().with_pairs(x=(STRING, ""))
    content = raw.bytes().replace(
        text("x") + struct.pack("<IQ", STRING, 0), text("x") + struct.pack("<IQ", STRING, 2**26)
    )
    with path.open("wb") as file:
        file.write(content)
        file.truncate(MAX_METADATA_BYTES * 2)  # sparse: takes no room
    with pytest.raises(ModelFileError, match="metadata is larger than 67108864 bytes"):
        read_header(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(ModelFileError, match="can't be read"):
            read_header(path)


def test_a_file_that_shrinks_while_it_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RawGguf().write(path)
    real = gguf_bytes.HeaderBytes

    def shrink_first(file: object, size: int, name: str) -> gguf_bytes.HeaderBytes:
        path.write_bytes(path.read_bytes()[:50])
        return real(file, size, name)  # type: ignore[arg-type]

    monkeypatch.setattr("localllm.models.gguf.HeaderBytes", shrink_first)
    with pytest.raises(ModelFileError, match="became shorter"):
        read_header(path)


MUTATIONS = st.lists(
    st.tuples(st.integers(0, 2000), st.sampled_from([b"\0", b"\xff", b"\xff" * 8, b"\x7f", b"\x09", bytes(8)])),
    max_size=4,
)


@given(MUTATIONS, st.integers(0, 4000), st.booleans())
@example([], 4000, False)
def test_a_mutated_file_gives_a_header_or_the_one_error(
    tmp_path_factory: pytest.TempPathFactory, mutations: list[tuple[int, bytes]], length: int, fill: bool
) -> None:
    content = bytearray(RawGguf(tensors=[Tensor(), Tensor("b", kind=8, offset=512, n_bytes=136)]).bytes())
    for position, change in mutations:
        at = position % len(content)
        content[at : at + len(change)] = change
    path = tmp_path_factory.getbasetemp() / "mutated.gguf"
    path.write_bytes(bytes(content[:length]) + (b"\xff" * 100_000 if fill else b""))
    tracemalloc.start()
    try:
        header = read_header(path)
    except ModelFileError as error:
        assert error.message
    else:
        assert isinstance(header, GgufHeader)
        assert isinstance(header.quantisation, str)
        assert header.context_length is None or header.context_length > 0
        assert header.n_params <= 8 * header.size_bytes
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 4_000_000


def test_kinds_of_files(path: Path) -> None:
    cases = {
        "adapter": RawGguf().with_pairs(general__type=(STRING, "adapter")),
        "mmproj": architecture("clip"),
        "imatrix": RawGguf().with_pairs(general__type=(STRING, "imatrix")),
    }
    for role, raw in cases.items():
        assert read_header(raw.write(path)).role == role


def test_later_parts_of_a_split_need_no_architecture(path: Path) -> None:
    raw = RawGguf(pairs={"split.no": (U32, 1), "split.count": (U32, 2)})
    header = read_header(raw.write(path))
    assert (header.architecture, header.n_parts) == ("", 2)


def test_every_tensor_type_has_its_size(path: Path) -> None:
    """A tensor of one block fits exactly: one byte less is refused."""
    from localllm.models.gguf_types import TENSOR_TYPES

    for (number, kind), one in itertools.product(TENSOR_TYPES.items(), [0, 1]):
        raw = RawGguf(tensors=[Tensor(shape=(kind.block,), kind=number, n_bytes=kind.block_bytes - one)])
        raw.write(path)
        if one:
            with pytest.raises(ModelFileError):
                read_header(path)
        else:
            assert read_header(path).n_params == kind.block


def test_the_tables_agree_with_the_gguf_package() -> None:
    import gguf

    from localllm.models.gguf_types import FILE_TYPES, TENSOR_TYPES

    for kind, (block, block_bytes) in gguf.GGML_QUANT_SIZES.items():
        if kind.name != "Q8_1":  # the package counts two 32-bit floats; ggml-common.h has two 16-bit ones
            assert TENSOR_TYPES[kind.value] == (kind.name, block, block_bytes)
    for kind in gguf.LlamaFileType:
        if kind.value in FILE_TYPES:
            assert kind.name.split("_", 1)[1] == FILE_TYPES[kind.value]
