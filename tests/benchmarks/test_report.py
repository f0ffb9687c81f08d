"""The report: the page's tables between its markers and two plots, from records and nothing else."""

import xml.etree.ElementTree as ET

import pytest

from benchmarks import plots, record, report

WHERE = {
    "commit": "abc123",
    "date": "2026-11-24T10:00:00+00:00",
    "device": "NVIDIA H200",
    "threads": 16,
    "versions": {"torch": "2.11.0+cu130", "triton": "3.6.0"},
    "clocks": {},
}
SUBJECT = {
    "model": "sd15",
    "size": [512, 512],
    "runner": "graph",
    "device_type": "cuda",
    "dtype": "bfloat16",
}
EDIT = SUBJECT | {
    "ours_ms": 30.0,
    "ours_p99_ms": 31.0,
    "ours_device_ms": 29.5,
    "reedit_ms": 14.0,
    "reedit_share": 0.7,
    "counted_reedit_share": 0.64,
    "roofline_share": 0.6,
    "cold_ms": 8000.0,
    "peak_memory_mib": 5000.0,
    "baseline": "reference",
    "baseline_ms": 900.0,
    "ratio": 30.0,
    "stages_ms": {"text": 1.0, "encode": 12.0, "decode": 17.0},
    "floors_ms": {
        "text": 0.1,
        "vae_encode": 2.0,
        "encode": 4.5,
        "text_target": 0.1,
        "decode": 8.2,
        "vae_decode": 3.5,
    },
}
RATE = SUBJECT | {"batch_p99_ms": 40.0, "peak_memory_mib": 6000.0}
PIECE = SUBJECT | {
    "piece": "UNet, 2 rows",
    "call_ms": 3.0,
    "call_p99_ms": 3.1,
    "call_device_ms": 2.9,
}
PIECE |= {"floor_ms": 2.1, "roofline_share": 0.7}
ONNX = SUBJECT | {
    "provider": "cuda:0",
    "onnx_ms": 52.0,
    "onnx_p99_ms": 53.0,
    "onnx_further_ms": 24.0,
}
ONNX |= {"torch_ms": 30.0, "torch_p99_ms": 31.0, "torch_further_ms": 14.0}
EXPORT = SUBJECT | {
    "opset": 20,
    "export_s": 400.2,
    "disk_mib": 7000.0,
    "onnx_load_ms": 9000.0,
    "peak_memory_mib": 9e3,
}
EXPORT |= {
    f"{hop}_hop{what}": 3e-3
    for hop in ("encode", "decode")
    for what in ("_ms", "_torch_ms", "_error")
}
FULL_SIZE = {"model": "sd15", "size": [512, 512], "dtype": "bf16", "device_type": "cuda"}
PUBLISHED = [
    FULL_SIZE | {"mode": "convert", "s": 98.4, "peak_memory_mib": 6900.0},
    FULL_SIZE
    | {"mode": "two networks", "s": 152.0, "load_s": 33.0, "peak_memory_mib": 4843.2}
    | {"stages_ms": {"encode": 40_000, "total": 119_000}},
]
LOAD = {
    "model": "tiny",
    "device_type": "cuda",
    "runner": "auto",
    "dtype": "auto",
    "alone_edits_per_s": 7.0,
    "offered_per_s": 70.0,
}
LOAD |= {
    "sent": 1400,
    "answered": 160,
    "rejected": 1240,
    "lost": 0,
    "others": 0,
    "rejected_ms": {"p50": 2.0, "p99": 9.0},
}
LOAD |= {
    "memory_mib": [{"replica": 500, "ray": 300}, {"replica": 520, "ray": 300}],
    "recovery_s": 9.0,
    "drain_s": 1.5,
}
BATCH = {
    "model": "tiny",
    "device_type": "cuda",
    "runner": "auto",
    "dtype": "auto",
    "rows": 500,
    "pictures": 495,
    "errors": {"ImageError": 5},
}
BATCH |= {"seconds": 100.0, "pictures_per_s": 4.95, "worker_killed_at": 80, "driver_killed_at": 120}
BATCH |= {"rest_seconds": 70.0, "bit_identical": True}
OP = {"op": "geglu", "shape": "2x4096x2560", "dtype": "bfloat16", "device_type": "cuda"}
OP |= {
    "op_ms": 0.02,
    "eager_ms": 0.05,
    "compiled_ms": None,
    "floor_ms": 0.015,
    "roofline_share": 0.75,
}


