"""A small model card: what goes in, what comes out, how good it is, what to beware of."""

from typing import Any

import numpy as np

from analysis.finished_run import Run
from analysis.run_sections import train_command
from preprocess.console import one_line
from preprocess.zarr_store import Store


def _cell(name: str) -> str:
    """A class's name in a table of Markdown."""
    return one_line(name).replace("|", "\\|")


def model_card(run: Run, store: Store, parity: dict[str, Any]) -> str:
    """Markdown from the run's own records."""
    layout, made = store.layout, run.made_with
    chosen = made.split.epoch_chosen_on
    rows = "\n".join(
        f"| {index} | {_cell(name)} | {count} | {'-' if np.isnan(ap) else f'{ap:.4f}'} |"
        for index, (name, count, ap) in enumerate(zip(run.classes, run.positives.tolist(), run.ap, strict=True))
    )
    beware = [
        f"The epoch was chosen on the {chosen} part" + (", which flatters the scores." if chosen == "test" else "."),
        "Chips of one scene lie in train and test under a random split; scores on new scenes can be lower.",
        "The classes' thresholds are not 0.5: `make report` tunes them for F2, `make predict` uses those.",
    ]
    gap = f"{parity['onnx_from_torch']:.2g} at most in a logit, {parity['onnx_from_torch_share']:.2g} of the largest"
    shape = f"(batch, {len(layout.bands)}, {layout.height}, {layout.width}) {layout.dtype}"
    return f"""# {one_line(run.name)}: {run.config.arch}, task {run.config.task}

Multi-label classification of {layout.height} x {layout.width} satellite chips into {len(run.classes)} classes.

| | |
|---|---|
| input `chips` | {shape}, raw file values, bands {", ".join(layout.bands)} |
| inside | centre crop, choice of bands, standardisation |
| output `logits` | (batch, {len(run.classes)}) float32; probability = sigmoid |
| test mAP | {run.mean_ap:.4f} on {len(run.names):,} chips (split {made.split.rule}) |
| parity | onnxruntime - torch: {gap}, on {parity["chips"]} chips |
| weights, sha256 | {made.model_sha256} |
| commit | {made.commit} |
| made by | `{train_command(run.config)}` |

| output | class | test positives | AP |
|---|---|---|---|
{rows}

## Beware

{chr(10).join(f"- {line}" for line in beware)}
"""
