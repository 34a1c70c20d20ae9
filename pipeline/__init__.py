"""From a store to batches on the device. Leaves networks and losses to others.

    store = open_store("chips.zarr")
    split = make_split("course", store)
    loader = train_loader(store, split.train, raw_inputs(store, ("red", "green", "blue"), split.train), batch_size=64)
    for batch in loader.epoch(0):
        ...  # batch.images_nchw, batch.labels

Four objects stand between stored bytes and a training step:

1. reader: `chunks.ChunkReader` knows where the chunks of each chip lie, reads them and checks their crc32c.
2. engine: makes the images of a planned batch. `direct.DirectEngine` is one compiled pass on the CPU,
   `dali.DaliEngine` is DALI's graph, `gather.GatherEngine` indexes chips that lie decoded in GPU memory.
3. loader: `loader.ChipLoader` plans an epoch (`plans`), gives the plans to the engine and adds the labels.
4. `loader.Batch`: images, labels, chip numbers.

When DALI runs. On a GPU always, unless CACHE=device keeps the chips there. On the CPU only where it must: for resizing
(TEST=resize), INPUT=course, float16 images, and files without a store (`make predict`). Everything else on the CPU is
the direct engine's, because that is faster: 5,900 chips/s instead of 3,150 from LZ4 chunks, 16,200 instead of 4,530
from CODEC=none (docs/log.md). The images are equal to the bit. `engines.ENGINES` is the table of what each can do.
"""

import os

# Before DALI is imported: its pool for small CPU allocations makes CPU graphs 1.8 to 3.8 times faster (measured).
os.environ.setdefault("DALI_MALLOC_POOL_THRESHOLD", "1M")
