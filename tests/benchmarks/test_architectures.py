"""Random bundles: whole, read again from the cache, and of the published shapes."""

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import architectures
from benchmarks.architectures import ARCHITECTURES, architecture_bundle, random_weights
from benchmarks.checks import difference
from benchmarks.counting import unet_work
from icd_engine.errors import BundleError
from icd_engine.networks.unet import UNet
from icd_engine.networks.vae import VAE


@pytest.mark.parametrize("name", ["small", "small-xl"])
def test_a_small_bundle_is_written_once_and_edits(tmp_path, name):
    from benchmarks.subject import Subject
    from benchmarks.workload import make_cases
    from icd_engine.engine import Engine

    bundle = architecture_bundle(name, cache=tmp_path)
    written = bundle.weights("unet").stat().st_mtime_ns
    again = architecture_bundle(name, cache=tmp_path)
    assert (again.path, again.weights("unet").stat().st_mtime_ns) == (bundle.path, written)
    engine = Engine.from_pretrained(bundle.path, device="cpu", dtype="float32")
    subject = Subject(engine, name, torch.device("cpu"), torch.float32, bundle.size, 0.0)
    result = subject.edit(make_cases(1, bundle.size)[0])
    assert result.image.size == (64, 64) and result.latents.isfinite().all()
    # Both networks have equal weights, and a prompt matters: an edit with other control is another
    # picture.
    assert bundle.weights("unet").samefile(bundle.weights("unet_forward"))
    assert difference(result.latents, result.source_latents) > 1e-2


def test_an_unknown_architecture_is_refused():
    with pytest.raises(BundleError, match=r"flux.*known: sd15, sdxl, small"):
        architecture_bundle("flux")


@pytest.mark.parametrize(("name", "millions"), [("sd15", 860), ("sdxl", 2567)])
def test_parameters_of_the_published_unets(name, millions):
    with torch.device("meta"):
        unet = UNet(ARCHITECTURES[name]["unet"])
    count = sum(p.numel() for p in unet.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=1e-3)
    assert unet_work(ARCHITECTURES[name]["unet"], 64, 64)


def test_parameters_of_the_published_vae():
    with torch.device("meta"):
        vae = VAE(ARCHITECTURES["sd15"]["vae"])
    assert sum(p.numel() for p in vae.parameters()) / 1e6 == pytest.approx(83.65, rel=1e-3)


def test_weights_are_seeded():
    with torch.device("meta"):
        unet = UNet(ARCHITECTURES["small"]["unet"])
    first, second = random_weights(unet, 3), random_weights(unet, 3)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert {value.dtype for value in first.values()} == {torch.float16}
    assert not torch.equal(random_weights(unet, 4)["conv_in.weight"], first["conv_in.weight"])


def test_weights_have_their_deviation_and_rows_are_alike_nowhere(monkeypatch):
    """From a block much shorter than the matrix, read over and over."""
    monkeypatch.setattr(architectures, "DRAWN", 997)
    rows, columns = 60, 100
    weights = random_weights(nn.Linear(columns, rows), 0)["weight"].float()
    # 997 numbers: their deviation is off by 1 / sqrt(2 x 997) of itself, five times that is 0.11.
    assert float(weights.std()) == pytest.approx((3 * columns) ** -0.5, rel=0.12)
    alike = torch.corrcoef(weights) - torch.eye(rows)
    assert float(alike.abs().max()) < 1 - 1e-3


def test_without_links_the_second_network_is_a_copy(tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError("no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    bundle = architecture_bundle("small", cache=tmp_path)
    assert not bundle.weights("unet").samefile(bundle.weights("unet_forward"))
    assert bundle.weights("unet").read_bytes() == bundle.weights("unet_forward").read_bytes()
