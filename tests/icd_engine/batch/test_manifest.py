"""Manifests: what a row becomes in each format, and that every mistake is named by line and
column."""

import json
from pathlib import Path

import pytest

from icd_engine.batch.manifest import Row, read_manifest, row_seed
from icd_engine.errors import SettingsError

SOURCE, TARGET = "a cat on a mat", "a dog on a mat"


def csv_file(folder: Path, *lines: str) -> Path:
    path = folder / "edits.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def json_lines(folder: Path, *rows: object) -> Path:
    path = folder / "edits.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def edit(**values: object) -> dict[str, object]:
    return {"picture": "cat.png", "source": SOURCE, "target": TARGET, **values}


def test_what_is_left_out_is_decided(tmp_path):
    path = csv_file(
        tmp_path,
        "picture,source,target",
        f"cat.png,{SOURCE},{TARGET}",
        f"/data/b.png,{SOURCE},{TARGET}",
    )
    first, second = read_manifest(path, seed=5)
    assert first == Row("0", str(tmp_path / "cat.png"), SOURCE, TARGET, "{}", row_seed("0", 5))
    assert (second.id, second.picture, second.seed) == ("1", "/data/b.png", row_seed("1", 5))
    assert first.seed != second.seed


def test_a_derived_seed_never_changes():
    assert row_seed("cat", 0) == 3973961874  # the first four bytes of SHA-256 of "0:cat"
    assert row_seed("cat", 1) != row_seed("cat", 0) != row_seed("dog", 0)


def test_csv_and_json_lines_say_the_same(tmp_path):
    text = '"{""tau"": 0.5}"'
    from_csv = csv_file(
        tmp_path,
        "﻿id,picture,source,target,settings,seed",
        f"a,x.png,{SOURCE},{TARGET},{text},7",
        "",
        f"b,y.png,{SOURCE},{TARGET},,",
    )
    rows = (
        edit(id="a", picture="x.png", settings={"tau": 0.5}, seed=7),
        edit(id="b", picture="y.png", seed=None),
    )
    assert list(read_manifest(from_csv)) == list(read_manifest(json_lines(tmp_path, *rows)))


def test_parquet_says_the_same(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [
        edit(id=3, settings={"tau": 0.5, "control": "none"}, seed=7),
        edit(settings={"tau": 0.25}, seed=8),
    ]
    table = pyarrow.Table.from_pylist(rows)
    # As pandas writes whole numbers beside missing ones.
    table = table.set_column(
        table.schema.get_field_index("seed"), "seed", pyarrow.array([7.0, float("nan")])
    )
    parquet.write_table(table, tmp_path / "edits.parquet")
    rows[1].pop("seed")
    assert list(read_manifest(tmp_path / "edits.parquet")) == list(
        read_manifest(json_lines(tmp_path, *rows))
    )


def test_common_settings_lie_under_a_rows_own(tmp_path):
    path = json_lines(tmp_path, edit(settings={"tau": 0.5}), edit(settings={"mask": "m.png"}))
    first, second = read_manifest(path, settings={"tau": 0.9, "guidance_scale": 3})
    assert json.loads(first.settings) == {"tau": 0.5, "guidance_scale": 3}
    assert json.loads(second.settings) == {
        "tau": 0.9,
        "guidance_scale": 3,
        "mask": str(tmp_path / "m.png"),
    }


def test_a_url_is_left_for_the_reader_to_refuse(tmp_path):
    (row,) = read_manifest(json_lines(tmp_path, edit(picture="https://example.org/a.png")))
    assert row.picture == "https://example.org/a.png"


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"id": "a/b"}, ["column 'id'", "'a/b'"]),
        ({"id": ".hidden"}, ["column 'id'"]),
        ({"id": 1.5}, ["column 'id'"]),
        ({"id": "FIRST"}, ["column 'id'", "'FIRST' is taken by line 1"]),
        ({"target": ["a", "b"]}, ["column 'target'", "text"]),
        ({"source": ""}, ["column 'source' is missing"]),
        ({"source": "  "}, ["column 'source'", "text"]),
        ({"picture": 5}, ["column 'picture'", "text"]),
        ({"seed": "x"}, ["column 'seed'", "'x'"]),
        ({"seed": 1.5}, ["column 'seed'", "1.5"]),
        ({"seed": -1}, ["column 'seed'", "-1"]),
        ({"seed": True}, ["column 'seed'", "True"]),
        ({"settings": {"tua": 1}}, ["column 'settings'", "'tau'"]),
        ({"settings": "{tau"}, ["column 'settings'", "not JSON"]),
        ({"settings": [1]}, ["column 'settings'"]),
        ({"settings": {"tau": 3}}, ["column 'settings'", "tau"]),
        ({"settings": {"seed": 3}}, ["column 'settings'", "seed"]),
        ({"sead": 3}, ["'sead'", "did you mean 'seed'"]),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_wrong_value_is_named_by_line_and_column(tmp_path, values, parts):
    path = json_lines(tmp_path, edit(id="first"), edit(**values))
    with pytest.raises(SettingsError) as refusal:
        list(read_manifest(path))
    assert str(refusal.value).startswith(f"{path}, line 2") and "\n" not in str(refusal.value)
    for part in parts:
        assert part in str(refusal.value)


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        (["picture,source", "a,b"], "line 1: column 'target' is missing"),
        (["picture,source,target,target", "a,b,c,d"], "line 1: two columns of one name"),
        (["picture,source,target", "a,b,c,d"], "line 2: more fields than the 3 columns"),
        (["picture,source,target", "a,b"], "line 2: column 'target' is missing"),
        (["picture,source,target", 'a,"b"x,c'], "line 2: "),
    ],
)
def test_a_wrong_table_is_named_by_line(tmp_path, lines, part):
    with pytest.raises(SettingsError, match=r"edits\.csv, ") as refusal:
        list(read_manifest(csv_file(tmp_path, *lines)))
    assert part in str(refusal.value)


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_a_line_that_is_no_object_is_named(tmp_path, text):
    path = tmp_path / "edits.ndjson"
    path.write_text(f"{json.dumps(edit())}\n{text}\n")
    with pytest.raises(SettingsError, match="line 2: "):
        list(read_manifest(path))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "edits.csv").write_bytes(b"picture,source,target\n\xff\xfe,b,c\n")
    for name, part in [
        ("none.csv", "no such manifest"),
        ("edits.xlsx", "format"),
        ("edits.csv", "UTF-8"),
    ]:
        with pytest.raises(SettingsError, match=part):
            list(read_manifest(tmp_path / name))


def test_a_damaged_parquet_file_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "edits.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(SettingsError, match=r"edits.parquet is not a Parquet file"):
        list(read_manifest(tmp_path / "edits.parquet"))
