"""The embedded model's own stages: what its teacher reads, its base, its sealing; the whole way
from nothing (long)."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")


from icd_engine.bundles.bundle import read_bundle
from icd_engine.bundles.files import read_weights
from icd_engine.engine import Engine
from icd_engine.networks.text_encoder import PromptFeatures
from icd_engine.networks.vae import VAE
from training.base import Base
from training.networks import predict
from training.tiny import bundle, edits, text
from training.tiny.__main__ import main
from training.tiny.teacher import Teacher, TinyEncoder, thinned
from training.tiny.vae import CONFIG
from training.world.pairs import sample_pairs

ROOT = Path(__file__).parents[3]
CAPTION = "a large purple heart on a striped orange background"


def test_captions_lose_words_now_and_then():
    rng = np.random.default_rng(0)
    captions = [thinned(CAPTION, rng) for _ in range(4000)]
    shares = {caption: captions.count(caption) / 4000 for caption in set(captions)}
    assert shares == {
        "": pytest.approx(0.1, abs=0.02),
        CAPTION: pytest.approx(0.9 * 0.92**2, abs=0.03),
        "a purple heart on a striped orange background": pytest.approx(0.9 * 0.08 * 0.92, abs=0.02),
        "a large purple heart on a orange background": pytest.approx(0.9 * 0.08 * 0.92, abs=0.02),
        "a purple heart on a orange background": pytest.approx(0.9 * 0.08**2, abs=0.01),
    }


def test_the_base_is_the_trained_networks_in_diffusers_hands(tmp_path):
    """Text features, latents, predictions and pictures: stock modules on the written folder against
    our own."""
    torch.manual_seed(0)
    teacher, vae = Teacher().eval(), VAE(CONFIG).eval()
    bundle.write_base(tmp_path, vae, 0.7, teacher)
    base = Base(tmp_path)
    assert base.scaling_factor == 0.7 and base.downscale == TinyEncoder.downscale
    ids = torch.tensor([text.tokenizer().encode(CAPTION).ids])
    picture = torch.rand(1, 3, 128, 128) * 2 - 1
    x, t = torch.randn(1, 4, 16, 16), torch.tensor([500])
    with torch.no_grad():
        features = teacher.text(ids)
        stock = base.encode_prompts([CAPTION]).tokens
        assert stock.shape[1] == text.LENGTH
        torch.testing.assert_close(stock[:, : ids.shape[1]], features, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            base.moments(picture), TinyEncoder(vae).moments(picture), rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(
            base.to_pictures(x), vae.to_image(x * vae.scaling_factor / 0.7), rtol=1e-4, atol=1e-4
        )
        own = teacher.unet(x, t, stock).eps
        # bf16
        torch.testing.assert_close(
            predict(base.unet(), x, t, PromptFeatures(stock)), own, rtol=0.1, atol=0.02
        )
        torch.testing.assert_close(
            predict(base.unet(), x, t, PromptFeatures(stock), precision="fp32"),
            own,
            rtol=1e-4,
            atol=1e-5,
        )


def test_sealing_halves_weights_and_adds_the_demo(tmp_path):
    distilled = read_bundle("tiny")
    sealed = bundle.write_tiny(tmp_path / "sealed", distilled)
    # The shipped bundle is its own sealing
    assert read_bundle(sealed.path, verify=True).sha256 == distilled.sha256
    assert sealed.decode_times == distilled.decode_times and sealed.defaults == distilled.defaults


def test_a_crisper_decoder_from_the_shipped_model(tmp_path, monkeypatch):
    """The stages after distillation, with one step: the encoder stays to the last bit."""
    shipped = read_bundle("tiny")
    monkeypatch.setattr(bundle, "BUNDLE", tmp_path / "sealed")
    shutil.copytree(shipped.path, bundle.BUNDLE)
    monkeypatch.setattr(edits, "NEAR", 0.0)
    main(["edits", "decoder", "bundle", "--folder", str(tmp_path / "run"), "--samples", "3"])
    assert len(edits.EditPool(tmp_path / "run" / "edits")) == 3
    last = json.loads((tmp_path / "run" / "decoder.jsonl").read_text().splitlines()[-1])
    assert last["psnr"] > 25 and 0.4 < last["sharpness"] < 1
    old = read_weights(shipped.weights("vae"))
    new = read_weights(read_bundle(bundle.BUNDLE, verify=True).weights("vae"))
    kept = {name for name in old if torch.equal(old[name], new[name])}
    assert kept >= {name for name in old if name.startswith(("encoder.", "quant_conv."))}
    assert not kept >= {name for name in old if name.startswith("decoder.up_blocks")}


@pytest.mark.long
def test_from_nothing_to_a_bundle(tmp_path):
    """The sequence of docs/training.md with few samples, about 20 minutes on two cores: VAE, judge, cache,
    teacher, guidance-distilled teacher, forward and reverse LoRA, bundle. So much each must have
    learnt: the VAE and the teacher their tasks, the pair to hop more consistently than the teacher
    it starts as, and pictures come back."""
    run = tmp_path / "run"
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
    ]

    def stage(*arguments):
        subprocess.run(
            [*launch, *map(str, arguments)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL
        )

    for name, samples in (
        ("vae", 6400),
        ("judge", 3200),
        ("latents", 4096),
        ("teacher", 24000),
        ("base", 1),
    ):
        stage("training.tiny", name, "--folder", run, "--samples", samples)
    common = ("--config", "tiny", "--base", run / "base", "--out", run, "--set")
    stage("training", "guidance", *common, "guidance.samples=1600")
    lora = ("lora_rank=32", "lora_alpha=32", "icd.lr=0.001", "icd.ema=0.9")
    stage("training", "icd", *common, "icd.samples=2400", "icd.check_every=150", *lora)
    assert sorted(path.name for path in (run / "weights").iterdir()) == [
        "iCD-SD15-forward_19_259_519_779.safetensors",
        "iCD-SD15-reverse_259_519_779_999.safetensors",
    ]
    last = {
        name: json.loads((run / f"{name}.jsonl").read_text().splitlines()[-1])
        for name in ("vae", "teacher")
    }
    assert last["vae"]["psnr"] > 18 and last["teacher"]["eps_mse"] < 0.3
    lines = [json.loads(line) for line in (run / "icd.jsonl").read_text().splitlines()]
    losses = [line["reverse"] + line["forward"] for line in lines if "reverse" in line]
    assert losses[-1] < 0.85 * losses[0] and lines[-1]["inversion_psnr_unguided"] > 15
    pair = sample_pairs(1, 3)[0]
    result = Engine.from_pretrained(run / "bundle").edit(pair.picture, pair.source, pair.target)
    assert result.network_calls == 9 and np.asarray(result.image).std() > 5
