"""Our LZ4 blocks: other decoders read them, to the byte, whatever the bytes are; matches keep the format's rules."""

import imagecodecs
import numcodecs.lz4
import numpy as np
import pytest

from preprocess import lz4


def blocks(chunks: np.ndarray, *, before: int = 0, after: int = 0) -> list[bytes]:
    out = np.full(len(chunks) * (before + lz4.max_bytes(chunks.shape[1]) + after) + 64, 0xA5, np.uint8)
    sizes, table = np.empty(len(chunks), np.int64), np.full(lz4.TABLE_SIZE, 2**40, np.uint64)
    lz4.encode_blocks(chunks, out, sizes, table, before, after)
    found, at = [], 0
    for size in sizes.tolist():
        assert (out[at : at + before] == 0xA5).all()
        found.append(out[at + before : at + before + size].tobytes())
        at += before + size
        assert (out[at : at + after] == 0xA5).all()
        at += after
    assert (out[at:] == 0xA5)[8:].all()
    assert (out[-64:] == 0xA5).all()  # nothing beyond `max_bytes`
    return found


def equals(data: np.ndarray) -> bytes:
    """Encode, and decode with two other libraries."""
    (block,) = blocks(data[None])
    assert len(block) <= lz4.max_bytes(len(data))
    header = len(data).to_bytes(4, "little")
    if len(data):
        assert numcodecs.lz4.decompress(header + block) == data.tobytes()
        assert imagecodecs.lz4_decode(block, out=len(data), header=False) == data.tobytes()
    else:
        assert block == b"\0"
    keeps_the_rules(block, len(data))
    return block


def keeps_the_rules(block: bytes, size: int) -> list[tuple[int, int]]:
    """Read the sequences as the format's page says. Returns (literals, match length) of each."""
    at, out, found = 0, 0, []

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
            assert not found or literals >= 5
            found.append((literals, 0))
            return found
        distance = int.from_bytes(block[at : at + 2], "little")
        assert 1 <= distance <= out
        assert out <= size - 12  # where the last match may begin
        match, at = length(token & 15, at + 2)
        out += match + 4
        found.append((literals, match + 4))


@pytest.mark.parametrize("size", [*range(40), 255, 270, 271, 300, 65535, 65536, 65537, 200_000])
def test_every_size(size: int) -> None:
    rng = np.random.default_rng(size)
    for data in (np.zeros(size), rng.integers(0, 256, size), rng.integers(0, 2, size), np.arange(size) % 7):
        equals(data.astype(np.uint8))


@pytest.mark.parametrize("seed", range(40))
def test_random_mixtures(seed: int) -> None:
    """Runs, noise, repeats from any distance back, also beyond 65,535 bytes, of lengths around all that is coded."""
    rng = np.random.default_rng(seed)
    parts, total = [], 0
    while total < 150_000:
        count = int(rng.choice([1, 3, 6, 7, 8, 14, 15, 16, 18, 19, 20, 270, 274, 275, 5000]))
        kind = rng.integers(4)
        if kind == 0 and total > count:
            whole = np.concatenate(parts)
            back = int(rng.choice([1, 2, 7, 8, 100, 65534, 65535, 65536, 65537, 100_000]))
            start = max(0, total - back)
            part = np.resize(whole[start : start + count], count)
        elif kind == 1:
            part = np.full(count, rng.integers(256))
        else:
            part = rng.integers(0, 256 if kind == 2 else 3, count)
        parts.append(part.astype(np.uint8))
        total += count
    equals(np.concatenate(parts))


def test_a_match_is_at_most_65535_bytes_away() -> None:
    """The same 64 random bytes before and after zeros: found at that distance, left alone at the next."""
    repeated = np.random.default_rng(0).integers(1, 256, 64)
    for distance, second in ((65535, (0, 95)), (65536, (64, 31))):
        data = np.zeros(distance + 100, np.uint8)
        data[:64] = data[distance : distance + 64] = repeated
        first, then, last = keeps_the_rules(equals(data), len(data))
        assert sum(first) == distance
        assert (then, last) == (second, (5, 0))  # the 64 bytes and zeros, or zeros alone


def test_the_end_of_a_block_is_literals() -> None:
    """Zeros: one literal, one match that ends 5 bytes before the end."""
    (block,) = blocks(np.zeros((1, 1000), np.uint8))
    assert keeps_the_rules(block, 1000) == [(1, 994), (5, 0)]


def test_several_chunks_with_room_around_them() -> None:
    rng = np.random.default_rng(3)
    chunks = rng.integers(0, 3, (5, 4096), dtype=np.uint8)
    for chunk, block in zip(chunks, blocks(chunks, before=4, after=4), strict=True):
        assert blocks(chunk[None]) == [block]  # and what came before does not matter


def test_read_only_chunks_are_taken() -> None:
    chunks = np.zeros((1, 100), np.uint8)
    chunks.setflags(write=False)
    assert blocks(chunks)


def test_fewer_matches_than_the_reference_encoder_makes() -> None:
    """What it is for: high bytes of noisy pixels, in no more bytes."""
    rng = np.random.default_rng(0)
    high = (5000 + 130 * rng.normal(size=65536)).astype(np.uint16) >> 8
    data = high.astype(np.uint8)
    ours, theirs = blocks(data[None])[0], bytes(numcodecs.lz4.compress(data, 1))[4:]
    assert 3 * len(keeps_the_rules(ours, 65536)) < 2 * len(keeps_the_rules(theirs, 65536))
    assert len(ours) < len(theirs)
