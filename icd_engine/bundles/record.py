"""icd.json, the record of a bundle: its fields, their types and what must hold between them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

from icd_engine.errors import BundleError, SettingsError, shown
from icd_engine.settings import EditSettings

FORMAT = 1
# Fields that may be left out
DEFAULTS = {"blend_downscale": 4, "share_downscale": 2, "origin": {}, "sha256": {}}


def parse_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of icd.json but for `format`, checked and in a Bundle's types.

    Raises BundleError naming the field.
    """
    if record.get("format") != FORMAT:
        raise BundleError(f"icd.json: format must be {FORMAT}, not {record.get('format')!r}")
    checks = {
        "family": _text,
        "encode_times": _times,
        "encode_end": _count,
        "decode_times": _times,
        "size": _size,
        "blend_downscale": _count,
        "share_downscale": _count,
        "defaults": _settings,
        "origin": _object,
        "sha256": _digests,
    }
    unknown = [name for name in record if name != "format" and name not in checks]
    if unknown:
        raise BundleError(f"icd.json: unknown field {unknown[0]!r} (known: {', '.join(checks)})")
    values = {}
    for name, check in checks.items():
        if name not in record and name not in DEFAULTS:
            raise BundleError(f"icd.json: {name} is missing")
        values[name] = check(name, record.get(name, DEFAULTS.get(name)))
    if values["encode_end"] != values["decode_times"][-1]:
        raise BundleError(
            f"icd.json: encode_end {values['encode_end']} is not the last of decode_times"
        )
    if values["encode_times"][-1] >= values["encode_end"] or values["decode_times"][0] == 0:
        raise BundleError(
            "icd.json: encode_times must end below encode_end, decode_times must begin above 0"
        )
    return values


def check_times(values: Mapping[str, Any], steps: int) -> None:
    """Raises BundleError for a time step that a schedule of `steps` has not; values: of
    `parse_record`."""
    last = max(*values["encode_times"], *values["decode_times"])
    if last >= steps:
        raise BundleError(
            f"icd.json: time step {last} is not a whole number in 0..{steps - 1}, the scheduler's"
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BundleError(f"icd.json: {name} must be a string, not {shown(value)}")
    return value


def _count(name: str, value: Any) -> int:
    if not _is_count(value) or value < 1:
        raise BundleError(f"icd.json: {name} must be a whole number above 0, not {shown(value)}")
    return value


def _times(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or not all(_is_count(t) and t >= 0 for t in value):
        raise BundleError(
            f"icd.json: {name} must list time steps, whole numbers from 0 on, not {shown(value)}"
        )
    if any(t >= later for t, later in pairwise(value)):
        raise BundleError(f"icd.json: {name} must ascend, not {shown(value)}")
    return tuple(value)


def _size(name: str, value: Any) -> tuple[int, int]:
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(_is_count(n) and n > 0 and n % 8 == 0 for n in value)
    ):
        raise BundleError(
            f"icd.json: {name} must be [width, height], multiples of 8, not {shown(value)}"
        )
    return value[0], value[1]


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BundleError(f"icd.json: {name} must be an object, not {shown(value)}")
    return dict(value)


def _settings(name: str, value: Any) -> EditSettings:
    try:
        return EditSettings.from_mapping(_object(name, value))
    except SettingsError as error:
        raise BundleError(f"icd.json: {name}: {error}") from error


def _digests(name: str, value: Any) -> dict[str, str]:
    for file, digest in _object(name, value).items():
        path = PurePosixPath(file)
        if path.is_absolute() or ".." in path.parts or "\\" in file or ":" in file:
            raise BundleError(f"icd.json: {name}: {file!r} is not a path inside the bundle")
        if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
            raise BundleError(
                f"icd.json: {name}: the digest of {file!r} must be 64 hexadecimal digits"
            )
    return value
