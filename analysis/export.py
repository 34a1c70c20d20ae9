"""`make export`: export a run's network with its preprocessing as ONNX and torch.export, and compare with torch.

In: a run, and its store for the comparison. Out: RUN/export/: model.onnx, model.pt2, MODEL_CARD.md, parity.json. The
input is the TIFFs' own values: (batch, bands, height, width) in the store's dtype and band order. Centre crop, choice
of bands, nodata and scaling are part of the exported network, as in the test graph. INPUT=course and TEST=resize cannot
be exported.
"""

import json
import shutil
import warnings
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from analysis.finished_run import Run, load_run
from analysis.model_card import model_card
from analysis.pictures import read_chips
from analysis.saved_model import inputs_of, load_saved
from preprocess.console import UserError, say
from preprocess.csv_rows import csv_line
from preprocess.nodata import nodata_value
from preprocess.zarr_store import Store, open_store, write_atomic

# Largest difference of a logit between onnxruntime and torch, times the largest logit if that is above 1: rounding in
# float32 is relative.
MAX_DIFFERENCE = 1e-5
NUM_CHIPS = 500
OPSET = 20


class RawNetwork(nn.Module):
    """Network from raw chips to logits. Buffers hold the scaling; the crop is fixed at construction."""

    def __init__(
        self, net: nn.Module, bands: tuple[int, ...], mean: tuple[float, ...], std: tuple[float, ...],
        window: tuple[int, int, int, int], nodata: float | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            net: the run's network.
            bands: positions of the network's channels among the raw chip's bands, in order.
            mean, std: per channel, in raw units.
            window: (top, left, height, width) of the centre crop.
            nodata: the raw value that the network gets as the mean, or NaN; None if every value counts.
        """
        super().__init__()
        self.net = net
        self.window, self.nodata = window, nodata
        self.register_buffer("bands", torch.tensor(bands))
        # As in DALI's crop_mirror_normalize: (value - mean) * (1 / std), float32.
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None])
        self.register_buffer("scale", (1 / torch.tensor(std, dtype=torch.float32))[:, None, None])

    def forward(self, chips: torch.Tensor) -> torch.Tensor:
        """(B, bands, height, width) raw values -> (B, classes) float32 logits."""
        top, left, height, width = self.window
        cropped = chips[:, :, top : top + height, left : left + width].to(torch.float32)
        values = torch.index_select(cropped, 1, self.get_buffer("bands"))
        images = (values - self.get_buffer("mean")) * self.get_buffer("scale")
        if self.nodata is not None:
            images = images.masked_fill(values.isnan() if isnan(self.nodata) else values == self.nodata, 0.0)
        logits: torch.Tensor = self.net(images)
        return logits


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Largest differences of a logit on `chips` real chips, and the largest logit."""

    chips: int
    onnx_from_torch: float
    export_from_torch: float
    onnx_from_saved: float
    largest_logit: float
    onnx_from_torch_share: float  # relative to the largest logit, at least 1: compared with the limit


def export(run_path: Path, *, store_path: str | None) -> Path:
    """Write and check the exported network; returns its folder.

    Raises:
        UserError: the run cannot be exported, its store cannot be opened, or logits differ by more than 1e-5 of the
        largest
            logit (at least 1). RUN/export/ is then unchanged.
    """
    run = load_run(run_path)
    store = _store(run, store_path)
    net = _raw_network(run, store)
    folder, partial = run_path / "export", run_path / "export.partial"
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed export
    partial.mkdir()
    try:
        _write_network(partial, run, store, net)
        parity = _parity(run, store, net, partial)
        write_atomic(partial / "MODEL_CARD.md", model_card(run, store, vars(parity)).encode())
        write_atomic(partial / "parity.json", (json.dumps(vars(parity), indent=1) + "\n").encode())
        folder.mkdir(exist_ok=True)
        for path in sorted(partial.iterdir()):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    say(
        f"{folder}: model.onnx, model.pt2, MODEL_CARD.md; on {parity.chips} chips onnxruntime's logits differ from "
        f"torch's by {parity.onnx_from_torch:.2g} at most, {parity.onnx_from_torch_share:.2g} of the largest logit "
        f"({parity.largest_logit:.3g}); torch.export's by {parity.export_from_torch:.2g}"
    )
    return folder


def _write_network(folder: Path, run: Run, store: Store, net: RawNetwork) -> None:
    """model.onnx and model.pt2."""
    example = torch.from_numpy(read_chips(store, np.arange(2) % store.num_chips, store.layout.bands))
    batch = torch.export.Dim("batch")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the exporter, useless to the user
        program = torch.export.export(net, (example,), dynamic_shapes=({0: batch},))
        converted = torch.onnx.export(
            program, input_names=["chips"], output_names=["logits"], opset_version=OPSET, verbose=False,
            dynamic_shapes=({0: batch},),
        )  # fmt: skip
    assert converted is not None  # None only if a path is given
    model = converted.model_proto
    for name, value in _metadata(run, store).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, value
    onnx.checker.check_model(model)
    write_atomic(folder / "model.onnx", model.SerializeToString())
    torch.export.save(program, folder / "model.pt2")


def _store(run: Run, store_path: str | None) -> Store:
    store = open_store(store_path or run.config.store)
    expected = run.made_with.store.fingerprint
    if store.fingerprint != expected:
        raise UserError(
            f"{store.path}: expected the store with fingerprint {expected[:12]}, found {store.fingerprint[:12]}."
        )
    return store


def _raw_network(run: Run, store: Store) -> RawNetwork:
    config, inputs, layout = run.config, inputs_of(run, store), store.layout
    if inputs.kind != "raw" or config.test != "center":
        raise UserError(
            f"RUN={run.path}: expected INPUT=raw and TEST=center, found INPUT={config.input} and "
            f"TEST={config.test}. Others cannot be exported."
        )
    net, _ = load_saved(run)
    sides = layout.height, layout.width
    height, width = config.crop_of(*sides)
    top, left = round((sides[0] - height) / 2), round((sides[1] - width) / 2)
    nodata = None if layout.nodata is None else float(nodata_value(layout.nodata))
    window = (top, left, height, width)
    return RawNetwork(net, store.band_indices(inputs.bands), inputs.mean, inputs.std, window, nodata).eval()


def _metadata(run: Run, store: Store) -> dict[str, str]:
    """Facts that a user of model.onnx needs, stored in the file."""
    return {
        "classes": csv_line(run.classes),
        "bands": ",".join(store.layout.bands),
        "dtype": store.layout.dtype,
        **({} if store.layout.nodata is None else {"nodata": store.layout.nodata}),
        "commit": run.made_with.commit,
        "model_sha256": run.made_with.model_sha256,
    }


def _parity_chips(store: Store, names: list[str]) -> np.ndarray:
    """The chips of `names`, then the store's first other chips, up to 500."""
    chip_of = {str(name): chip for chip, name in enumerate(store.names)}  # each access to `store.names` reads it
    first = [chip_of.pop(name) for name in names]
    return np.array([*first, *list(chip_of.values())[: NUM_CHIPS - len(first)]])


def _parity(run: Run, store: Store, net: RawNetwork, folder: Path) -> Parity:
    """Compare torch with the written files on up to 500 chips, test chips first."""
    names = run.names[:NUM_CHIPS].tolist()
    chips = _parity_chips(store, names)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    program = torch.export.load(folder / "model.pt2").module()
    gaps = np.zeros(4)
    for first in range(0, len(chips), 64):
        images = read_chips(store, chips[first : first + 64], store.layout.bands)
        with torch.no_grad():
            reference, exported = net(torch.from_numpy(images)).numpy(), program(torch.from_numpy(images)).numpy()
        (onnx_logits,) = session.run(None, {"chips": images})
        saved = run.logits[first : min(first + 64, len(names))]
        gaps = np.maximum(gaps, [
            np.abs(onnx_logits - reference).max(), np.abs(exported - reference).max(),
            np.abs(onnx_logits[: len(saved)] - saved).max(initial=0), np.abs(reference).max(),
        ])  # fmt: skip
    worst, scale = float(max(gaps[:2])), max(1.0, float(gaps[3]))
    if worst > MAX_DIFFERENCE * scale:
        raise UserError(
            f"RUN={run.path}: expected logits within {MAX_DIFFERENCE * scale:.3g} of torch's (1e-5 of the largest, "
            f"{scale:.3g}), found a difference of {worst:.3g}. Nothing was exported."
        )
    return Parity(
        chips=len(chips), onnx_from_torch=float(gaps[0]), export_from_torch=float(gaps[1]),
        onnx_from_saved=float(gaps[2]), largest_logit=float(gaps[3]), onnx_from_torch_share=float(gaps[0]) / scale,
    )  # fmt: skip
