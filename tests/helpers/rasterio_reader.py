"""What rasterio reads: run by the interpreter of rasterio's own environment, `python rasterio_reader.py OUT PATH...`.

In: paths of rasters. Out: OUT, an npz with the pixels of each (0, 1, ...: band, y, x) and `facts`, JSON text with the
versions and, for each path, transform, CRS and nodata.
"""

import json
import sys
import warnings

import numpy as np
import rasterio


def facts_of(dataset: rasterio.DatasetReader) -> dict[str, object]:
    crs = dataset.crs.to_string() if dataset.crs else None
    has_place = dataset.crs is not None or not dataset.transform.is_identity
    nodata = None if dataset.nodata is None else float(dataset.nodata)
    return {
        "crs": crs, "transform": list(dataset.transform)[:6] if has_place else None,
        "nodata": None if nodata is None else repr(nodata), "descriptions": dataset.descriptions,
    }  # fmt: skip


def main() -> None:
    warnings.simplefilter("ignore")  # NotGeoreferencedWarning
    out, *paths = sys.argv[1:]
    pixels, facts = {}, []
    for number, path in enumerate(paths):
        with rasterio.open(path) as dataset:
            pixels[str(number)] = dataset.read()
            facts.append(facts_of(dataset))
    versions = {"rasterio": rasterio.__version__, "GDAL": rasterio.__gdal_version__}
    np.savez(out, facts=np.array(json.dumps({"versions": versions, "files": facts})), **pixels)


if __name__ == "__main__":
    main()
