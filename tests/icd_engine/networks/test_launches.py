"""How many launches a GPU gets for a pass, counted in inductor's programs for CUDA: none may come back
unseen. Needs a CUDA build of torch (Linux) and no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]
MOST = {"unet_encode": 385, "unet_decode": 407, "vae_encode": 86, "vae_decode": 114}


@pytest.mark.long
@pytest.mark.skipif(torch.version.cuda is None, reason="torch was built without CUDA")
@pytest.mark.parametrize("stage", MOST)
def test_launches_of_a_pass(stage):
    ended = subprocess.run(
        [sys.executable, "-m", "tests.cuda_programs.launches", stage],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    print(stage, sum(found.values()), found)
    assert found["convolution"] > 20  # what counts is that the count counts
    assert sum(found.values()) <= MOST[stage], found
