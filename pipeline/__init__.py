"""From a store to batches on the device. Leaves models and losses to others.

store = open_store("chips.zarr")
split = make_split("course", store)
loader = train_loader(store, split.train, raw_inputs(store, ("red", "green", "blue"), split.train), batch_size=64)
for batch in loader.epoch(0):
    ...  # batch.images_nchw, batch.labels
"""

import os

# Before DALI is imported: its small-allocation pool for CPU buffers, 1.8 to 3.8 times faster CPU graphs (measured).
os.environ.setdefault("DALI_MALLOC_POOL_THRESHOLD", "1M")
