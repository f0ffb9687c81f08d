"""The same edit by diffusers' modules, four ways: the public reference's, without its waste,
compiled, and by OpenVINO.

reference: every network call on twice the rows (the unconditional half is computed and dropped,
    though the network has its guidance embedded), every attention map in memory and through a
    controller, three pictures decoded, eager float32. That is how the published code runs an edit
    (arXiv 2406.14539's repository).
lean: the same code on the rows an edit needs, one picture decoded. Its maps are still made.
compiled: what a user of diffusers can have today: channels-last, torch.compile (max-autotune on
    CUDA), rows [source, target], one picture decoded, in the engine's precision; no attention
    control and no local blend.
openvino: the same work as compiled, with UNets and VAE converted by OpenVINO and run by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.checks import Refused
from benchmarks.maps import Controller, MapsProcessor, find_layers, make_control
from benchmarks.workload import Case
from icd_engine.bundles.bundle import Bundle
from icd_engine.bundles.files import read_weights
from icd_engine.editing.words import PromptTokenizer
from icd_engine.networks.text_encoder import TextEncoder
from icd_engine.sampling.guidance import dynamic_guidance, guidance_embedding
from icd_engine.sampling.schedule import Hop, NoiseSchedule
from icd_engine.settings import EditSettings


@dataclass(frozen=True)
class Way:
    """How a baseline runs: `doubled` batches, attention `maps` under control, all three pictures,
    compiled or by openvino."""

    doubled: bool = False
    maps: bool = True
    all_pictures: bool = False
    compiled: bool = False
    openvino: bool = False


WAYS = {
    "reference": Way(doubled=True, all_pictures=True),
    "lean": Way(),
    "compiled": Way(maps=False, compiled=True),
    "openvino": Way(maps=False, openvino=True),
}


@dataclass(frozen=True)
class BaselineResult:
    """Final latents [2, 4, h, w] of the source and the target row, on the CPU, and the edited
    picture."""

    latents: Tensor
    picture: Image.Image


class DiffusersEdit:
    """One model in diffusers' modules; weights, prompts, seeds and hops are those of the bundle.
    ImportError without diffusers.

    defaults: what `Engine.default_settings` says. dtype counts where the way is compiled or
    by OpenVINO; the others run in float32.
    """

    def __init__(
        self,
        bundle: Bundle,
        defaults: EditSettings,
        way: str,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ):
        from diffusers import AutoencoderKL, UNet2DConditionModel

        if bundle.family != "sd15":
            raise Refused(
                f"baselines are of SD1.5's family: the reference has no attention control for {bundle.family}"
            )
        self.way = WAYS[way]
        self.device = device
        self.defaults = defaults
        self.dtype = dtype if self.way.compiled else torch.float32  # of tensors
        self.precision = dtype if self.way.openvino else self.dtype  # of what is computed
        self.vae_dtype = torch.float32 if self.dtype == torch.float16 else self.dtype
        self.tokenizer = PromptTokenizer.from_folder(bundle.path / "tokenizer")
        self.text = TextEncoder(bundle.config("text_encoder"))
        self.text.load_weights(
            {k: v.float() for k, v in read_weights(bundle.weights("text_encoder")).items()}
        )
        self.text.to(device, self.dtype).eval().requires_grad_(False)
        self.vae: Any = self._load(AutoencoderKL, bundle, "vae", self.vae_dtype)
        self.decode_unet: Any = self._load(UNet2DConditionModel, bundle, "unet", self.dtype)
        digests = [
            bundle.sha256.get(f"{part}/diffusion_pytorch_model.safetensors")
            for part in ("unet", "unet_forward")
        ]
        same = digests[0] is not None and digests[0] == digests[1]
        self.encode_unet: Any = (
            self.decode_unet
            if same
            else self._load(UNet2DConditionModel, bundle, "unet_forward", self.dtype)
        )
        self.schedule = NoiseSchedule.from_config(bundle.config("scheduler"))
        self.encode_hops = self.schedule.encode_hops(bundle.encode_times, bundle.encode_end)
        self.decode_hops = self.schedule.decode_hops(bundle.decode_times)
        self.blend_downscale = bundle.blend_downscale
        self.controller = Controller()
        self.layers = find_layers(self.decode_unet, bundle.blend_downscale, bundle.share_downscale)
        if self.way.maps:
            for unet in (self.encode_unet, self.decode_unet):
                unet.set_attn_processor(
                    {n: MapsProcessor(n, x, self.controller) for n, x in self.layers.items()}
                )
        if self.way.compiled:
            self._compile()
        if self.way.openvino:
            self._convert()

    def _load(self, kind: Any, bundle: Bundle, part: str, dtype: torch.dtype) -> Any:
        with torch.device("meta"):
            network = kind.from_config(bundle.config(part))
        weights = {
            key: value.to(dtype) for key, value in read_weights(bundle.weights(part)).items()
        }
        network.load_state_dict(weights, strict=True, assign=True)
        return network.to(self.device).eval().requires_grad_(False)

    def _compile(self) -> None:
        # On the CPU max-autotune tries other matrix kernels for minutes and convolutions not at
        # all.
        mode = "max-autotune" if self.device.type == "cuda" else "default"
        same = self.encode_unet is self.decode_unet
        for network in {id(n): n for n in (self.vae, self.encode_unet, self.decode_unet)}.values():
            network.to(memory_format=torch.channels_last)
        self.vae.encoder = torch.compile(self.vae.encoder, mode=mode, dynamic=False)
        self.vae.decoder = torch.compile(self.vae.decoder, mode=mode, dynamic=False)
        self.decode_unet = torch.compile(self.decode_unet, mode=mode, dynamic=False)
        self.encode_unet = (
            self.decode_unet if same else torch.compile(self.encode_unet, mode=mode, dynamic=False)
        )

    def _convert(self) -> None:
        from benchmarks.in_openvino import DiffusersUNet, InOpenVino

        if self.device.type != "cpu":
            raise Refused("the baseline 'openvino' is measured on the CPU")
        self.vae.encoder = InOpenVino(self.vae.encoder, self.precision)
        self.vae.decoder = InOpenVino(self.vae.decoder, self.precision)
        same = self.encode_unet is self.decode_unet
        self.decode_unet = DiffusersUNet(self.decode_unet, self.precision)
        self.encode_unet = (
            self.decode_unet if same else DiffusersUNet(self.encode_unet, self.precision)
        )

    @torch.inference_mode()
    def edit(self, case: Case) -> BaselineResult:
        """Picture in, edited picture out; the whole of it, as `Engine.edit` does."""
        settings = EditSettings.from_mapping(case.settings).resolve(self.defaults)
        source = self.tokenizer.encode(case.source)
        target = self.tokenizer.encode(case.target)
        inverted = self._invert(case.picture, source.ids, settings.seed or 0)
        wanted = self._features([source.ids, target.ids])
        if self.way.maps and settings.control != "none":
            steps = len(self.decode_hops)
            self.controller.start(make_control(source, target, settings, steps, self.device))
        latents = inverted.repeat(2, 1, 1, 1)
        for hop in self.decode_hops:
            w = dynamic_guidance(
                hop.t,
                settings.guidance_scale or 0.0,
                settings.tau or 0.0,
                settings.tau_low or 0.0,
                self.schedule.steps,
            )
            latents = self._hop(self.decode_unet, latents, hop, wanted, [0.0, w])
            self.controller.end_step()
            if self.way.maps:
                height, width = (side // self.blend_downscale for side in latents.shape[-2:])
                latents = self.controller.blend(latents, self.layers, height, width)
        self.controller.start(None)
        pictures = self._pictures(latents if self.way.all_pictures else latents[1:])
        return BaselineResult(latents.cpu(), pictures[-1])

    def _invert(self, picture: Image.Image, source: tuple[int, ...], seed: int) -> Tensor:
        pixels = torch.from_numpy(np.asarray(picture, dtype=np.float32)).to(self.device)
        pixels = (pixels / 127.5 - 1).permute(2, 0, 1)[None].to(self.vae_dtype)
        self._new_step()
        latents = (
            self.vae.encode(pixels).latent_dist.mode().float() * self.vae.config.scaling_factor
        )
        if self.way.all_pictures:
            self._pictures(latents)  # the reference shows what the VAE alone makes of the picture
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(
            self.device
        )
        start = self.encode_hops[0].t
        latents = self.schedule.a(start) * latents + self.schedule.sigma(start) * noise
        features = self._features([source])
        for hop in self.encode_hops:
            latents = self._hop(self.encode_unet, latents, hop, features, [0.0])
        return latents

    def _features(self, prompts: list[tuple[int, ...]]) -> Tensor:
        """Text features of the prompts, those of the empty prompt before them where the batch is
        doubled."""
        empty = [self.tokenizer.encode("").ids] * len(prompts) if self.way.doubled else []
        return self.text(torch.tensor([*empty, *prompts], device=self.device))

    def _hop(
        self, unet: Any, latents: Tensor, hop: Hop, features: Tensor, w: list[float]
    ) -> Tensor:
        copies = 2 if self.way.doubled else 1
        guidance = torch.from_numpy(
            guidance_embedding(w * copies, unet.config.time_cond_proj_dim)
        ).to(self.device)
        self._new_step()
        eps = unet(
            latents.repeat(copies, 1, 1, 1).to(self.dtype),
            torch.tensor(hop.t, device=self.device),
            features,
            timestep_cond=guidance.to(self.dtype),
        ).sample
        return hop.A * latents + hop.B * eps[-len(latents) :].float()

    def _pictures(self, latents: Tensor) -> list[Image.Image]:
        self._new_step()
        decoded = self.vae.decode(
            (latents / self.vae.config.scaling_factor).to(self.vae_dtype)
        ).sample.float()
        pixels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return [Image.fromarray(array) for array in pixels.permute(0, 2, 3, 1).cpu().numpy()]

    def _new_step(self) -> None:
        """Before a compiled network runs: what CUDA graphs gave before has been used and may be
        overwritten."""
        if self.way.compiled and self.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
