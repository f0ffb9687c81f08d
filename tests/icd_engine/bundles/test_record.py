"""icd.json: what it says becomes a Bundle's types, and every bad field is refused by name."""

import pytest

from icd_engine.bundles.record import parse_record
from icd_engine.errors import BundleError


def test_fields_become_tuples_and_settings(record):
    values = parse_record({"format": 1, **record})
    assert values["encode_times"] == (19, 259, 519, 779)
    assert values["decode_times"] == (259, 519, 779, 999)
    assert values["size"] == (512, 512)
    assert values["defaults"].cross_replace == {"default": 0.3, "dog": (0.0, 0.5)}
    assert values["sha256"] == {}


def test_fields_that_may_be_left_out(record):
    for name in ("blend_downscale", "share_downscale", "origin"):
        del record[name]
    values = parse_record({"format": 1, **record})
    assert (values["blend_downscale"], values["share_downscale"], values["origin"]) == (4, 2, {})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", 2),
        ("format", None),
        ("family", 15),
        ("encode_times", 19),
        ("encode_times", []),
        ("encode_times", [19, "259"]),
        ("encode_times", [19, True]),
        ("encode_times", [259, 19]),
        ("encode_times", [19, 19]),
        ("encode_times", [-1, 19]),
        ("encode_times", [19, 999]),
        ("encode_end", 998),
        ("encode_end", 999.0),
        ("decode_times", [259, 1000]),
        ("decode_times", [0, 999]),
        ("decode_times", None),
        ("size", [512]),
        ("size", [512, 500]),
        ("size", [0, 512]),
        ("size", 512),
        ("blend_downscale", 0),
        ("share_downscale", "2"),
        ("defaults", []),
        ("defaults", {"guidance": 3}),
        ("defaults", {"tau": 2}),
        ("origin", "here"),
        ("sha256", ["a"]),
        ("sha256", {"unet/config.json": "abc"}),
        ("sha256", {"unet/config.json": "G" * 64}),
        ("sha256", {"../secret": "0" * 64}),
        ("sha256", {"/etc/passwd": "0" * 64}),
        ("sha256", {"..\\secret": "0" * 64}),
        ("colour", "red"),
    ],
    ids=str,
)
def test_a_bad_field_is_named(record, field, value):
    with pytest.raises(BundleError, match=rf"^icd\.json: .*{field}"):
        parse_record({"format": 1, **record, field: value})


@pytest.mark.parametrize(
    "field", ["family", "encode_times", "encode_end", "decode_times", "size", "defaults"]
)
def test_a_missing_field_is_named(record, field):
    del record[field]
    with pytest.raises(BundleError, match=f"{field} is missing"):
        parse_record({"format": 1, **record})
