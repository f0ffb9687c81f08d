"""A manifest of edits -> checked rows.

Parquet, CSV or JSON lines; what is wrong is named by line and column.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icd_engine.errors import IcdError, RunnerError, SettingsError
from icd_engine.settings import EditSettings

REQUIRED = ("picture", "source", "target")
COLUMNS = ("id", *REQUIRED, "settings", "seed")
# Also a file name on every system: the edit is written to <id>.png.
ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")

Record = tuple[str, Mapping[str, Any]]  # where it stands, column -> value


@dataclass(frozen=True, slots=True)
class Row:
    """One edit, ready to run: the paths of picture and mask are absolute, settings are JSON text,
    the seed is set."""

    id: str
    picture: str
    source: str
    target: str
    settings: str
    seed: int


def read_manifest(
    path: str | Path, *, seed: int = 0, settings: Mapping[str, Any] | None = None
) -> Iterator[Row]:
    """The rows of a .parquet, .csv, .jsonl or .ndjson file, one by one.

    Columns: picture (a path; relative ones start at the manifest's folder), source, target and,
    where wanted, id (by default the row number, from 0), settings (a JSON object; those of
    `settings` hold where it says nothing) and seed (by default `row_seed(id, seed)`). Raises
    SettingsError naming line and column.
    """
    path = Path(path)
    kinds = {".csv": _csv, ".jsonl": _json_lines, ".ndjson": _json_lines, ".parquet": _parquet}
    if path.suffix.lower() not in kinds:
        raise SettingsError(
            f"cannot tell the format of manifest {str(path)!r}: end it in {', '.join(kinds)}"
        )
    if not path.is_file():
        raise SettingsError(f"no such manifest: {str(path)!r}")
    common = _common_settings(settings or {})
    seen = {}
    try:
        for number, (where, values) in enumerate(kinds[path.suffix.lower()](path)):
            row = _row(f"{path}, {where}", path.resolve().parent, number, values, seed, common)
            # Some file systems take "a" and "A" for one file.
            first = seen.setdefault(row.id.casefold(), where)
            if first is not where:
                raise SettingsError(f"{path}, {where}, column 'id': {row.id!r} is taken by {first}")
            yield row
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not UTF-8 text") from None


def row_seed(name: str, seed: int) -> int:
    """The seed of a row that has none: the same on every machine, and another for every id."""
    # As many bits as the noise takes of a seed.
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:4], "big")


def _csv(path: Path) -> Iterator[Record]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            names = reader.fieldnames or []
            if len(set(names)) < len(names):
                raise SettingsError(f"{path}, line 1: two columns of one name")
            _check_columns(f"{path}, line 1", names)
            for values in reader:
                if None in values:
                    raise SettingsError(
                        f"{path}, line {reader.line_num}: more fields than the {len(names)} columns"
                    )
                yield f"line {reader.line_num}", values
        except csv.Error as error:
            raise SettingsError(f"{path}, line {reader.reader.line_num}: {error}") from None


def _json_lines(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"line {number}", _json_object(f"{path}, line {number}", line)


def _parquet(path: Path) -> Iterator[Record]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise RunnerError(
            "Parquet manifests need pyarrow: pip install 'icd-engine[batch]'"
        ) from None
    try:
        with parquet.ParquetFile(path) as file:
            _check_columns(str(path), file.schema_arrow.names)
            rows = (values for batch in file.iter_batches() for values in batch.to_pylist())
            yield from ((f"row {number}", values) for number, values in enumerate(rows))
    except pyarrow.ArrowException as error:
        raise SettingsError(
            f"{path} is not a Parquet file, or damaged: {str(error).splitlines()[0]}"
        ) from None


def _check_columns(where: str, names: Any) -> None:
    """SettingsError for a column that is unknown, with the nearest known one, or missing."""
    for name in names:
        if name not in COLUMNS:
            near = difflib.get_close_matches(str(name), COLUMNS, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            raise SettingsError(
                f"{where}: unknown column {name!r}{hint} (known: {', '.join(COLUMNS)})"
            )
    for name in REQUIRED:
        if name not in names:
            raise SettingsError(f"{where}: column {name!r} is missing")


def _row(
    where: str,
    folder: Path,
    number: int,
    values: Mapping[str, Any],
    seed: int,
    common: Mapping[str, Any],
) -> Row:
    # An empty CSV field, a null and the NaN that pandas writes for one are nothing.
    given = {
        name: value for name, value in values.items() if value not in (None, "") and value == value
    }
    _check_columns(where, given)
    for name in REQUIRED:
        if not isinstance(given[name], str) or not given[name].strip():
            raise SettingsError(f"{where}, column {name!r}: a text is needed, not {given[name]!r}")
    name = _id(f"{where}, column 'id'", given.get("id", number))
    own = _settings(f"{where}, column 'settings'", given.get("settings", {}))
    settings = {**common, **own}
    if isinstance(settings.get("mask"), str):
        settings["mask"] = _absolute(folder, settings["mask"])
    chosen = (
        _seed(f"{where}, column 'seed'", given["seed"]) if "seed" in given else row_seed(name, seed)
    )
    picture = _absolute(folder, given["picture"])
    return Row(name, picture, given["source"], given["target"], json.dumps(settings), chosen)


def _absolute(folder: Path, path: str) -> str:
    return path if "://" in path else str(folder / path)  # a URL stays one, and is refused as such


def _id(where: str, value: Any) -> str:
    name = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(name, str) or not ID.fullmatch(name):
        raise SettingsError(
            f"{where}: {value!r} is no file name: use letters, digits, '.', '-' and '_'"
        )
    return name


def _seed(where: str, value: Any) -> int:
    """A whole number, also as text (CSV) or as a float (pandas, where other rows have none)."""
    try:
        whole: Any = (
            int(value)
            if isinstance(value, str) or (isinstance(value, float) and value.is_integer())
            else value
        )
        return EditSettings(seed=whole).seed or 0
    except ValueError as error:
        reason = error if isinstance(error, SettingsError) else f"{value!r} is not a whole number"
        raise SettingsError(f"{where}: {reason}") from None


def _settings(where: str, value: Any) -> dict[str, Any]:
    """A JSON object, or its text, checked."""
    settings = _json_object(where, value) if isinstance(value, str) else value
    try:
        if isinstance(settings, dict):  # a Parquet column of structs has every name in every row
            settings = {name: one for name, one in settings.items() if one is not None}
        return dict(_common_settings(settings))
    except IcdError as error:
        raise SettingsError(f"{where}: {error}") from None


def _common_settings(settings: Any) -> Mapping[str, Any]:
    EditSettings.from_mapping(settings)
    if "seed" in settings:
        raise SettingsError(
            "seed is no setting of a batch: every row has its own, by the column or the base seed"
        )
    return settings


def _json_object(where: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise SettingsError(f"{where}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise SettingsError(f"{where}: a JSON object is needed, not {text.strip()[:80]!r}")
    return value
