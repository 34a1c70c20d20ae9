"""`make export`: export a run's network with its preprocessing as ONNX and torch.export, and compare with torch.

In: a run, and its store for the comparison. Out: RUN/export/: model.onnx, model.pt2, MODEL_CARD.md, parity.json. The
input is the files' own values: (batch, bands, height, width) in the store's band order and in the dtype of
EXPORT_INPUT. Leaves the preprocessing, which is part of the exported network, to `raw_network`.
"""

import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from analysis.finished_run import Run, load_run
from analysis.members import refuse_ensemble
from analysis.model_card import model_card
from analysis.pictures import read_chips
from analysis.raw_network import RawNetwork, raw_network
from analysis.saved_model import inputs_of, load_saved
from preprocess.console import UserError, say
from preprocess.zarr_store import Store, open_store, write_atomic

# Largest difference of a logit between onnxruntime and torch, times the largest logit if that is above 1: rounding in
# float32 is relative.
MAX_DIFFERENCE = 1e-5
NUM_CHIPS = 500
OPSET = 20


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Largest differences of a logit on `chips` real chips, and the largest logit."""

    chips: int
    onnx_from_torch: float
    export_from_torch: float
    onnx_from_saved: float
    largest_logit: float
    onnx_from_torch_share: float  # relative to the largest logit, at least 1: compared with the limit


def export(run_path: Path, *, store_path: str | None, export_input: str = "store") -> Path:
    """Write and check the exported network; returns its folder.

    Args:
        run_path: the run's folder.
        store_path: its store, if it has moved.
        export_input: dtype of the input: "store" (the store's own), "float32" or "int32".

    Raises:
        UserError: the run cannot be exported, its store cannot be opened, or logits differ by more than 1e-5 of the
            largest logit (at least 1). RUN/export/ is then unchanged.
    """
    run = load_run(run_path)
    refuse_ensemble(run, "export", "an exported file holds one network, and these are scores of several or with TTA.")
    store = _store(run, store_path)
    dtype = _input_dtype(store, export_input)
    net = _raw_network(run, store)
    folder, partial = run_path / "export", run_path / "export.partial"
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed export
    partial.mkdir()
    try:
        _write_network(partial, run, store, net, dtype)
        parity = _parity(run, store, net, partial, dtype)
        write_atomic(partial / "MODEL_CARD.md", model_card(run, store, vars(parity), dtype.name).encode())
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


def _write_network(folder: Path, run: Run, store: Store, net: RawNetwork, dtype: np.dtype) -> None:
    """model.onnx and model.pt2."""
    example = torch.from_numpy(read_chips(store, np.arange(2) % store.num_chips, store.layout.bands).astype(dtype))
    program, model = converted(net, example)
    for name, value in _metadata(run, store, dtype).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, value
    onnx.checker.check_model(model)
    write_atomic(folder / "model.onnx", model.SerializeToString())
    torch.export.save(program, folder / "model.pt2")


def converted(net: RawNetwork, example: torch.Tensor) -> tuple[torch.export.ExportedProgram, onnx.ModelProto]:
    """The network for batches of any size, as torch.export and ONNX have it. `example`: two raw chips."""
    batch = torch.export.Dim("batch")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the exporter, useless to the user
        program = torch.export.export(net, (example,), dynamic_shapes=({0: batch},))
        exported = torch.onnx.export(
            program, input_names=["chips"], output_names=["logits"], opset_version=OPSET, verbose=False,
            dynamic_shapes=({0: batch},),
        )  # fmt: skip
    assert exported is not None  # None only if a path is given
    return program, exported.model_proto


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
    net, _ = load_saved(run)
    sides = layout.height, layout.width
    return raw_network(
        net, inputs, bands=layout.bands, sides=sides, crop=config.crop_of(*sides), test=config.test,
        nodata=layout.nodata, source=f"RUN={run.path}",
    )  # fmt: skip


def _input_dtype(store: Store, name: str) -> np.dtype:
    """The dtype of the network's input: EXPORT_INPUT, which must hold every value of the store.

    Raises:
        UserError: int32 cannot hold fractions.
    """
    dtype = np.dtype(store.layout.dtype if name == "store" else name)
    if not np.can_cast(store.layout.dtype, dtype):
        raise UserError(
            f"EXPORT_INPUT={name}: expected a store of whole numbers, found {store.layout.dtype}. Use "
            "EXPORT_INPUT=float32."
        )
    return dtype


def _metadata(run: Run, store: Store, dtype: np.dtype) -> dict[str, str]:
    """Facts that a user of model.onnx needs, stored in the file. Names are JSON lists: they may hold commas."""
    return {
        "classes": json.dumps(run.classes),
        "bands": json.dumps(store.layout.bands),
        "dtype": dtype.name,
        **({} if store.layout.nodata is None else {"nodata": store.layout.nodata}),
        "commit": run.made_with.commit,
        "model_sha256": run.made_with.model_sha256,
    }


def _parity_chips(store: Store, names: list[str]) -> np.ndarray:
    """The chips of `names`, then the store's first other chips, up to 500."""
    chip_of = {str(name): chip for chip, name in enumerate(store.names)}  # each access to `store.names` reads it
    first = [chip_of.pop(name) for name in names]
    return np.array([*first, *list(chip_of.values())[: NUM_CHIPS - len(first)]])


def _parity(run: Run, store: Store, net: RawNetwork, folder: Path, dtype: np.dtype) -> Parity:
    """Compare torch with the written files on up to 500 chips, test chips first."""
    names = run.names[:NUM_CHIPS].tolist()
    chips = _parity_chips(store, names)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    program = torch.export.load(folder / "model.pt2").module()
    gaps = np.zeros(4)
    for first in range(0, len(chips), 64):
        images = read_chips(store, chips[first : first + 64], store.layout.bands).astype(dtype)
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
