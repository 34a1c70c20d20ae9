"""C functions of other packages are used if they work. Else the reference decoder replaces them, with one line."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.chips import Chips

from pipeline.c_functions import CRC32C, LZ4, CFunction, load
from preprocess.zarr_store import Store

FUNCTIONS = pytest.mark.parametrize("function", [LZ4, CRC32C], ids=lambda function: function.symbol)


@FUNCTIONS
def test_the_pinned_versions_have_the_functions(function: CFunction, capsys: pytest.CaptureFixture[str]) -> None:
    assert function.works(load(function))
    assert capsys.readouterr().out == ""


@FUNCTIONS
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"symbol": "no_such_function"}, "no_such_function is missing"),
        ({"module": "numcodecs.no_such_module"}, "is missing"),
        # This function exists, but it takes other arguments and returns a number.
        ({"module": "numcodecs.lz4", "symbol": "LZ4_compressBound"}, "LZ4_compressBound gives wrong results"),
    ],
)
def test_a_function_that_does_not_work_is_replaced_by_its_reference(
    function: CFunction, change: dict[str, str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert function.works(load(replace(function, **change)))
    (line,) = capsys.readouterr().out.splitlines()
    assert reason in line
    assert "chips are decoded by the reference decoder, which is slower" in line


def test_the_lz4_reference_refuses_a_damaged_block() -> None:
    decode = load(replace(LZ4, symbol="no_such_function"))
    target = bytes(10)
    assert decode(b"\xff" * 8, target, 8, len(target)) < 0


# The wrong library is searched for both functions, as if they had moved.
READ = """
import sys
import google_crc32c._crc32c, numcodecs.lz4, numcodecs.zstd
numcodecs.lz4.__file__ = google_crc32c._crc32c.__file__ = numcodecs.zstd.__file__
import numpy as np
from pipeline.chunks import ChunkReader
from preprocess.zarr_store import open_store
store = open_store(sys.argv[1])
reader = ChunkReader(store, store.layout.bands)
chips = np.zeros((256, 4, 16, 16), np.uint16)
reader.decode(np.arange(256), chips)
np.save(sys.argv[2], chips)
"""


@pytest.mark.parametrize("kind", ["session_store", "plain_store"])
def test_a_store_is_read_without_the_c_functions(
    request: pytest.FixtureRequest, kind: str, session_chips: Chips, tmp_path: Path
) -> None:
    store: Store = request.getfixturevalue(kind)
    command = [sys.executable, "-c", READ, str(store.path), str(tmp_path / "chips.npy")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["LZ4_decompress_safe", "crc32c_extend"]
    assert np.array_equal(np.load(tmp_path / "chips.npy"), session_chips.values[:256])
