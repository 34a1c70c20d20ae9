"""A network that takes chips as they are in files: the preprocessing of the test split is part of it.

In: a run's network, its inputs, and how its chips are arranged. Out: a torch module from raw values to logits. Leaves
files to `export`, and loading to `saved_model`. TEST=resize is refused.
"""

from math import isnan

import torch
from torch import nn

from pipeline.inputs import Inputs
from preprocess.console import UserError
from preprocess.nodata import nodata_value


class RawNetwork(nn.Module):
    """Network from raw chips to logits. Buffers hold the scaling; the crop is fixed at construction.

    The first operation is a cast: TensorRT has no uint16 tensors behind an input.
    """

    def __init__(
        self, net: nn.Module, inputs: Inputs, bands: tuple[int, ...], window: tuple[int, int, int, int],
        nodata: float | None = None, *, shape: tuple[int, int, int],
    ) -> None:  # fmt: skip
        """
        Args:
            net: the run's network.
            inputs: kind, mean and std of its channels.
            bands: positions of `inputs.stored_bands` among the raw chip's bands.
            window: (top, left, height, width) of the centre crop.
            nodata: the raw value that the network gets as the mean, or NaN; None if every value counts.
            shape: (bands, height, width) of the chips.
        """
        super().__init__()
        self.net = net
        self.shape = shape
        self.window, self.nodata, self.is_course = window, nodata, inputs.kind == "course"
        self.register_buffer("bands", torch.tensor(bands))
        # As in DALI's crop_mirror_normalize: (value - mean) * (1 / std), float32.
        self.register_buffer("mean", torch.tensor(inputs.mean, dtype=torch.float32)[:, None, None])
        self.register_buffer("scale", (1 / torch.tensor(inputs.std, dtype=torch.float32))[:, None, None])

    def forward(self, chips: torch.Tensor) -> torch.Tensor:
        """(B, bands, height, width) raw values, of any dtype that holds them -> (B, classes) float32 logits.

        Raises:
            UserError: chips of another shape.
        """
        # An exported graph has a fixed shape instead.
        if not torch.compiler.is_exporting() and (chips.ndim != 4 or tuple(chips.shape[1:]) != self.shape):
            raise UserError(
                f"chips: expected the shape (B, {', '.join(map(str, self.shape))}), found {tuple(chips.shape)}."
            )
        top, left, height, width = self.window
        cropped = chips.to(torch.float32)[:, :, top : top + height, left : left + width]
        values = torch.index_select(cropped, 1, self.get_buffer("bands"))
        channels = self._course_values(values) if self.is_course else values
        images = (channels - self.get_buffer("mean")) * self.get_buffer("scale")
        if self.nodata is not None:
            images = images.masked_fill(self._missing(values), 0.0)
        logits: torch.Tensor = self.net(images)
        return logits

    def _course_values(self, values: torch.Tensor) -> torch.Tensor:
        """PIL's formula, see `graph.course_values`, in float32: TensorRT clips no integers. A quotient of numbers up to
        65,025 and 255 that is no integer is at least 1/255 away from one, so rounding does not change its floor."""
        high = torch.floor(values / 256)
        colours, alpha = high[:, 0:3], high[:, 3:4]
        divided = torch.floor(colours * 255 / alpha.clamp(min=1)).clamp(max=255)
        visible = divided * (alpha > 0).to(torch.float32)
        return torch.cat([visible, alpha], 1)[:, : len(self.get_buffer("mean"))]

    def _missing(self, values: torch.Tensor) -> torch.Tensor:
        """(B, channels, y, x): which values are nodata; with INPUT=course also where NIR is, as in the graph."""
        assert self.nodata is not None
        marked = values.isnan() if isnan(self.nodata) else values == self.nodata
        if not self.is_course:
            return marked
        return torch.cat([marked[:, 0:3] | marked[:, 3:4], marked[:, 3:4]], 1)[:, : len(self.get_buffer("mean"))]


def raw_network(
    net: nn.Module, inputs: Inputs, *, bands: tuple[str, ...], sides: tuple[int, int], crop: tuple[int, int],
    test: str, nodata: str | None, source: str,
) -> RawNetwork:  # fmt: skip
    """Put the preprocessing in front of a network.

    Args:
        net, inputs: of the run.
        bands, sides, nodata: of the raw chips: names in order, (height, width), and the store's nodata.
        crop: (height, width) of the network's input.
        test: the run's TEST.
        source: begins the error.

    Raises:
        UserError: TEST=resize, or a band is missing.
    """
    if test != "center":
        raise UserError(
            f"{source}: expected TEST=center, found TEST={test}. Its resize is DALI's antialiasing filter, and ONNX "
            "has no operator with the same values. Train with TEST=center, or use make predict."
        )
    if missing := [band for band in inputs.stored_bands if band not in bands]:
        raise UserError(f"{source}: expected chips with {', '.join(missing)}, found {', '.join(bands)}.")
    places = tuple(bands.index(band) for band in inputs.stored_bands)
    top, left = (round((side - size) / 2) for side, size in zip(sides, crop, strict=True))
    value = None if nodata is None else float(nodata_value(nodata))
    return RawNetwork(net, inputs, places, (top, left, *crop), value, shape=(len(bands), *sides)).eval()
