"""The VAE equals diffusers' AutoencoderKL on its own weights."""

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import AutoencoderKL

from icd_engine.networks.vae import VAE, attend_by_products

SD = {
    "block_out_channels": [8, 16, 16, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "norm_num_groups": 4,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
CONFIGS = {
    "sd15": SD,
    "sdxl": SD | {"scaling_factor": 0.13025, "block_out_channels": [8, 8, 16, 16]},
    "tiny": SD | {"norm_num_groups": 1, "layers_per_block": 1},
    "no_attention": SD
    | {"mid_block_add_attention": False, "use_quant_conv": False, "use_post_quant_conv": False},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_diffusers(name):
    torch.manual_seed(0)
    theirs = AutoencoderKL(**CONFIGS[name]).eval()
    ours = VAE(theirs.config).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    pictures = torch.rand(2, 3, 64, 48) * 2 - 1
    noise = torch.randn(2, 4, 8, 6)
    with torch.no_grad():
        posterior = theirs.encode(pictures).latent_dist
        latents = ours.to_latents(pictures)
        sampled = ours.to_latents(pictures, noise)
        decoded = ours.to_image(latents)
        expected = theirs.decode(posterior.mean).sample
    scale = CONFIGS[name]["scaling_factor"]
    assert latents.shape == (2, 4, 8, 6) and ours.downscale == 8
    assert (latents / scale - posterior.mean).abs().max() <= 1e-5 * posterior.mean.abs().max()
    expected_sample = posterior.mean + posterior.std * noise
    assert (sampled / scale - expected_sample).abs().max() <= 1e-5 * expected_sample.abs().max()
    assert (decoded - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_attention_by_products_is_attention():
    q, k, v = torch.randn(3, 2, 48, 16, dtype=torch.float64).unbind()
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(attend_by_products(q, k, v), expected, rtol=0, atol=1e-12)
