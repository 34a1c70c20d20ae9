"""A small model card: input, output, scores, limitations.

In: a run, its store, the comparison of the export. Out: Markdown.
"""

import re
from typing import Any

import numpy as np

from analysis.finished_run import Run
from analysis.run_sections import train_command
from preprocess.console import one_line
from preprocess.zarr_store import Store

# Each of these can begin markup in Markdown, HTML or a table, or an automatic link.
_MARKUP = re.compile(r"[\\`*_{}\[\]<>()#+!|~&$:@]")


def _text(name: str) -> str:
    """A name from the user, so that Markdown and HTML show exactly its characters. Numbers of characters are used,
    because not every reader knows a backslash before each of them."""
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", one_line(name))


def _code(text: str) -> str:
    """A command in a table's cell: between <code> tags, since a table ends a code span at each `|`."""
    return f"<code>{_text(text)}</code>"


def model_card(run: Run, store: Store, parity: dict[str, Any], dtype: str) -> str:
    """The card as Markdown, from the run's files. `dtype` is that of the exported network's input."""
    layout, made = store.layout, run.made_with
    chosen = made.split.epoch_chosen_on
    rows = "\n".join(
        f"| {index} | {_text(name)} | {count} | {'-' if np.isnan(ap) else f'{ap:.4f}'} |"
        for index, (name, count, ap) in enumerate(zip(run.classes, run.positives.tolist(), run.ap, strict=True))
    )
    limitations = [
        f"The epoch was chosen on the {chosen} split" + ("; test scores are optimistic." if chosen == "test" else "."),
        "With a random split, chips of one scene are in train and test; scores on new scenes can be lower.",
        "`make report` tunes a threshold per class for F2, and `make predict` uses it; 0.5 is not the best threshold.",
    ]
    differences = (
        f"{parity['onnx_from_torch']:.2g} at most per logit, {parity['onnx_from_torch_share']:.2g} of the largest"
    )
    shape = f"(batch, {len(layout.bands)}, {layout.height}, {layout.width}) {dtype}"
    course = "PIL's 8-bit values (INPUT=course), " if run.record.inputs.kind == "course" else ""
    nodata = "" if layout.nodata is None else f"; {layout.nodata} is nodata and becomes the mean"
    return f"""# {_text(run.name)}: {run.config.arch}, task {run.config.task}

Multi-label classification of {layout.height} x {layout.width} satellite chips into {len(run.classes)} classes.

| | |
|---|---|
| input `chips` | {shape}, raw file values, bands {", ".join(map(_text, layout.bands))} |
| preprocessing inside | centre crop, choice of bands, {course}standardisation{nodata} |
| output `logits` | (batch, {len(run.classes)}) float32; probability = sigmoid |
| test mAP | {run.mean_ap:.4f} on {len(run.names):,} chips (split {_text(made.split.rule)}) |
| parity | onnxruntime - torch: {differences}, on {parity["chips"]} chips |
| weights, sha256 | {made.model_sha256} |
| commit | {made.commit} |
| made by | {_code(train_command(run.config))} |

| output | class | test positives | AP |
|---|---|---|---|
{rows}

## Limitations

{chr(10).join(f"- {line}" for line in limitations)}
"""
