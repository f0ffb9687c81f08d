"""Each of the paper's claims, from figures that show it and from figures that do not."""

import json

import pytest

from benchmarks.evaluation.orderings import orderings

RESULT = {
    "inversion_psnr_unguided": 28.0,
    "inversion_psnr_guided_dynamic": 25.0,
    "inversion_psnr_guided_constant": 24.0,
}
TABLE = {
    "icd": {"network_calls": 8.0, "seconds": 0.3, "edit_psnr_to_truth": 22.0},
    "icd-auto": {"network_calls": 212.0, "seconds": 6.0, "edit_psnr_to_truth": 25.0},
    "infedit": {"network_calls": 24.0, "seconds": 1.0, "edit_psnr_to_truth": 29.0},
    "ddim": {"network_calls": 150.0, "seconds": 3.0, "edit_psnr_to_truth": 22.5},
}
ABLATION = [
    {"model": "s10_plain", "inversion_psnr_unguided": 27.0},
    {"model": "s4_plain", "inversion_psnr_unguided": 26.0},
    {"model": "s4_both", "inversion_psnr_unguided": 27.5},
    {"model": "s4_forward", "inversion_psnr_unguided": 20.0},
]
ENCODING = [{"w_encode": 0.0, "psnr": 29.0}, {"w_encode": 2.0, "psnr": 23.0}, {"w_encode": 8.0, "psnr": 15.0}]


def found(tmp_path, result=RESULT, table=TABLE, ablation=ABLATION, encoding=ENCODING):
    (tmp_path / "ablation.json").write_text(json.dumps({"ablation": ablation}))
    (tmp_path / "studies.json").write_text(json.dumps({"encoding": encoding}))
    return {one.claim.split(" ", 1)[0]: one for one in orderings(result, table, tmp_path)}


def test_all_hold(tmp_path):
    claims = found(tmp_path)
    assert list(claims) == ["Dynamic", "Unguided", "Preservation", "More", "8"]
    assert all(one.holds for one in claims.values())
    assert claims["8"].figures == "ddim +0.5 dB, 10 x the time"
    assert claims["More"].figures == "4 steps 26.0 dB, 10 steps 27.0 dB"  # by number, not by letter


@pytest.mark.parametrize(
    "claim, change",
    [
        ("Dynamic", {"result": RESULT | {"inversion_psnr_guided_dynamic": 23.0}}),
        ("Unguided", {"encoding": [*ENCODING, {"w_encode": 4.0, "psnr": 30.0}]}),
        ("Preservation", {"ablation": [*ABLATION[:2], {"model": "s4_both", "inversion_psnr_unguided": 26.1}]}),
        ("More", {"ablation": [{"model": "s10_plain", "inversion_psnr_unguided": 25.0}, *ABLATION[1:]]}),
        ("8", {"table": TABLE | {"ddim": TABLE["ddim"] | {"edit_psnr_to_truth": 23.5}}}),
    ],
)
def test_each_can_fail(tmp_path, claim, change):
    claims = found(tmp_path, **change)
    assert [name for name, one in claims.items() if not one.holds] == [claim]


def test_without_figures_there_is_no_claim(tmp_path):
    assert orderings({}, {"icd": TABLE["icd"]}, tmp_path) == []
