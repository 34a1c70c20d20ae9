"""What a run folder's files say, in one place: read and written here by training and analysis alike. Without torch.

`record` is run.json, `results` is results.npz, `metrics` is metrics.jsonl; `fields` checks their values.
"""
