"""`python -m training` from captioned pictures to a bundle that edits, on small random networks,
for both families."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

pytest.importorskip("diffusers")


from icd_engine.bundles.bundle import read_bundle
from icd_engine.engine import Engine
from training.__main__ import main

ROOT = Path(__file__).parents[2]
RECIPE = {"samples": 6, "batch": 2, "lr": 1e-3, "warmup": 0, "ema": None, "precision": "fp32"}


def configuration(folder: Path, **changes) -> str:
    """Three steps of two pictures, LoRA of rank 2, checks at the end."""
    config = {
        "size": 64,
        "guidance": RECIPE | {"ema": 0.5},
        "icd": RECIPE | {"check_every": 3},
        "cycle": RECIPE | {"check_every": 3},
        "chain": {"encode_times": [19, 519], "decode_times": [519, 999]},
        "lora_rank": 2,
        "held_out": 2,
    }
    path = folder / "config.json"
    path.write_text(json.dumps(config | changes))
    return str(path)


def pictures(folder: Path, count: int) -> Path:
    rng, lines = np.random.default_rng(0), ["picture,caption"]
    folder.mkdir()
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        small.resize((72, 64)).save(folder / f"{i}.png")
        lines.append(f"{i}.png,a picture of {i}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


def stage(name, config, base, out, *more) -> int:
    return main([name, "--config", config, "--base", str(base), "--out", str(out), *more])


@pytest.fixture(params=["sd15", "sdxl"])
def family_base(request, base, sdxl_base):
    return base if request.param == "sd15" else sdxl_base


@pytest.mark.parametrize("rank", [2, None], ids=["lora", "full"])
def test_from_pictures_to_an_edit(family_base, tmp_path, rank, capsys):
    config, out = configuration(tmp_path, lora_rank=rank), tmp_path / "run"
    data = pictures(tmp_path / "data", 8)
    (data / "3.png").write_bytes(b"broken")
    for name in ("latents", "guidance", "icd", "cycle"):
        more = ["--data", str(data)] if name == "latents" else []
        assert stage(name, config, family_base, out, *more) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out.splitlines()
    assert printed == [str(out / made) for made in ("latents", "teacher", "bundle", "bundle_cycle")]

    bundle, cycled = (read_bundle(out / name, verify=True) for name in ("bundle", "bundle_cycle"))
    assert (
        bundle.encode_times == (19, 519)
        and bundle.decode_times == (519, 999)
        and bundle.guidance_embedded
    )
    assert cycled.encode_times == (0, 519)
    one, other = (load_file(b.weights("unet_forward")) for b in (bundle, cycled))
    assert any(not torch.equal(one[key], other[key]) for key in one)  # the forward network learnt
    one, other = (load_file(b.weights("unet")) for b in (bundle, cycled))
    assert all(torch.equal(one[key], other[key]) for key in one)  # and it alone
    for made in (bundle, cycled):
        engine = Engine.from_pretrained(made.path, device="cpu", dtype="float32", runner="eager")
        result = engine.edit(data / "0.png", "a picture of 0", "a picture of 1")
        assert result.network_calls == 4 and bool(result.latents.isfinite().all())

    last = json.loads((out / "icd.jsonl").read_text().splitlines()[-1])
    assert {f"inversion_psnr_{form}" for form in ("unguided", "dynamic", "constant")} <= last.keys()


def test_a_stage_killed_and_resumed_is_bit_identical(base, tmp_path, monkeypatch):
    """SIGKILL in the middle of consistency distillation, LoRA and moving average and optimiser and
    all."""
    recipe = RECIPE | {"samples": 20, "ema": 0.5}
    config, data = configuration(tmp_path, icd=recipe), pictures(tmp_path / "data", 6)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for name in ("latents", "guidance"):
        assert (
            stage(name, config, base, whole, *(["--data", str(data)] if name == "latents" else []))
            == 0
        )
    killed.mkdir()
    (killed / "latents").symlink_to(whole / "latents")
    teacher = ["--teacher", str(whole / "teacher")]
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import training.loop; training.loop.SAVE_EVERY_SECONDS = 0.0;"
        "from training.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "icd",
        "--config",
        config,
        "--base",
        str(base),
        *teacher,
        "--out",
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, str(killed)], env=env)
    file = killed / "icd.safetensors"
    while process.poll() is None and not (file.exists() and _step(file) >= 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 3 <= _step(file) < 10
    for folder in (killed, whole):
        assert (
            subprocess.run([*command, str(folder)], env=env, stdout=subprocess.DEVNULL).returncode
            == 0
        )
    one, other = load_file(file), load_file(whole / "icd.safetensors")
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    for name in sorted(path.name for path in (whole / "weights").iterdir()):
        one, other = (load_file(folder / "weights" / name) for folder in (killed, whole))
        assert all(torch.equal(one[key], other[key]) for key in one)


def _step(path: Path) -> int:
    with safe_open(path, "pt") as file:
        return int(file.metadata()["step"])


@pytest.mark.parametrize(
    "name, more, message",
    [
        ("guidance", [], "run `python -m training latents` first"),
        ("icd", [], "teacher"),
        ("cycle", [], "teacher"),
        ("latents", ["--data", "nowhere.csv"], "no pictures at 'nowhere.csv'"),
        ("guidance", ["--set", "icd.batsh=3"], "icd.batsh is no field"),
    ],
)
def test_what_is_missing_is_one_line(base, tmp_path, capsys, name, more, message):
    assert stage(name, configuration(tmp_path), base, tmp_path / "run", *more) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("error: ")


def test_a_base_that_is_none(tmp_path, capsys):
    assert stage("guidance", configuration(tmp_path), tmp_path, tmp_path / "run") == 1
    assert str(tmp_path) in capsys.readouterr().err
