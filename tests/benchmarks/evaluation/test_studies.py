"""The studies on two scenes of the world: the paper's orderings are looked for in recorded runs,
not here."""

import json

import pytest

from benchmarks.evaluation import studies


@pytest.mark.parametrize("name", studies.STUDIES)
def test_every_study_gives_its_rows(name, capsys):
    assert studies.main([name, "--count", "1"]) == 0
    rows = json.loads(capsys.readouterr().out)[name]
    wanted = {"guidance": 13, "encoding": 4, "tradeoff": 12, "ablation": 1}
    assert len(rows) == wanted[name] and {row["model"] for row in rows} == {"tiny"}
    assert all(isinstance(row.get("psnr", row.get("edit_psnr_to_truth")), float) for row in rows)


def test_unguided_encoding_is_the_engines_own(capsys):
    """The study's own loop with w = 0 gives what Engine.invert gives."""
    import torch

    from benchmarks.evaluation.suites import tiny
    from icd_engine.engine import Engine

    engine, item = Engine.from_pretrained("tiny", device="cpu"), tiny(1, 1)[0]
    own = engine.invert(item.picture(), item.source, seed=0).latents
    assert torch.allclose(
        studies._encoded(engine, item, 0.0), own, atol=1e-4 * float(own.abs().max())
    )
