"""C functions and memory addresses for the compiled kernels.

Out: `lz4_decompress`, `crc32c` and `memcpy`, which code compiled by numba calls without the GIL; `pointer` and `array`,
with which it reads memory at an address. Leaves the loops to `kernels` and `augment`.

LZ4 and crc32c lie in the extension modules of numcodecs and google-crc32c. Neither package promises to export them. So
each function is looked up by name and tried on a known block when this module is imported. If it is missing or wrong,
one line is printed and the reference decoder takes its place: a Python callback with the same results, which is slower
because it needs the GIL.

Code that numba has compiled and cached calls these functions by name, so it need not be compiled again when an address
changes. It contains copies of `pointer` and `array`, and numba notices changes in a kernel's own file only: give a
changed one a new name.
"""

import ctypes
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import google_crc32c
import llvmlite.binding
import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from preprocess.codecs import CODECS, LZ4_HEADER_BYTES
from preprocess.console import say


@dataclass(frozen=True, kw_only=True)
class CFunction:
    """A C function that another package's extension module contains.

    module, symbol: where it is. prototype: its ctypes type. works: tries it on a known block. reference: a Python
    function with the same arguments and result.
    """

    module: str
    symbol: str
    prototype: Any
    works: Callable[[Any], bool]
    reference: Callable[..., int]


def load(function: CFunction) -> Any:
    """The C function as a ctypes function. If it is missing or gives wrong results, prints one line and returns the
    reference instead."""
    try:
        library = ctypes.CDLL(importlib.import_module(function.module).__file__)
        native = function.prototype((function.symbol, library))
        if function.works(native):
            return native
        reason = "gives wrong results"
    except (ImportError, OSError, AttributeError):
        reason = "is missing"
    say(
        f"{function.symbol} {reason} in the installed {function.module.partition('.')[0]}: chips are decoded by the "
        "reference decoder, which is slower. Install the version that constraints.txt names."
    )
    return function.prototype(function.reference)


def view(address: int, count: int) -> np.ndarray:
    """`count` bytes of memory at `address` as a uint8 array; the caller keeps the memory's owner alive."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(address))


# Literals, then a match that overlaps itself.
_BLOCK, _DECODED = bytes.fromhex("7f63616e6f70792007000350616e6f7079"), b"canopy canopy canopy canopy canopy"


def _lz4_works(function: Any) -> bool:
    decoded = ctypes.create_string_buffer(len(_DECODED))
    return function(_BLOCK, decoded, len(_BLOCK), len(_DECODED)) == len(_DECODED) and decoded.raw == _DECODED


def _lz4_reference(source: int, target: int, size: int, capacity: int) -> int:
    payload = capacity.to_bytes(LZ4_HEADER_BYTES, "little") + ctypes.string_at(source, size)
    try:
        CODECS["lz4"].decode(np.frombuffer(payload, np.uint8), view(target, capacity))
    except (ValueError, RuntimeError):
        return -1
    return capacity


# int LZ4_decompress_safe(const char* src, char* dst, int compressedSize, int dstCapacity)
LZ4 = CFunction(
    module="numcodecs.lz4",
    symbol="LZ4_decompress_safe",
    prototype=ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int),
    works=_lz4_works,
    reference=_lz4_reference,
)
# uint32_t crc32c_extend(uint32_t crc, const uint8_t* data, size_t count)
CRC32C = CFunction(
    module="google_crc32c._crc32c",
    symbol="crc32c_extend",
    prototype=ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t),
    works=lambda function: function(0, b"123456789", 9) == 0xE3069283,  # the check value of crc32c's definition
    reference=lambda crc, data, count: google_crc32c.extend(crc, ctypes.string_at(data, count)),
)
_loaded = {function.symbol: load(function) for function in (LZ4, CRC32C)}  # ctypes functions must stay referenced
_libc = ctypes.CDLL(None)


def external(name: str, address: int, signature: Any) -> Any:
    """A function that compiled code calls by `name`; `signature` is numba's."""
    llvmlite.binding.add_symbol(name, address)
    return types.ExternalFunction(name, signature)


def _address(function: Any) -> int:
    return int(ctypes.cast(function, ctypes.c_void_p).value or 0)


def libc_address(name: str) -> int:
    """The address of a function of the C library."""
    return _address(getattr(_libc, name))


lz4_decompress: Any = external(
    "canopy_lz4_decompress", _address(_loaded[LZ4.symbol]),
    types.int32(types.uintp, types.uintp, types.int32, types.int32),
)  # fmt: skip
crc32c: Any = external(
    "canopy_crc32c", _address(_loaded[CRC32C.symbol]), types.uint32(types.uint32, types.uintp, types.uintp)
)
# void* memcpy(void* dst, const void* src, size_t count)
memcpy: Any = external("canopy_memcpy", libc_address("memcpy"), types.uintp(types.uintp, types.uintp, types.uintp))


def _as_pointer(context: Any, address: Any) -> Any:
    """An address as the pointer that `array` takes."""
    del context

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), code


pointer: Any = intrinsic(_as_pointer)
array: Any = numba.carray  # type: ignore[attr-defined]  # (pointer, count, dtype)
