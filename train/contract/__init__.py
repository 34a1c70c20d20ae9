"""The files of a run folder. Training and analysis read and write them only through this package, which needs no torch.

`record` is run.json, `results` is results.npz, `metrics` is metrics.jsonl, `checkpoint` is the JSON in a checkpoint,
`verdict` is reproduce.json. `fields` checks their values.
"""
