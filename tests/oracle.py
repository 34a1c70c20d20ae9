"""The expected images of a batch, computed from plain zarr values with numpy: no DALI, no code of the pipeline."""

import numpy as np

from pipeline.order import Augmentation


def augment(chip: np.ndarray, parameters: Augmentation, row: int, crop: tuple[int, int]) -> np.ndarray:
    """(bands, height, width) -> (bands, crop height, crop width), in the four documented steps."""
    if parameters.flip_rows[row]:
        chip = chip[:, ::-1]
    if parameters.transpose[row]:
        chip = chip.transpose(0, 2, 1)
    top, left = int(parameters.crop_y[row]), int(parameters.crop_x[row])
    chip = chip[:, top : top + crop[0], left : left + crop[1]]
    return chip[:, :, ::-1] if parameters.mirror[row] else chip


def center(chip: np.ndarray, crop: tuple[int, int]) -> np.ndarray:
    """torchvision's CenterCrop."""
    top, left = (round((full - size) / 2) for full, size in zip(chip.shape[1:], crop, strict=True))
    return chip[:, top : top + crop[0], left : left + crop[1]]


def scale(values: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """(values - mean) / std per band, in float64."""
    shape = (-1, 1, 1)
    return (values.astype(np.float64) - np.reshape(mean, shape)) / np.reshape(std, shape)


def pil_course(chip: np.ndarray) -> np.ndarray:
    """(4, y, x) uint16 B, G, R, NIR -> uint8: PIL's reading of such a file, see `graph.course_values`."""
    high = (chip >> 8).astype(np.int64)
    colours, alpha = high[:3], high[3:4]
    divided = np.minimum(255, colours * 255 // np.maximum(alpha, 1))
    colours = np.where(alpha == 0, 0, np.where(alpha == 255, colours, divided))
    return np.concatenate([colours, alpha]).astype(np.uint8)
