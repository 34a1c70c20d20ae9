"""The gather engine: all chips lie decoded in GPU memory, and a batch is one indexing operation of torch.

In: values from `cache.device_values`, plans. Out: images on the values' device. Float arithmetic is the direct
engine's, so that the images are equal to the bit (tests/test_resident.py). No resizing and no INPUT=course.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from pipeline.inputs import Inputs
from pipeline.order import Augmentation, center
from pipeline.plans import BatchPlan
from preprocess.nodata import nodata_value


class GatherEngine:
    """Makes the images of planned batches. `values` is (chips, bands, height, width) of the store's dtype; `nodata` is
    that of its layout."""

    def __init__(
        self, values: torch.Tensor, inputs: Inputs, *, crop: tuple[int, int], dtype: torch.dtype, nodata: str | None
    ) -> None:
        self._values, self._crop, self._dtype = values, crop, dtype
        self._nodata = None if nodata is None else float(nodata_value(nodata))
        self.device_bytes = values.nbytes
        mean, std = np.array(inputs.mean, np.float32), np.array(inputs.std, np.float32)
        self._mean = torch.from_numpy(mean).to(values.device)
        self._scale = torch.from_numpy(np.float32(1) / std).to(values.device)

    def epoch(self, plans: Iterable[BatchPlan]) -> Iterator[tuple[BatchPlan, torch.Tensor]]:
        """Each plan with its images (B, channels, height, width), in channels-last memory."""
        height, width = self._values.shape[2:]
        for plan in plans:
            parameters = plan.augmentation or center(len(plan.chips), height=height, width=width, crop=self._crop)
            images = gather(self._values, plan.chips, parameters, self._crop, self._mean, self._scale, self._nodata)
            yield plan, images.to(self._dtype)

    def close(self) -> None:
        """Do nothing: this engine has no threads."""


def gather(
    values: torch.Tensor, chips: np.ndarray, parameters: Augmentation, crop: tuple[int, int], mean: torch.Tensor,
    scale: torch.Tensor, nodata: float | None = None,
) -> torch.Tensor:  # fmt: skip
    """Flip, transpose, crop, mirror and scale `chips` of `values` by indexing: every pixel is read once.

    `nodata` becomes 0; NaN stands for every NaN.

    Returns:
        (B, bands, crop height, crop width) float32, channels-last memory, on the device of `values`.
    """
    device, (height, width) = values.device, values.shape[2:]

    def column(name: str) -> torch.Tensor:
        numbers = torch.from_numpy(np.ascontiguousarray(getattr(parameters, name))).reshape(-1, 1, 1)
        return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers

    down = torch.arange(crop[0], device=device).reshape(1, -1, 1)
    across = torch.arange(crop[1], device=device).reshape(1, 1, -1)
    # From the last step back to the first: mirror columns, crop, transpose, flip rows.
    y = column("crop_y") + down
    x = column("crop_x") + torch.where(column("mirror"), crop[1] - 1 - across, across)
    transpose = column("transpose")
    y, x = torch.where(transpose, x, y), torch.where(transpose, y, x)
    y = torch.where(column("flip_rows"), height - 1 - y, y)
    rows = torch.from_numpy(chips).reshape(-1, 1, 1).to(device, non_blocking=True)
    stored = values.view(torch.int16) if values.dtype is torch.uint16 else values  # torch cannot index uint16
    pixels = stored.flatten(2)[rows, :, y * width + x]  # (B, crop height, crop width, bands)
    if values.dtype is torch.uint16:
        pixels = pixels.to(torch.int32) & 0xFFFF
    pixels = pixels.to(torch.float32)
    images = (pixels - mean) * scale
    if nodata is not None:
        images.masked_fill_(pixels.isnan() | (pixels == nodata), 0)
    return images.permute(0, 3, 1, 2)