@pytest.fixture
def folder(tmp_path):
    record.append(tmp_path, "edit", EDIT | {"ours_ms": 99.0}, WHERE)  # measured again below
    record.append(tmp_path, "edit", EDIT, WHERE)
    record.append(
        tmp_path, "edit", EDIT | {"baseline": None, "ratio": None, "baseline_ms": None}, WHERE
    )
    for batch, rate in ((1, 25.0), (2, 30.0), (16, 36.0)):
        record.append(
            tmp_path,
            "throughput",
            RATE | {"batch": batch, "edits_per_s": rate, "batch_ms": 33.0},
            WHERE,
        )
    record.append(tmp_path, "unet", PIECE, WHERE)
    record.append(tmp_path, "onnx", ONNX, WHERE)
    record.append(tmp_path, "export", EXPORT, WHERE)
    for result in PUBLISHED:
        record.append(tmp_path, "published", result, WHERE)
    record.append(tmp_path, "load", LOAD, WHERE)
    record.append(tmp_path, "batch", BATCH, WHERE)
    record.append(tmp_path, "ops", OP, WHERE)
    return tmp_path


@pytest.fixture
def page(folder):
    path = folder / "performance.md"
    path.write_text(f"# before\n\n{report.BEGIN}\nwas here\n{report.END}\n\nafter\n")
    return path


def test_the_table_stands_between_the_markers(folder, page):
    assert report.main(folder, page) == 0
    text = page.read_text()
    assert text.startswith(f"# before\n\n{report.BEGIN}\n") and text.endswith(
        f"{report.END}\n\nafter\n"
    )
    assert "was here" not in text and "99.0" not in text
    assert "**NVIDIA H200** (commit abc123, 2026-11-24, torch 2.11.0+cu130, triton 3.6.0)" in text
    row = (
        "| 30.0 / 31.0 | 29.5 | 14.0 | 0.70 (0.64) | 60 % | 8.0 | 5000 | reference 900.0 | 30.00 |"
    )
    assert f"| sd15, 512x512, graph, bfloat16 {row}" in text
    assert (
        "| sd15, 512x512, bfloat16, cuda:0 | 52.0 / 53.0 | 24.0 | graph 30.0 / 31.0 | 14.0 |"
        in text
    )
    assert "| sd15, bfloat16, opset 20 | 400 | 7000 | 9.0 |" in text
    assert "| sd15, 512x512, bf16 | convert |  | 98 | 6900 |" in text
    assert "| sd15, 512x512, bf16 | edit, two networks | 33 | 119 | 4843 |" in text
    flood = (
        "| 7.00 | 70.0 | 1400 | 160 + 1240 + 0 + 0 |  | 2.0 / 9.0 | 800 / 820 / 820 | 9.0 | 1.5 |"
    )
    assert f"| tiny, auto, auto {flood}" in text
    assert "| tiny, auto, auto | 500 | 495 + 5 | 100 | 4.95 | 80 | 120 | 70 | yes |" in text
    assert "| geglu 2x4096x2560, bfloat16 | 0.0200 | 0.0500 |  | 0.0150 | 75 % |" in text
    assert "![latency](latency.svg)" in text and "![throughput](throughput.svg)" in text
    assert report.main(folder, page) == 0
    assert page.read_text() == text


def test_the_plots_are_svg_with_every_stage_and_batch(folder, page):
    report.main(folder, page)
    latency, throughput = (
        ET.parse(folder / f"{name}.svg").getroot() for name in ("latency", "throughput")
    )
    titles = [element.text for element in latency.iter("{http://www.w3.org/2000/svg}title")]
    assert {"text 1.00 ms", "encode 12.00 ms", "decode 17.00 ms"} <= set(titles)
    # One engine, though measured twice
    assert sum("ms" in (title or "") for title in titles) == 3 + 3
    assert len([*throughput.iter("{http://www.w3.org/2000/svg}circle")]) == 3


def test_floors_of_stages_that_ran_as_one_are_added():
    merged = plots.merged_floors(EDIT["floors_ms"], EDIT["stages_ms"])
    assert merged == pytest.approx({"text": 0.1, "encode": 6.5, "decode": 11.8})


@pytest.mark.parametrize(
    "text", ["nothing", f"{report.END} {report.BEGIN}", f"{report.BEGIN} {report.BEGIN}"]
)
def test_a_page_without_its_place_is_left_alone(folder, capsys, text):
    path = folder / "performance.md"
    path.write_text(text)
    assert report.main(folder, path) == 1
    assert "must hold" in capsys.readouterr().err and path.read_text() == text


def test_the_repository_s_page_has_its_place():
    text = report.PAGE.read_text(encoding="utf-8")
    assert text.count(report.BEGIN) == text.count(report.END) == 1


def test_without_records_nothing_is_written(tmp_path, capsys):
    assert report.main(tmp_path, tmp_path / "performance.md") == 1
    assert "no records" in capsys.readouterr().err
