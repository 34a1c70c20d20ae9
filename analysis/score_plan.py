"""What Dask workers must know to score blocks of chips, as one file: OUT.partial/plan.npz.

In: a `ScorePlan`. Out: the file, which each worker reads once, so a task is about 200 bytes. Leaves the tasks to
`cluster_scores`.
"""

import io
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from analysis.chip_folder import Files, FolderReader
from analysis.raster_folder import RasterReader
from preprocess.addresses import is_url
from preprocess.console import UserError
from preprocess.fit import Fit
from preprocess.layout import layout_from
from preprocess.packed_texts import PackedTexts
from preprocess.plan_file import chip_files_from

PLAN = "plan.npz"


@dataclass(frozen=True, kw_only=True)
class ScorePlan:
    """A prediction.

    run: path of the run. models: SHA-256 of the weights of the run or of its members. reader: of the chips; its `bands`
    are not kept. folder: from which relative paths start. gpu: GPU=..., None if the user gave none. is_local: whether
    the workers are those of CLUSTER=local.
    """

    run: str
    models: tuple[str, ...]
    reader: FolderReader
    folder: str
    gpu: str | None
    tta: bool
    is_local: bool

    def encode(self) -> tuple[bytes, str]:
        """(the file, its digest). Equal plans give equal bytes."""
        reader, files = self.reader, self.reader.files
        paths = PackedTexts.of(files.paths)
        header: dict[str, Any] = {
            "run": self.run, "models": self.models, "folder": self.folder, "gpu": self.gpu, "tta": self.tta,
            "is_local": self.is_local, "layout": reader.layout.as_json(), "axes": reader.axes,
            "fit": asdict(reader.fit) if reader.fit else None, "bands": files.bands, "prefix": paths.prefix,
            "how": asdict(reader.how) if isinstance(reader, RasterReader) else None,
        }  # fmt: skip
        arrays = {"path_bytes": paths.data, "path_ends": paths.ends, "size": files.size, "mtime_ns": files.mtime_ns}
        if files.corners is not None:
            arrays["corners"] = files.corners
        if files.etags is not None:
            etags = PackedTexts.of(files.etags)
            header["etag_prefix"] = etags.prefix
            arrays |= {"etag_bytes": etags.data, "etag_ends": etags.ends}
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, header=np.array(json.dumps(header)), **arrays)
        return file.getvalue(), xxhash.xxh3_128_hexdigest(file.getvalue())


def read_plan(path: Path, digest: str) -> ScorePlan:
    """The plan in a file.

    Raises:
        UserError: it is another plan.
    """
    data = path.read_bytes()
    if xxhash.xxh3_128_hexdigest(data) != digest:
        raise UserError(f"{path}: another prediction has replaced the plan. Stop it, and run the same command again.")
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        header = json.loads(str(file["header"]))
        paths = PackedTexts(prefix=header["prefix"], data=file["path_bytes"], ends=file["path_ends"])
        files = Files(  # the names are not needed here
            names=paths, paths=_from_here(paths, header["folder"]), size=file["size"], mtime_ns=file["mtime_ns"],
            bands=tuple(header["bands"]), corners=file["corners"] if "corners" in file.files else None,
            etags=PackedTexts(prefix=header["etag_prefix"], data=file["etag_bytes"], ends=file["etag_ends"])
            if "etag_bytes" in file.files else None,
        )  # fmt: skip
    layout = layout_from({"nodata": None, **header["layout"]})
    if header["how"]:
        how = chip_files_from(header["how"])
        reader: FolderReader = RasterReader(files=files, layout=layout, bands=(), how=how)
    else:
        fit = Fit(**header["fit"]) if header["fit"] else None
        reader = FolderReader(files=files, layout=layout, bands=(), axes=header["axes"], fit=fit)
    return ScorePlan(
        run=header["run"], models=tuple(header["models"]), reader=reader, folder=header["folder"], gpu=header["gpu"],
        tta=header["tta"], is_local=header["is_local"],
    )  # fmt: skip


def _from_here(paths: PackedTexts, folder: str) -> PackedTexts:
    """Paths that can be opened from this process's folder."""
    if is_url(paths.prefix) or Path(paths.prefix).is_absolute() or folder == str(Path.cwd()):
        return paths
    return replace(paths, prefix=os.path.join(folder, paths.prefix))
