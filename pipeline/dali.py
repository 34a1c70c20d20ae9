"""The DALI engine: source -> graph -> torch tensors, without a copy. The only border between DALI and torch.

In: a reader of chips, a `GraphSpec`, plans. Out: images. Leaves the nodes to `graph` and the host's buffers to
`dali_source`.

This is what we rely on in DALI 2.4, each with the file of github.com/NVIDIA/DALI that it was read from. No GPU has
confirmed it yet: `make gpu-check` and `train.gpu_proof` check the batches that come out.

Buffers in use at once. `external_source(no_copy=True)` shares our memory and copies nothing (`ShareUserData` in
    dali/pipeline/operator/builtin/input_operator.h). A pipeline of prefetch depth 2 asks for 2 batches ahead
    (`Prefetch` and `InputFeedCount` in dali/pipeline/executor/executor2/exec2.cc) and for one more in the call that
    returns the oldest (`run` in dali/python/nvidia/dali/pipeline.py). `Source` has PREFETCH_QUEUE_DEPTH + DEPTH + 1
    = 5 slots; at most 4 are in use: 2 in DALI, 2 being filled.
Who waits for whom. `Pipeline.run()` waits on the host until the batch is finished (`PopOutputs` in exec2.cc takes the
    value of the task's future and waits for the workspace's event). So nothing reads the slot of a batch that has
    come out. Operators wait for each other through events on their streams (`SetWorkspaceInputs` in
    dali/pipeline/executor/executor2/exec_node_task.cc). torch's stream waits for the batch's own event (`__dlpack__`
    of TensorGPU in dali/python/backend_impl.cc).
When memory may be used again. The dynamic executor makes new outputs in every iteration (`SetupOp` in
    exec_node_task.cc), and DLPack keeps an output alive as long as torch does: a batch that somebody holds is never
    overwritten. A thread of DALI takes freed memory back, after `cudaDeviceSynchronize()` (`run` in
    include/dali/core/mm/detail/deferred_dealloc.h, `synchronize` in include/dali/core/mm/cuda_vm_resource.h and
    pool_resource.h): by then the kernels that torch queued have ended.
What a captured CUDA graph forbids. `cudaDeviceSynchronize()` is an error while a stream is captured, and nothing
    catches it on that thread: the process would abort. `train.setup.check_graphs` therefore refuses COMPILE=max
    with this engine on a GPU.
Decoding. `decoders.inflate` launches a grid of (1, 1, chunks of the batch) (`FillTheTails` in
    dali/operators/decoder/inflate/inflate_gpu.cu), at most 65,535: `chunks.MAX_INFLATE_CHUNKS`. It never reads
    nvCOMP's status of a chunk; bytes that were not written become zeros. `train.gpu_proof` therefore compares a batch
    before the first epoch. Offsets and sizes are int32, and a chunk may end where the chip's bytes end
    (`ValidateSizesAgainstOffsets` in dali/operators/decoder/inflate/inflate_params.h).
One copy more than needed. DALI does not recognise a numpy array as pinned memory (`_prep_data_for_feed_input` in
    dali/python/nvidia/dali/external_source.py) and copies it into pinned memory of its own. `TensorListCPU(buffer,
    layout, is_pinned=True)` would save that copy. Not done: the GPU would then read our slots themselves, and only a
    GPU can show that nothing overwrites them too early.
"""

import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from pipeline.chunks import ChunkReader
from pipeline.dali_source import PREFETCH_QUEUE_DEPTH, ChipReader, Source
from pipeline.graph import GraphSpec, eval_graph, train_graph
from pipeline.plans import BatchPlan


class DaliEngine:
    """Makes the images of planned batches, on the CPU or a GPU."""

    def __init__(self, reader: ChipReader, spec: GraphSpec, *, train: bool) -> None:
        layout, crop = spec.layout, spec.crop
        self._source = Source(
            reader, batch_size=spec.batch_size, decode=spec.decode, workers=spec.threads, flips=spec.flips,
            slack=(layout.height - crop[0], layout.width - crop[1]),
            allocate=_touched if spec.device_id is None else _pinned,
        )  # fmt: skip
        make_graph = train_graph if train else eval_graph
        self._pipeline: Any = make_graph(spec, self._source)  # DALI ships no types
        with _without_npp_warning():
            self._pipeline.build()
        self.device_bytes = 0 if spec.device_id is None else device_bytes(spec, reader)

    def epoch(self, plans: Iterable[BatchPlan]) -> Iterator[tuple[BatchPlan, torch.Tensor]]:
        """Each plan with its images (B, channels, height, width), in channels-last memory on the graph's device."""
        inside: deque[BatchPlan] = deque()  # plans of the batches that DALI works on
        self._source.begin(_recorded(plans, inside))
        try:
            while True:
                try:
                    (images,) = self._pipeline.run()
                except StopIteration:
                    return
                # DALI's tensor owns the memory and torch keeps it alive: no copy (see DALI's own PyTorch iterator).
                yield inside.popleft(), from_dlpack(images.as_tensor()).permute(0, 3, 1, 2)
        finally:
            # Also when the caller breaks off: take out the batches in work, so that the next epoch starts clean.
            self._source.stop()
            _drain(self._pipeline)

    def close(self) -> None:
        """End the reading threads."""
        self._source.close()


@contextmanager
def _without_npp_warning() -> Iterator[None]:
    """Hide one warning: that DALI's wheel ships without NPP, which we do not use. `check_cuda_runtime` in
    dali/python/nvidia/dali/backend.py gives it at the first GPU pipeline of a process, with our exact versions too.
    Where warnings are errors, the pipeline could not be built."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", r"nvidia-dali-cuda\d+ is no longer shipped with CUDA runtime\..* NPP is typically provided"
        )
        yield


def _recorded(plans: Iterable[BatchPlan], inside: deque[BatchPlan]) -> Iterator[BatchPlan]:
    for plan in plans:
        inside.append(plan)
        yield plan


def device_bytes(spec: GraphSpec, reader: ChipReader) -> int:
    """The peak of GPU memory that a loader may take, in bytes: DALI's pool keeps the memory of an iteration.

    Per chip: the encoded bytes, the decoded chip twice (before and after its bytes are put in order; once where the
    host decodes) and the image; all this for each batch in DALI and for the batch in training. An upper bound:
    operators free their inputs earlier.
    """
    layout, bands = spec.layout, len(spec.inputs.stored_bands)
    decoded = bands * layout.height * layout.width * layout.itemsize
    image = spec.crop[0] * spec.crop[1] * len(spec.inputs.bands) * (2 if spec.dtype == "float16" else 4)
    if spec.decode == "device":
        assert isinstance(reader, ChunkReader)
        decoded = reader.max_span_bytes + 2 * decoded
    if layout.nodata is not None:  # the mask and the filled chip, in 32 bits, and their products
        decoded += 4 * bands * layout.height * layout.width * 4
    return spec.batch_size * (PREFETCH_QUEUE_DEPTH + 1) * (decoded + image)


def _drain(pipeline: Any) -> None:
    try:
        while True:
            pipeline.run()
    except StopIteration:
        pipeline.reset()


def _touched(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Host memory with every page faulted in, so that the first epoch is as fast as the others."""
    return np.full(shape, 1, dtype)


def _pinned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Page-locked host memory: copies to the GPU run at full speed, at the same time as kernels.

    (DALI 2.4 does not recognise a numpy array as pinned and copies it once more: see above.)
    """
    num_bytes = int(np.prod(shape)) * dtype.itemsize
    return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True).numpy().view(dtype).reshape(shape)
