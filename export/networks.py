"""The networks of a bundle, loaded to be exported."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch

from icd_engine.bundles.bundle import Bundle
from icd_engine.editing.words import PromptTokenizer
from icd_engine.loading import load_network, load_text_encoder
from icd_engine.networks.text_encoder import DualTextEncoder, TextEncoder
from icd_engine.networks.unet import UNet
from icd_engine.networks.vae import VAE

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}
COMPUTED = PRECISIONS | {"bf16": torch.bfloat16}  # by layout "openvino" in the last, too


class ExportNetworks(NamedTuple):
    """A bundle's networks on the CPU, and the precision of what UNets and text encoder take and give."""

    bundle: Bundle
    precision: torch.dtype
    text_encoder: TextEncoder | DualTextEncoder
    vae: VAE
    unet_forward: UNet
    unet: UNet

    @classmethod
    def load(cls, bundle: Bundle, precision: str) -> ExportNetworks:
        """UNets and text encoder in `precision`. Raises BundleError."""
        cpu = torch.device("cpu")
        dtype = COMPUTED[precision]
        brain = dtype == torch.bfloat16
        levels = {
            "blend_downscale": bundle.blend_downscale,
            "share_downscale": bundle.share_downscale,
        }
        unet = partial(UNet, **levels)
        return cls(
            bundle,
            torch.float32 if brain else dtype,  # numpy has no bfloat16
            load_text_encoder(bundle, cpu, dtype),
            # Stable Diffusion's VAE overflows in float16
            load_network(bundle, "vae", VAE, cpu, dtype if brain else torch.float32),
            load_network(bundle, "unet_forward", unet, cpu, dtype),
            load_network(bundle, "unet", unet, cpu, dtype),
        )

    @property
    def tokens(self) -> int:
        """n of every prompt."""
        return PromptTokenizer.from_folder(self.bundle.path / "tokenizer").max_length

    @property
    def text_width(self) -> int:
        """Channels of the prompt features."""
        return sum(self.bundle.config(part)["hidden_size"] for part in self.text_encoders())

    def text_encoders(self) -> dict[str, TextEncoder]:
        """By part of the bundle."""
        if isinstance(self.text_encoder, TextEncoder):
            return {"text_encoder": self.text_encoder}
        return {"text_encoder": self.text_encoder.first, "text_encoder_2": self.text_encoder.second}
