"""`icd generate`: pictures of no source, signed as such."""

from pathlib import Path

import numpy as np

from icd_engine.cli import main
from tests.icd_engine.cli.written import GENERATED, SOURCE, TARGET, pixels_of


def test_generate(place, loaded, capsys):
    assert (
        main(
            [
                "generate",
                SOURCE,
                TARGET,
                "--seed",
                "2",
                "--tau",
                "0.7",
                "--guidance-scale",
                "2",
                "--size",
                "48x32",
            ]
        )
        == 0
    )
    assert capsys.readouterr().out.split() == ["generated_1.png", "generated_2.png"]
    expected = loaded.generate([SOURCE, TARGET], seed=2, tau=0.7, guidance_scale=2, size=(48, 32))
    for i, picture in enumerate(expected, start=1):
        assert np.array_equal(pixels_of(f"generated_{i}.png"), np.asarray(picture))
    assert GENERATED in Path("generated_1.png").read_bytes()
