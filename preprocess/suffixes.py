"""The endings of files of images and labels. Imports nothing heavy, so that settings are checked before anything is
installed."""

from pathlib import Path

from preprocess.addresses import Location

SUFFIXES = (".tif", ".tiff", ".geotiff")  # in any case
PICTURES = (".jpg", ".jpeg", ".png")  # chips themselves, or pictures made from TIFFs that a CSV may name
JSON, PARQUET = (".jsonl", ".ndjson", ".json"), (".parquet", ".pq")
FOLDERS = Path("folders")  # LABELS=folders: the labels are the names of folders


def is_csv(path: Location) -> bool:
    """Whether a path is read as a CSV: everything but LABELS=folders and files with the suffix of another kind."""
    return path != FOLDERS and path.suffix.lower() not in JSON + PARQUET
