"""TIFFs and a CSV of tags, converted once into a sharded Zarr store. Leaves batches to `pipeline`."""
