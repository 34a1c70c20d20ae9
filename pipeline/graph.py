"""The DALI graphs: decode, augment, choose and scale bands, lay out. DALI only; never sees torch or Zarr.

`train_graph` and `eval_graph` share `decode` and `finish`. Neither draws random numbers: the train graph gets crops and
flips as inputs, the eval graph gets none. CPU and GPU run the same nodes; only `inflate_chips` needs a GPU.

Chips enter as (band, y, x). Images leave as (y, x, channel): viewed as NCHW, that is channels-last memory.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from nvidia.dali import fn, math, pipeline_def, types
from nvidia.dali.pipeline import Pipeline

from pipeline.dali_source import PREFETCH_QUEUE_DEPTH
from pipeline.inputs import Inputs
from pipeline.order import augmentation_fields
from preprocess.layout import Layout
from preprocess.nodata import NAN, nodata_value

Node = Any  # DALI's DataNode; its arithmetic is not typed
_DALI_TYPE = {
    "uint8": types.UINT8, "uint16": types.UINT16, "int16": types.INT16, "float16": types.FLOAT16,
    "float32": types.FLOAT,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GraphSpec:
    """What a graph needs to know.

    crop: (height, width) of the images. test: "center" or "resize". decode: "host" (decoded chips enter) or "device"
    (LZ4 chunks enter; needs a GPU). dtype: "float32" or "float16", of the images. device_id: None for the CPU.
    """

    layout: Layout
    inputs: Inputs
    crop: tuple[int, int]
    flips: str
    test: str
    decode: str
    dtype: str
    batch_size: int
    threads: int
    device_id: int | None


def train_graph(spec: GraphSpec, source: Callable[[], list[Any]] | None) -> Pipeline:
    """Decode, flip rows, transpose, crop, mirror, scale. `source` None: a graph that is only serialised."""

    @pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
    def graph() -> Node:
        encoded, parameters = _external(spec, source, fields=augmentation_fields(spec.flips, spec.decode))
        chips = decode(spec, encoded)
        # Host decode flips rows while it writes them, at no cost; on a CPU fn.flip costs 0.25 ms per chip and more.
        if spec.decode == "device" and "flip_rows" in parameters:
            if parameters["flip_rows"]:
                chips = fn.flip(chips, horizontal=0, vertical=1)
        if "transpose" in parameters:
            if parameters["transpose"]:
                chips = fn.transpose(chips, perm=[0, 2, 1], transpose_layout=False)
        return finish(
            spec, chips, crop_pos_y=parameters["crop_y"], crop_pos_x=parameters["crop_x"], mirror=parameters["mirror"]
        )  # fmt: skip

    with warnings.catch_warnings():
        # From Python 3.13 on, gast 0.7.0 (with which DALI translates each `if`) makes AST nodes in a deprecated way.
        # Where warnings are errors, DALI would leave the `if` untranslated and the graph could not be built.
        warnings.filterwarnings("ignore", r"\w+\.__init__ got an unexpected keyword argument '___pyct_anno'")
        return graph(**_pipeline_arguments(spec))


def eval_graph(spec: GraphSpec, source: Callable[[], list[Any]] | None) -> Pipeline:
    """Decode, take the centre or resize with antialiasing, scale. There is no random input."""

    @pipeline_def  # type: ignore[untyped-decorator]
    def graph() -> Node:
        encoded, _ = _external(spec, source, fields=())
        chips = decode(spec, encoded)
        if spec.test == "resize":
            # In float: rounding back to integers would lose the precision that averaging gains.
            chips = fn.resize(
                chips, size=list(spec.crop), interp_type=types.INTERP_LINEAR, antialias=True, dtype=types.FLOAT
            )
            return finish(spec, chips)
        top, left = (
            _center(side, crop) / max(side - crop, 1)
            for side, crop in zip((spec.layout.height, spec.layout.width), spec.crop, strict=True)
        )
        return finish(spec, chips, crop_pos_y=top, crop_pos_x=left)

    return graph(**_pipeline_arguments(spec))


def decode(spec: GraphSpec, encoded: list[Node]) -> Node:
    """The source's arrays -> (band, y, x) chips with the values of the inputs, on the graph's device."""
    if spec.decode == "device":
        chips = inflate_chips(spec, *encoded)
    else:
        chips = encoded[0].gpu() if spec.device_id is not None else encoded[0]
    images = course_values(chips)[: len(spec.inputs.bands)] if spec.inputs.kind == "course" else chips
    return images if spec.layout.nodata is None else fill_nodata(spec, images, _missing(spec, chips))


def fill_nodata(spec: GraphSpec, images: Node, missing: Node) -> Node:
    """(band, y, x) images -> float32, with the mean of its channel where `missing` is 1: scaling makes it 0.

    Bits are chosen, not values: 0 times NaN is NaN. A resize comes after this, so beside nodata it mixes in the mean.
    """
    mean = np.array(spec.inputs.mean, np.float32).view(np.int32).reshape(-1, 1, 1)
    bits = fn.reinterpret(fn.cast(images, dtype=types.FLOAT), dtype=types.INT32)
    chosen = bits * (1 - missing) + types.Constant(mean, device=images.device) * missing
    return fn.reshape(fn.reinterpret(chosen, dtype=types.FLOAT), layout="CHW")


def _missing(spec: GraphSpec, chips: Node) -> Node:
    """(channel, y, x) int32: 1 where stored (band, y, x) chips are nodata. With "course" also where NIR is, because
    PIL's formula divides by it."""
    nodata = spec.layout.nodata
    assert nodata is not None
    if nodata == NAN:
        marked = (fn.reinterpret(chips, dtype=types.INT32) & 0x7FFFFFFF) > 0x7F800000
    else:
        value = float(nodata_value(nodata))
        marked = chips == (value if spec.layout.dtype == "float32" else int(value))
    missing = fn.cast(marked, dtype=types.INT32)
    if spec.inputs.kind != "course":
        return missing
    nir = missing[3:4]
    return fn.cat(math.max(missing[0:3], nir), nir, axis=0)[: len(spec.inputs.bands)]


