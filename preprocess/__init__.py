"""Convert TIFFs and a CSV of tags once into a sharded Zarr store; open and verify it. Leaves batches to `pipeline`."""
