"""The eager runner: the networks called as they are. It defines what every other runner must answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from csrc_triton.boundary_step import boundary_step
from csrc_triton.local_blend import local_blend
from icd_engine.errors import RunnerError
from icd_engine.networks.attention import EditStep
from icd_engine.networks.text_encoder import TextEncoder
from icd_engine.networks.unet import UNet
from icd_engine.networks.vae import VAE
from icd_engine.runners.contract import Decoded, DecodeInputs, StepCallback
from icd_engine.sampling.guidance import guidance_embedding
from icd_engine.sampling.schedule import Hop
from icd_engine.sampling.trajectory import run_trajectory


class EagerRunner:
    """Runs on the device and in the dtype its networks have; latents stay float32 between calls."""

    name = "eager"

    def __init__(self, text_encoder: TextEncoder, vae: VAE, forward: UNet, reverse: UNet):
        self.text_encoder, self.vae, self.forward, self.reverse = text_encoder, vae, forward, reverse
        self.device = reverse.conv_in.weight.device
        self.dtype = reverse.conv_in.weight.dtype
        self.vae_dtype = vae.decoder.conv_in.weight.dtype

    @torch.inference_mode()
    def encode_prompts(self, ids: Tensor) -> Tensor:
        return self.text_encoder(ids.to(self.device)).to(self.dtype)

    @torch.inference_mode()
    def to_latents(self, pictures: Tensor) -> Tensor:
        return self.vae.to_latents(pictures.to(self.device, self.vae_dtype)).float()

    @torch.inference_mode()
    def to_image(self, latents: Tensor) -> Tensor:
        return self.vae.to_image(latents.to(self.device, self.vae_dtype)).float()

    @torch.inference_mode()
    def encode(self, latents: Tensor, prompt: Tensor, hops: Sequence[Hop], callback: StepCallback | None) -> Tensor:
        def step(k: int, hop: Hop, x: Tensor) -> Tensor:
            w = [0.0] * len(x)
            eps = self._predict(self.forward, x, hop, prompt, w, None).eps
            return boundary_step(x, eps, *self._constants(hop, len(x)))

        return run_trajectory(latents.to(self.device, torch.float32), hops, step, callback)

    @torch.inference_mode()
    def decode(self, inputs: DecodeInputs, hops: Sequence[Hop], callback: StepCallback | None) -> Decoded:
        masks: list[Tensor] = []
        maps = None

        def step(k: int, hop: Hop, x: Tensor) -> Tensor:
            nonlocal maps
            edit = None if inputs.edits is None else inputs.edits[k]
            w = inputs.guidance[k]
            out = self._predict(self.reverse, x, hop, inputs.prompt, w, edit)
            constants = self._constants(hop, len(x))
            if self.reverse.guidance_channels is None and any(w):
                eps_uncond = self._predict_unconditional(x, hop, w, inputs.empty_prompt)
                x = boundary_step(x, out.eps, *constants, eps_uncond, torch.tensor(w, device=self.device))
            else:
                x = boundary_step(x, out.eps, *constants)
            if inputs.blend is None:
                return x
            if out.word_maps is not None:
                new = [m.float() for m in out.word_maps]
                maps = new if maps is None else [a + b for a, b in zip(maps, new, strict=True)]
            nothing = x.new_zeros(len(inputs.blend.active), 1, 1)
            source_maps, target_maps = (nothing, nothing) if maps is None else maps
            x, mask = local_blend(
                x,
                source_maps,
                target_maps,
                inputs.blend.source_row,
                use_blend=inputs.blend.active,
                user_mask=inputs.blend.user_mask,
            )
            masks.append(mask)
            return x

        latents = run_trajectory(inputs.latents.to(self.device, torch.float32), hops, step, callback)
        return Decoded(latents, torch.stack(masks) if masks else None)

    def _constants(self, hop: Hop, rows: int) -> tuple[Tensor, Tensor]:
        """A and B of a hop for every row: [rows] float32 each."""
        return (
            torch.full((rows,), hop.A, dtype=torch.float32, device=self.device),
            torch.full((rows,), hop.B, dtype=torch.float32, device=self.device),
        )

    def _predict(self, unet: UNet, x: Tensor, hop: Hop, prompt: Tensor, w: Sequence[float], edit: EditStep | None):
        guidance = None
        if unet.guidance_channels is not None:
            guidance = torch.from_numpy(guidance_embedding(w, unet.guidance_channels)).to(self.device)
        t = torch.full((len(x),), float(hop.t), device=self.device)
        return unet(x.to(self.dtype), t, prompt, guidance, edit)

    def _predict_unconditional(self, x: Tensor, hop: Hop, w: Sequence[float], empty_prompt: Tensor | None) -> Tensor:
        """The second prediction of a two-pass model, run for guided rows only."""
        if empty_prompt is None:
            raise RunnerError("a network that is not guidance-distilled needs the empty prompt for guided rows")
        rows = [row for row, scale in enumerate(w) if scale]
        prompt = empty_prompt.expand(len(rows), -1, -1)
        eps = torch.zeros_like(x)
        eps[rows] = self._predict(self.reverse, x[rows], hop, prompt, [0.0] * len(rows), None).eps.float()
        return eps
