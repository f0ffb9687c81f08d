"""The report of an evaluation: one self-contained HTML file with a table, a plot and a grid of
pictures."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

CAPTION = "source, reconstruction, edit; of prompts, what was generated"
NOT_GIVEN = "n/a (weights not given)"
TableRow = Mapping[str, Any]
Summary = Mapping[str, TableRow]
COLUMNS = {  # figure -> heading, digits
    "edit_success": ("edit success", 3),
    "edit_psnr_to_truth": ("to the truth, dB", 2),
    "prompt_success": ("right words", 3),
    "size_right": ("size", 3),
    "color_right": ("colour", 3),
    "shape_right": ("shape", 3),
    "texture_right": ("texture", 3),
    "background_right": ("background", 3),
    "changed_share": ("changed rightly", 3),
    "background_psnr": ("background, dB", 2),
    "background_ssim": ("background SSIM", 4),
    "background_shift": ("background shift, px", 3),
    "background_equal": ("background equal", 3),
    "background_lpips": ("background LPIPS", 4),
    "structure_distance": ("structure distance", 4),
    "clip_whole": ("CLIP whole", 2),
    "clip_edited": ("CLIP edited", 2),
    "edit_dino": ("DINOv2 to the source", 4),
    "inversion_psnr": ("inversion, dB", 2),
    "inversion_ssim": ("inversion SSIM", 4),
    "inversion_lpips": ("inversion LPIPS", 4),
    "inversion_dino": ("inversion DINOv2", 4),
    "network_calls": ("network calls", 0),
    "seconds": ("seconds", 2),
}
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}figure{margin:1rem 0}img{max-width:100%}"""


def write(
    path: Path,
    title: str,
    about: Mapping[str, Any],
    summary: Summary,
    pictures: Mapping[str, Sequence[Path]],
    claims: Sequence[TableRow] = (),
    absent: Collection[str] = (),
) -> Path:
    """Writes the report, and beside it its plot and our own edits alone: plot.svg, edits.jpg.

    pictures: files for each method. claims: rows of `orderings`. absent: figures whose weights were
    not given.
    """
    plot = scatter(summary)
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{STYLE}</style>",
        f"<h1>{escape(title)}</h1><p>{escape(', '.join(f'{k} {v}' for k, v in about.items()))}</p>",
        table(summary, "method", absent),
        plot,
        _claims(claims),
    ]
    for method, row in summary.items():
        kinds = table(row["kinds"], "kind of edit", absent) if len(row["kinds"]) > 1 else ""
        parts.append(f"<h2>{escape(method)}</h2>{kinds}")
        if not pictures.get(method):
            continue
        jpeg = _jpeg(grid(pictures[method]))
        parts.append(f"<figure>{_image(jpeg)}<figcaption>{CAPTION}</figcaption></figure>")
        if method == "icd":
            path.with_name("edits.jpg").write_bytes(jpeg)
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")
    path.with_name("plot.svg").write_text(plot, encoding="utf-8")
    return path


def _claims(claims: Sequence[TableRow]) -> str:
    """Which of the paper's orderings these figures and the recorded studies show."""
    lines = [
        f"<tr><td>{escape(one['claim'])}<td>{'holds' if one['holds'] else 'does not hold'}<td>{escape(one['figures'])}"
        for one in claims
    ]
    return f"<h2>The paper's orderings</h2><table>{''.join(lines)}</table>" if lines else ""


def table(rows: Mapping[str, TableRow], first: str = "method", absent: Collection[str] = ()) -> str:
    """HTML, a line for each row of the figures that were looked for."""
    columns = _looked_for(rows)
    heads = "".join(f"<th>{COLUMNS[name][0]}" for name in columns)
    lines = [f"<tr><th>{first}{heads}"]
    for name, row in rows.items():
        lines.append(
            f"<tr><td>{escape(name)}" + "".join(f"<td>{_cell(row, c, absent)}" for c in columns)
        )
    return f"<table>{''.join(lines)}</table>"


def markdown(rows: Mapping[str, TableRow], absent: Collection[str] = ()) -> str:
    """The same for terminals and a README, turned: a line for each figure, which stays narrow."""
    lines = [["figure", *rows]]
    lines += [
        [COLUMNS[name][0], *(_cell(row, name, absent) for row in rows.values())]
        for name in _looked_for(rows)
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = [
        [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        for line in [lines[0], rule, *lines[1:]]
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _looked_for(rows: Mapping[str, TableRow]) -> list[str]:
    return [name for name in COLUMNS if any(name in row for row in rows.values())]


def _cell(row: TableRow, figure: str, absent: Collection[str]) -> str:
    """The figure; n/a is what the items lack, or weights that were not given."""
    value = row.get(figure)
    if value is None:
        return NOT_GIVEN if figure in absent and figure in row else "n/a"
    return f"{value:.{COLUMNS[figure][1]}f}"


def scatter(summary: Summary, width: int = 640, height: int = 320) -> str:
    """Quality over effort, SVG: PSNR to the true edit (else of the background) over network calls an
    edit, logarithmic. (Seconds would be of this machine, and of what else it did.)"""
    figure = next(
        (
            f
            for f in ("edit_psnr_to_truth", "background_psnr")
            if any(r.get(f) for r in summary.values())
        ),
        None,
    )
    points = [
        (r["network_calls"], r[figure], name)
        for name, r in summary.items()
        if figure and r.get(figure) and r.get("network_calls")
    ]
    if len(points) < 2:
        return ""
    left, right = (f(math.log10(x) for x, _, _ in points) for f in (min, max))
    low, high = (f(y for _, y, _ in points) for f in (min, max))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - left) / max(right - left, 1e-9)
        return 60 + across * (width - 200), height - 40 - (y - low) / max(high - low, 1e-9) * (
            height - 80
        )

    marks = []
    for x, y, name in points:
        px, py = place(x, y)
        marks.append(
            f'<circle cx="{px:.0f}" cy="{py:.0f}" r="5" fill="{"#c33" if name == "icd" else "#357"}"/>'
        )
        marks.append(
            f'<text x="{px + 9:.0f}" y="{py + 4:.0f}">{escape(name)} ({x:.0f} calls, {y:.1f} dB)</text>'
        )
    axes = f'<text x="{width / 2:.0f}" y="{height - 8}">network calls an edit, logarithmic</text>'
    axes += f'<text x="8" y="18">{COLUMNS[str(figure)][0]}</text>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" font-size="12">'
    background = f'<rect width="{width}" height="{height}" fill="white"/>'
    return f"{head}{background}{axes}{''.join(marks)}</svg>\n"


def grid(files: Sequence[Path], columns: int = 3) -> Image.Image:
    """Picture strips of one size in a grid."""
    strips = [Image.open(file).convert("RGB") for file in files]
    width, height = strips[0].size
    sheet = Image.new(
        "RGB", (columns * (width + 6), -(-len(strips) // columns) * (height + 6)), "white"
    )
    for i, strip in enumerate(strips):
        sheet.paste(
            strip.resize((width, height)),
            ((i % columns) * (width + 6) + 3, (i // columns) * (height + 6) + 3),
        )
    return sheet


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _image(jpeg: bytes) -> str:
    return f'<img alt="edits" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
