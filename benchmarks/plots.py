"""Two plots as SVG, drawn here: latency by stage against the floor, and throughput over the
batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

Record = dict[str, Any]
WIDTH, ROW, LEFT, RIGHT, TOP = 980, 26, 300, 80, 48  # pixels
COLOURS = ("#3b6fb6", "#d9822b", "#4f9d57", "#a3499b", "#8a8a8a", "#c2b23c", "#53b3b8", "#b5524d")
FLOOR = "#222222"
# An engine that runs two stages as one leaves the first name out: its floor counts with the second.
MERGED = {
    "text": "vae_encode",
    "vae_encode": "encode",
    "text_target": "decode",
    "vae_decode": "decode",
}


def write(records: Sequence[Record], folder: Path) -> list[Path]:
    """latency.svg and throughput.svg, each where there are records for it."""
    # One bar for an engine that was measured beside several baselines: its last.
    edits = list({_edit_name(one): one for one in records if one["benchmark"] == "edit"}.values())
    rates = [one for one in records if one["benchmark"] == "throughput"]
    written = []
    for name, chosen, draw in (("latency", edits, latency), ("throughput", rates, throughput)):
        if chosen:
            path = folder / f"{name}.svg"
            path.write_text(draw(chosen), encoding="utf-8")
            written.append(path)
    return written


def latency(records: Sequence[Record]) -> str:
    """A pair of bars for every edit, drawn as shares of its own latency: the stages, and below them
    their floors."""
    names = list(dict.fromkeys(stage for one in records for stage in one["result"]["stages_ms"]))
    colours = dict(zip(names, COLOURS * (len(names) // len(COLOURS) + 1), strict=False))
    parts = [
        _text(
            12,
            20,
            "Latency of a first edit by stage (upper bar) and its roofline floor (lower bar)",
            size=14,
        )
    ]
    parts += _legend(colours, 38)
    y = TOP + 10
    for one in records:
        result = one["result"]
        stages = result["stages_ms"]
        scale = (WIDTH - LEFT - RIGHT) / (sum(stages.values()) or 1)
        parts.append(_text(LEFT - 8, y + 9, _measured(result), anchor="end"))
        parts.append(_text(LEFT - 8, y + 21, one["device"], size=9, anchor="end"))
        parts += _bar(stages, colours, y, scale, 12)
        parts.append(
            _text(LEFT + sum(stages.values()) * scale + 4, y + 11, f"{sum(stages.values()):.1f} ms")
        )
        floors = merged_floors(result["floors_ms"], stages)
        parts += _bar(floors, colours, y + 13, scale, 6)
        parts.append(
            _text(
                LEFT + sum(floors.values()) * scale + 4,
                y + 21,
                f"{sum(floors.values()):.1f}",
                size=9,
            )
        )
        y += ROW + 10
    return _svg(parts, y + 6)


def merged_floors(floors: Mapping[str, float], stages: Mapping[str, float]) -> dict[str, float]:
    """Floors by the stages that were measured: that of a missing stage joins the stage that ran
    it."""
    found: dict[str, float] = {}
    for stage, floor in floors.items():
        name = stage
        while name not in stages and name in MERGED:
            name = MERGED[name]
        found[name] = found.get(name, 0.0) + floor
    return found


def throughput(records: Sequence[Record]) -> str:
    """Edits per second over the batch, a line for every model, runner and device, each as a share
    of its best."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for one in records:
        result = one["result"]
        lines.setdefault(_edit_name(one), []).append((result["batch"], result["edits_per_s"]))
    height = 300
    bottom = 40
    left = 60
    largest = max(batch for points in lines.values() for batch, _ in points)
    right = WIDTH - 20
    span = max(1.0, math.log2(largest))
    parts = [
        _text(
            12,
            20,
            "Throughput over the batch, each line as a share of its best (edits per second beside it)",
            size=14,
        )
    ]
    for share in (0.0, 0.5, 1.0):
        y = height - share * (height - 90)
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>')
        parts.append(_text(left - 6, y + 4, f"{share:.1f}", anchor="end"))
    for batch in dict.fromkeys(batch for points in lines.values() for batch, _ in sorted(points)):
        x = left + 20 + math.log2(batch) / span * (right - left - 120)
        parts.append(_text(x, height + 18, f"{batch}", anchor="middle"))
    for i, (name, points) in enumerate(lines.items()):
        colour = COLOURS[i % len(COLOURS)]
        best = max(rate for _, rate in points) or 1.0
        places = [
            (
                left + 20 + math.log2(batch) / span * (right - left - 120),
                height - rate / best * (height - 90),
                rate,
            )
            for batch, rate in sorted(points)
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y, _ in places
        ]
        parts += [
            _text(x + 5, y - 5, f"{rate:.3g}", size=10, colour=colour) for x, y, rate in places
        ]
        parts.append(_text(left, height + bottom + 16 * i, name, colour=colour))
    return _svg(parts, height + bottom + 16 * len(lines))


def _edit_name(one: Record) -> str:
    return f"{_measured(one['result'])}, {one['device']}"


def _measured(result: Mapping[str, Any]) -> str:
    return f"{result['model']} {result['size'][0]}, {result['runner']} {result['dtype']}"


def _bar(
    values: Mapping[str, float], colours: Mapping[str, str], y: float, scale: float, height: float
) -> list[str]:
    parts, x = [], float(LEFT)
    for name, value in values.items():
        width = max(0.0, value * scale)
        fill = colours.get(name, FLOOR)
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" fill="{fill}">'
            f"<title>{escape(name)} {value:.2f} ms</title></rect>"
        )
        x += width
    return parts


def _legend(colours: Mapping[str, str], y: float) -> list[str]:
    parts, x = [], 12.0
    for name, colour in colours.items():
        parts.append(f'<rect x="{x:.0f}" y="{y - 8}" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(x + 14, y + 1, name))
        x += 30 + 7 * len(name)
    return parts


def _text(
    x: float, y: float, text: str, *, size: int = 11, anchor: str = "start", colour: str = "#222222"
) -> str:
    look = f'font-size="{size}" text-anchor="{anchor}" fill="{colour}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{escape(text)}</text>'


def _svg(parts: Sequence[str], height: float) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" font-family="sans-serif">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )
