"""The pictures of the benchmark's records."""

import itertools
from pathlib import Path

from helpers.commands import here
from matplotlib.axis import Axis
from matplotlib.text import Text

from bench import record, report
from bench.rows import BASELINE


def test_pictures_of_the_committed_records_have_titles_and_no_overlapping_texts() -> None:
    results = Path(__file__).resolve().parents[1] / "bench" / "results"
    peers, scale_record = record.newest("peers", results), record.newest("scale", results)
    assert peers is not None
    assert scale_record is not None
    for figure in (report.bars(peers), report.roofline(peers), report.cost(scale_record)):
        figure.draw_without_rendering()
        assert all(axes.get_title(loc="left") for axes in figure.axes)
        ticks = {text for axis in figure.findobj(Axis) for text in axis.findobj(Text)}
        texts = [text for text in figure.findobj(Text) if text not in ticks and text.get_text().strip()]
        # Of an annotation without its arrow.
        boxes = [(text.get_text(), Text.get_window_extent(text).padded(-0.5)) for text in texts]
        pairs = itertools.combinations(boxes, 2)
        assert [(one, other) for (one, box), (other, second) in pairs if box.overlaps(second)] == []
        report.plt.close(figure)


def test_the_report_draws_its_figures_from_records(tmp_path: Path) -> None:
    rows = [
        {"name": name, "chips_per_s": rate, "samples": [rate], "ratio": rate / 100, "r_sol": 0.5, "cpu_s_per_1000": 1.0}
        for name, rate in ((BASELINE, 100.0), ("canopy-lz4", 400.0), ("litdata", 200.0))
    ]
    rows[1] |= dict.fromkeys(
        ("stored_bytes_a_chip", "raw_bytes_a_chip", "crop_bytes_a_chip", "out_bytes_a_chip"), 1000.0
    )
    limits = [{"read": 1e9, "lz4": 1e9, "memcpy": 1e9}]
    loader = {"mode": "loader", "cores": 2, "cpu": "x", "rounds": 1, "chips": 2, "limits": limits, "rows": rows}
    scale_rows = [
        {"name": f"canopy-{codec}-{n}", "chips": n, "chips_per_s": 1.0, "peak_mib": 1.0, "first_batch_s": 1.0}
        for codec in ("lz4", "none")
        for n in (1000, 10_000)
    ]
    record.write(loader, tmp_path)
    record.write({**loader, "mode": "scale", "rows": scale_rows}, tmp_path)
    for name, figure in (("bars", report.bars(loader)), ("roofline", report.roofline(loader))):
        assert figure.axes[0].get_xlabel(), name
        report.plt.close(figure)
    done = here("bench", "bench-report", f"RESULTS={tmp_path}", f"OUT={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [
        "bench_loader.png", "bench_roofline.png", "bench_scale.png",
    ]  # fmt: skip
