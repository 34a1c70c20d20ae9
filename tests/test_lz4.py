"""The LZ4 encoder: other decoders read its blocks exactly, for any bytes; matches keep the rules of the format."""

import hashlib

import imagecodecs
import numcodecs.lz4
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess import lz4
from preprocess.codecs import lz4_block_limit


def blocks(chunks: np.ndarray, *, before: int = 0, after: int = 0) -> list[bytes]:
    out = np.full(len(chunks) * (before + lz4_block_limit(chunks.shape[1]) + after) + 64, 0xA5, np.uint8)
    sizes, table = np.empty(len(chunks), np.int64), lz4.make_table(chunks.shape[1])
    table[:] = np.iinfo(table.dtype).max  # what an earlier call can leave there
    lz4.encode_blocks(chunks, out, sizes, table, before, after)
    encoded, at = [], 0
    for size in sizes.tolist():
        assert (out[at : at + before] == 0xA5).all()
        encoded.append(out[at + before : at + before + size].tobytes())
        at += before + size
        assert (out[at : at + after] == 0xA5).all()
        at += after
    assert (out[at:] == 0xA5)[8:].all()
    assert (out[-64:] == 0xA5).all()  # nothing beyond `lz4_block_limit`
    return encoded


def encode_and_decode(data: np.ndarray) -> bytes:
    """Encode, and compare what two other libraries decode."""
    (block,) = blocks(data[None])
    assert len(block) <= lz4_block_limit(len(data))
    header = len(data).to_bytes(4, "little")
    if len(data):
        assert numcodecs.lz4.decompress(header + block) == data.tobytes()
        assert imagecodecs.lz4_decode(block, out=len(data), header=False) == data.tobytes()
    else:
        assert block == b"\0"
    keeps_the_rules(block, len(data))
    return block


def keeps_the_rules(block: bytes, size: int) -> list[tuple[int, int]]:
    """Read the sequences as the format's page describes them. Returns (literals, match length) of each."""
    at, out, sequences = 0, 0, []

    def length(nibble: int, at: int) -> tuple[int, int]:
        total = nibble
        while nibble == 15:
            byte = block[at]
            at, total = at + 1, total + byte
            if byte != 255:
                break
        return total, at

    while True:
        token = block[at]
        literals, at = length(token >> 4, at + 1)
        at, out = at + literals, out + literals
        if at == len(block):
            assert out == size
            assert not sequences or literals >= 5
            sequences.append((literals, 0))
            return sequences
        distance = int.from_bytes(block[at : at + 2], "little")
        assert 1 <= distance <= out
        assert out <= size - 12  # where the last match may begin
        match, at = length(token & 15, at + 2)
        out += match + 4
        sequences.append((literals, match + 4))


@st.composite
def mixtures(draw: st.DrawFn) -> np.ndarray:
    """Runs, noise, and repeats from any distance, also beyond 65,535 bytes; lengths around each limit of the code."""
    lengths = st.integers(0, 40) | st.sampled_from((254, 255, 269, 270, 271, 274, 275, 300, 5000, 65535, 65536, 65537))
    data = np.empty(0, np.uint8)
    for _ in range(draw(st.integers(0, 12))):
        count, kind = draw(lengths), draw(st.sampled_from(("repeat", "run", "ramp", "two values", "noise")))
        rng = np.random.default_rng(draw(st.integers(0, 2**16)))
        if kind == "repeat" and len(data):
            back = draw(st.integers(1, 200) | st.sampled_from((65534, 65535, 65536, 65537, 100_000)))
            piece = np.resize(data[max(0, len(data) - back) :], count)
        elif kind == "run":
            piece = np.full(count, rng.integers(256))
        elif kind == "ramp":
            piece = np.arange(count) % 7
        else:
            piece = rng.integers(0, 2 if kind == "two values" else 256, count)
        data = np.concatenate([data, piece.astype(np.uint8)])
    return data


@settings(max_examples=200)
@given(mixtures())
def test_every_decoder_returns_the_bytes_that_were_encoded(data: np.ndarray) -> None:
    encode_and_decode(data)


def test_a_match_is_at_most_65535_bytes_away() -> None:
    """The same 64 random bytes before and after zeros: a match at 65,535 bytes, no match at 65,536."""
    repeated = np.random.default_rng(0).integers(1, 256, 64)
    for distance, second in ((65535, (0, 95)), (65536, (64, 31))):
        data = np.zeros(distance + 100, np.uint8)
        data[:64] = data[distance : distance + 64] = repeated
        first, then, last = keeps_the_rules(encode_and_decode(data), len(data))
        assert sum(first) == distance
        assert (then, last) == (second, (5, 0))  # the 64 bytes and zeros, or zeros alone


def test_the_end_of_a_block_is_literals() -> None:
    """Zeros: one literal, one match that ends 5 bytes before the end."""
    (block,) = blocks(np.zeros((1, 1000), np.uint8))
    assert keeps_the_rules(block, 1000) == [(1, 994), (5, 0)]


def test_several_chunks_are_encoded_into_one_buffer_with_gaps() -> None:
    rng = np.random.default_rng(3)
    chunks = rng.integers(0, 3, (5, 4096), dtype=np.uint8)
    for chunk, block in zip(chunks, blocks(chunks, before=4, after=4), strict=True):
        assert blocks(chunk[None]) == [block]  # chunks do not influence each other


def test_read_only_chunks_are_accepted() -> None:
    chunks = np.zeros((1, 100), np.uint8)
    chunks.setflags(write=False)
    assert blocks(chunks)


def test_the_encoder_makes_fewer_matches_than_the_reference_encoder() -> None:
    """For the high bytes of noisy pixels, without more bytes: the purpose of the encoder."""
    rng = np.random.default_rng(0)
    high = (5000 + 130 * rng.normal(size=65536)).astype(np.uint16) >> 8
    data = high.astype(np.uint8)
    block, reference = blocks(data[None])[0], bytes(numcodecs.lz4.compress(data, 1))[4:]
    assert 3 * len(keeps_the_rules(block, 65536)) < 2 * len(keeps_the_rules(reference, 65536))
    assert len(block) < len(reference)


@pytest.mark.parametrize(
    ("size", "digest"),
    [
        (5000, "59712e27ea8996dc70f918b8a981c0ea98d69e23223000073d387487fae0abc7"),
        (65536, "f521394fb87456fddd16fc40e4a32c251f98787b15e8a3e27c2c9407c3e1f33f"),
        (100_000, "6eb96cd0788e9772ae43eb1f2ac082e60972173d0bace9dd5fe58d9a112ebe83"),  # positions need 4 bytes
    ],
)
def test_blocks_are_those_of_earlier_versions(size: int, digest: str) -> None:
    """Two values, two values with another distance, noise, zeros, and runs of 7."""
    rng = np.random.Generator(np.random.Philox(key=15))
    few = rng.integers(0, 2, (2, size), np.uint8)
    other = few * rng.integers(0, 40, (2, 1), np.uint8)
    noise, zeros = rng.integers(0, 256, (2, size), np.uint8), np.zeros((1, size), np.uint8)
    chunks = np.concatenate([few, other, noise, zeros, np.repeat(few, 7, axis=1)[:, :size]])
    assert hashlib.sha256(b"".join(blocks(chunks))).hexdigest() == digest
