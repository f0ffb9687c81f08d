"""The report of an evaluation: one self-contained HTML file with a table, a plot and a grid of pictures."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.evaluation.orderings import Ordering

CAPTION = "source, reconstruction, edit; of prompts, what was generated"
Summary = Mapping[str, Mapping[str, Any]]
COLUMNS = {  # figure -> heading, digits
    "edit_success": ("edit success", 3),
    "edit_psnr_to_truth": ("to the truth, dB", 2),
    "words_right": ("words right", 3),
    "changed_share": ("changed rightly", 3),
    "background_psnr": ("background, dB", 2),
    "background_ssim": ("background SSIM", 4),
    "background_lpips": ("background LPIPS", 4),
    "structure_distance": ("structure distance", 4),
    "clip_whole": ("CLIP whole", 2),
    "clip_edited": ("CLIP edited", 2),
    "inversion_psnr": ("inversion, dB", 2),
    "inversion_ssim": ("inversion SSIM", 4),
    "inversion_lpips": ("inversion LPIPS", 4),
    "inversion_dino": ("inversion DINOv2", 4),
    "network_calls": ("network calls", 0),
    "seconds": ("seconds", 2),
}
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}figure{margin:1rem 0}img{max-width:100%}.missing{color:#888}"""


def write(
    path: Path,
    title: str,
    about: Mapping[str, Any],
    summary: Summary,
    pictures: Path,
    claims: Sequence[Ordering] = (),
) -> Path:
    """Writes the report, and beside it its plot and our own edits alone: plot.svg, edits.jpg.

    pictures: a folder of PNG files for each method.
    """
    plot = scatter(summary)
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{STYLE}</style>",
        f"<h1>{escape(title)}</h1><p>{escape(', '.join(f'{k} {v}' for k, v in about.items()))}</p>",
        table(summary),
        plot,
        _claims(claims),
    ]
    for method, row in summary.items():
        parts.append(f"<h2>{escape(method)}</h2>{table(row['kinds'], 'kind of edit')}")
        files = sorted((pictures / method).glob("*.png"))
        if not files:
            continue
        jpeg = _jpeg(grid(files))
        parts.append(f"<figure>{_image(jpeg)}<figcaption>{CAPTION}</figcaption></figure>")
        if method == "icd":
            path.with_name("edits.jpg").write_bytes(jpeg)
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")
    path.with_name("plot.svg").write_text(plot, encoding="utf-8")
    return path


def _claims(claims: Sequence[Ordering]) -> str:
    """Which of the paper's orderings these figures and the recorded studies show."""
    lines = [
        f"<tr><td>{escape(one.claim)}<td>{'holds' if one.holds else 'does not hold'}<td>{escape(one.figures)}"
        for one in claims
    ]
    return f"<h2>The paper's orderings</h2><table>{''.join(lines)}</table>" if lines else ""


def table(rows: Mapping[str, Mapping[str, Any]], first: str = "method") -> str:
    """Of the figures that were looked for; n/a is what an item lacks, or weights that were not given."""
    columns = [name for name in COLUMNS if any(name in row for row in rows.values())]
    heads = "".join(f"<th>{COLUMNS[name][0]}" for name in columns)
    lines = [f"<tr><th>{first}{heads}"]
    for name, row in rows.items():
        lines.append(f"<tr><td>{escape(name)}" + "".join(f"<td>{_number(row.get(c), COLUMNS[c][1])}" for c in columns))
    return f"<table>{''.join(lines)}</table>"


def _number(value: float | None, digits: int) -> str:
    return (
        '<span class=missing title="not known, or weights not given">n/a</span>'
        if value is None
        else f"{value:.{digits}f}"
    )


def scatter(summary: Summary, width: int = 640, height: int = 320) -> str:
    """Quality over time, SVG: PSNR to the true edit (else of the background) over seconds an edit, logarithmic."""
    figure = next(
        (f for f in ("edit_psnr_to_truth", "background_psnr") if any(r.get(f) for r in summary.values())), None
    )
    points = [(r["seconds"], r[figure], name) for name, r in summary.items() if figure and r.get(figure)]
    if len(points) < 2:
        return ""
    left, right = (f(math.log10(x) for x, _, _ in points) for f in (min, max))
    low, high = (f(y for _, y, _ in points) for f in (min, max))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - left) / max(right - left, 1e-9)
        return 60 + across * (width - 200), height - 40 - (y - low) / max(high - low, 1e-9) * (height - 80)

    marks = []
    for x, y, name in points:
        px, py = place(x, y)
        marks.append(f'<circle cx="{px:.0f}" cy="{py:.0f}" r="5" fill="{"#c33" if name == "icd" else "#357"}"/>')
        marks.append(f'<text x="{px + 9:.0f}" y="{py + 4:.0f}">{escape(name)} ({x:.2g} s, {y:.1f} dB)</text>')
    axes = f'<text x="{width / 2:.0f}" y="{height - 8}">seconds an edit, logarithmic</text>'
    axes += f'<text x="8" y="18">{COLUMNS[str(figure)][0]}</text>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" font-size="12">'
    background = f'<rect width="{width}" height="{height}" fill="white"/>'
    return f"{head}{background}{axes}{''.join(marks)}</svg>\n"


def grid(files: Sequence[Path], columns: int = 3) -> Image.Image:
    """Picture strips of one size in a grid."""
    strips = [Image.open(file).convert("RGB") for file in files]
    width, height = strips[0].size
    sheet = Image.new("RGB", (columns * (width + 6), -(-len(strips) // columns) * (height + 6)), "white")
    for i, strip in enumerate(strips):
        sheet.paste(strip.resize((width, height)), ((i % columns) * (width + 6) + 3, (i // columns) * (height + 6) + 3))
    return sheet


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _image(jpeg: bytes) -> str:
    return f'<img alt="edits" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