def inflate_chips(spec: GraphSpec, data: Node, offsets: Node, sizes: Node) -> Node:
    """LZ4 chunks -> (band, y, x) chips, on the GPU.

    `data` is one chip's bytes; `offsets` and `sizes` (int32, CPU) say where its LZ4 blocks lie. A chunk holds the
    lowest bytes of all values first and their highest bytes last (numcodecs' shuffle). So: inflate as bytes, swap the
    axes, read as values.
    """
    layout = spec.layout
    shape = [len(spec.inputs.stored_bands), layout.height, layout.width]
    values = layout.chunk_rows * layout.width
    planes = fn.decoders.inflate(
        data.gpu(), chunk_offsets=offsets, chunk_sizes=sizes, shape=[layout.itemsize, values], dtype=types.UINT8
    )
    if layout.itemsize == 1:
        return fn.reshape(planes, shape=shape, layout="CHW")
    return fn.reinterpret(
        fn.transpose(planes, perm=[0, 2, 1]), shape=shape, dtype=_DALI_TYPE[layout.dtype], layout="CHW"
    )


def course_values(chips: Node) -> Node:
    """The values that PIL makes of a 16-bit B, G, R, NIR file opened as RGBA: (4, y, x) uint16 -> (4, y, x) uint8.

    PIL keeps the high bytes, uses NIR as alpha A, and divides: C = 0 if A = 0, else min(255, C * 255 // A).
    (For A = 255 that is C itself.) Equal to the bit on real chips, Pillow 9.3 to 13.
    """
    high = fn.cast(chips, dtype=types.INT32) // 256
    colours, alpha = high[0:3], high[3:4]
    visible = fn.cast(alpha > 0, dtype=types.INT32)
    divided = math.min(colours * 255 // math.max(alpha, 1), 255) * visible
    both = fn.cat(fn.cast(divided, dtype=types.UINT8), fn.cast(alpha, dtype=types.UINT8), axis=0)
    return fn.reshape(both, layout="CHW")


def finish(spec: GraphSpec, chips: Node, **crop_and_mirror: Any) -> Node:
    """Crop, mirror columns, scale each band, and change (band, y, x) to (y, x, channel), in one pass."""
    return fn.crop_mirror_normalize(
        chips, crop=spec.crop, mean=list(spec.inputs.mean), std=list(spec.inputs.std),
        dtype=_DALI_TYPE[spec.dtype], output_layout="HWC", rounding="round", **crop_and_mirror,
    )  # fmt: skip


def _center(side: int, crop: int) -> int:
    return round((side - crop) / 2)  # as torchvision's CenterCrop


def _pipeline_arguments(spec: GraphSpec) -> dict[str, Any]:
    return {
        "batch_size": spec.batch_size,
        "num_threads": spec.threads,
        "device_id": spec.device_id,
        "prefetch_queue_depth": PREFETCH_QUEUE_DEPTH,
    }


def _external(
    spec: GraphSpec, source: Callable[[], list[Any]] | None, *, fields: tuple[str, ...]
) -> tuple[list[Node], dict[str, Node]]:
    """One external source for all that comes from the host, in the order of `Source.__call__`."""
    uint8, int32, float32, boolean = types.UINT8, types.INT32, types.FLOAT, types.BOOL
    encoded = (
        [(_DALI_TYPE[spec.layout.dtype], 3, "CHW")]
        if spec.decode == "host"
        else [(uint8, 1, ""), (int32, 1, ""), (int32, 1, "")]
    )
    type_of = {"crop_y": float32, "crop_x": float32, "mirror": int32, "flip_rows": boolean, "transpose": boolean}
    outputs = encoded + [(type_of[name], 0, "") for name in fields]
    nodes = fn.external_source(
        source or _no_source, num_outputs=len(outputs), batch=True, no_copy=True,
        dtype=[dtype for dtype, _, _ in outputs],
        ndim=[ndim for _, ndim, _ in outputs],
        layout=[layout for _, _, layout in outputs],
    )  # fmt: skip
    return list(nodes[: len(encoded)]), {name: nodes[len(encoded) + index] for index, name in enumerate(fields)}


def _no_source() -> list[Any]:
    """The source of a graph that is only serialised."""
    raise StopIteration
