"""Each of the paper's claims, from figures that show it and from figures that do not."""

import json

import pytest

from benchmarks.evaluation.orderings import orderings, read_studies
from icd_engine.errors import SettingsError

RESULT = {
    "inversion_psnr_unguided": 28.0,
    "inversion_psnr_guided_dynamic": 25.0,
    "inversion_psnr_guided_constant": 24.0,
}
TABLE = {
    "icd": {"network_calls": 8.0, "seconds": 0.3, "edit_psnr_to_truth": 22.0},
    "icd-plain": {"network_calls": 212.0, "seconds": 6.0, "edit_psnr_to_truth": 25.0},
    "infedit": {"network_calls": 24.0, "seconds": 1.0, "edit_psnr_to_truth": 29.0},
    "ddim": {"network_calls": 150.0, "seconds": 3.0, "edit_psnr_to_truth": 22.5},
}


def bundle(model: str, figure: float) -> dict:
    figures = ("inversion_psnr_unguided", "inversion_psnr_guided_dynamic", "edit_psnr_to_truth")
    return {"model": model, **{name: figure - i for i, name in enumerate(figures)}}


ABLATION = [
    bundle("s10_plain", 27.0),
    bundle("s4_plain", 26.0),
    bundle("s4_both", 27.5),
    bundle("s4_forward", 20.0),
]
ENCODING = [
    {"w_encode": 0.0, "psnr": 29.0},
    {"w_encode": 2.0, "psnr": 23.0},
    {"w_encode": 8.0, "psnr": 15.0},
]
ABLATED = ("unguided inversion", "guided inversion", "edits")


def found(result=RESULT, table=TABLE, ablation=ABLATION, encoding=ENCODING):
    return {
        one.claim: one
        for one in orderings(result, table, {"ablation": ablation, "encoding": encoding})
    }


def failing(**change) -> list[str]:
    return [claim for claim, one in found(**change).items() if not one.holds]


def test_all_hold():
    claims = found()
    assert list(claims) == [
        "Dynamic guidance keeps at least as much as constant guidance",
        "Unguided decoding keeps the most",
        "Unguided encoding beats guided encoding",
        *(
            text
            for of in ABLATED
            for text in (
                f"Preservation losses help {of}",
                f"More steps help {of} without preservation losses",
            )
        ),
        "8 calls edit within 1 dB of every method of 100 calls and more",
    ]
    assert all(one.holds for one in claims.values())
    assert (
        claims["8 calls edit within 1 dB of every method of 100 calls and more"].figures
        == "ddim +0.5 dB, 10 x the time"
    )
    more = claims["More steps help unguided inversion without preservation losses"]
    assert more.figures == "4 steps 26.0 dB, 10 steps 27.0 dB; recorded"  # by number, not by letter


@pytest.mark.parametrize(
    ("claim", "change"),
    [
        ("Dynamic guidance keeps", {"result": RESULT | {"inversion_psnr_guided_dynamic": 23.0}}),
        ("Unguided decoding", {"result": RESULT | {"inversion_psnr_guided_dynamic": 29.0}}),
        ("Unguided encoding", {"encoding": [*ENCODING, {"w_encode": 4.0, "psnr": 30.0}]}),
        ("8 calls", {"table": TABLE | {"ddim": TABLE["ddim"] | {"edit_psnr_to_truth": 23.5}}}),
    ],
)
def test_each_can_fail(claim, change):
    (failed,) = failing(**change)
    assert failed.startswith(claim)


def test_what_is_equal_is_no_worse():
    assert failing(result=dict.fromkeys(RESULT, 25.0)) == []


def test_the_ablation_can_fail_for_inversions_and_edits_apart():
    # Too little to count
    worse = ABLATION[2] | {"edit_psnr_to_truth": ABLATION[1]["edit_psnr_to_truth"] + 0.1}
    assert failing(ablation=[*ABLATION[:2], worse]) == ["Preservation losses help edits"]
    falling = [bundle("s10_plain", 25.0), *ABLATION[1:]]
    assert failing(ablation=falling) == [
        f"More steps help {of} without preservation losses" for of in ABLATED
    ]


def test_without_figures_there_is_no_claim():
    assert orderings({}, {"icd": TABLE["icd"]}, {}) == []


def test_studies_are_read_from_all_files(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"count": 3, "ablation": ABLATION}))
    (tmp_path / "b.json").write_text(json.dumps({"encoding": ENCODING}))
    found = read_studies([tmp_path / "a.json", tmp_path / "b.json"])
    assert found == {"ablation": ABLATION, "encoding": ENCODING}


@pytest.mark.parametrize("text", ["{", "[]", None])
def test_a_file_without_studies_is_one_error(tmp_path, text):
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingsError, match="holds no studies"):
        read_studies([path])


@pytest.mark.parametrize(
    "rows", [[{"model": "s4_plain"}, {"model": "s4_both"}], [bundle("x_plain", 1.0)], [3]], ids=str
)
def test_rows_of_something_else_are_one_error(rows):
    with pytest.raises(SettingsError, match="not as they were written"):
        orderings(RESULT, TABLE, {"ablation": rows})
