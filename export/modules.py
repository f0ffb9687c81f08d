"""What ONNX graphs are made of: the networks behind the names and in the order of their ports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from csrc_triton.boundary_step import boundary_step
from csrc_triton.local_blend import local_blend
from icd_engine.editing.plan import EditStep
from icd_engine.networks.text_encoder import TextEncoder
from icd_engine.networks.unet import UNet, UNetOutput
from icd_engine.networks.vae import VAE


class TextFeatures(nn.Module):
    """Token ids -> the last hidden state."""

    def __init__(self, encoder: TextEncoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.encoder(input_ids)


class Posterior(nn.Module):
    """Pictures in [-1, 1] -> mean and log-variance of their latents, not scaled."""

    def __init__(self, vae: VAE):
        super().__init__()
        self.vae = vae

    def forward(self, sample: Tensor) -> Tensor:
        return torch.cat(self.vae.posterior(sample), dim=1)


class Pictures(nn.Module):
    """Latents, not scaled -> pictures, about in [-1, 1]."""

    def __init__(self, vae: VAE):
        super().__init__()
        self.vae = vae

    def forward(self, latent_sample: Tensor) -> Tensor:
        return self.vae.decoder(self.vae.post_quant_conv(latent_sample))


class Hop(nn.Module):
    """A UNet; latents and tables come in float32 whatever its own precision is."""

    def __init__(self, unet: UNet):
        super().__init__()
        self.unet = unet
        self.dtype = unet.conv_in.weight.dtype

    def predict(
        self, latents: Tensor, timestep: Tensor, timestep_cond: Tensor, encoder_hidden_states: Tensor, *edit: Any
    ) -> UNetOutput:
        shifts = self.unet.time_shifts(timestep, timestep_cond)
        prompt = self.unet.prompt_values(encoder_hidden_states.to(self.dtype))
        return self.unet.predict(latents.to(self.dtype), shifts, prompt, *edit)


class Noise(Hop):
    """The standard UNet: predicted noise."""

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, timestep_cond: Tensor) -> Tensor:
        return self.predict(sample, timestep, timestep_cond, encoder_hidden_states).eps


class EncodeHop(Hop):
    """x_s = A x_t + B eps, rows independent of each other."""

    def forward(
        self,
        latents: Tensor,
        hop_a: Tensor,
        hop_b: Tensor,
        timestep: Tensor,
        timestep_cond: Tensor,
        encoder_hidden_states: Tensor,
    ) -> Tensor:
        out = self.predict(latents, timestep, timestep_cond, encoder_hidden_states)
        return boundary_step(latents, out.eps, hop_a, hop_b)


class DecodeHop(Hop):
    """A decode hop of an edit, local blend included: next latents, word maps so far, mask, and what may be kept.

    Rows are sources, then targets; with what a first edit kept and its source latents after the hop, targets alone.
    """

    def forward(
        self,
        latents: Tensor,
        hop_a: Tensor,
        hop_b: Tensor,
        timestep: Tensor,
        timestep_cond: Tensor,
        encoder_hidden_states: Tensor,
        source_row: Tensor,
        source_mix: Tensor,
        target_gain: Tensor,
        share_self: Tensor,
        source_words: Tensor,
        target_words: Tensor,
        use_blend: Tensor,
        word_maps: Tensor,
        user_mask: Tensor,
        source_latents: Tensor | None = None,
        kept: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, ...]:
        edit = EditStep(source_row, source_mix, target_gain, share_self, source_words, target_words)
        out = self.predict(latents, timestep, timestep_cond, encoder_hidden_states, edit, kept, kept is None)
        x = boundary_step(latents, out.eps, hop_a, hop_b)
        # A network without text attention at the level that local blend reads has no maps.
        maps = word_maps if out.word_maps is None else word_maps + out.word_maps
        x, mask = local_blend(
            x,
            maps[0],
            maps[1],
            source_row,
            use_blend=use_blend,
            user_mask=user_mask,
            source_latents=source_latents,
        )
        return x, maps, mask, *(out.kept or [])


class EncodeLoop(nn.Module):
    """All encode hops in one graph: hop_a, hop_b, timestep and timestep_cond have an axis of K hops in front."""

    def __init__(self, hop: EncodeHop):
        super().__init__()
        self.hop = hop

    def forward(
        self,
        latents: Tensor,
        hop_a: Tensor,
        hop_b: Tensor,
        timestep: Tensor,
        timestep_cond: Tensor,
        encoder_hidden_states: Tensor,
    ) -> Tensor:
        for step in zip(hop_a, hop_b, timestep, timestep_cond, strict=True):
            latents = self.hop(latents, *step, encoder_hidden_states)
        return latents


class DecodeLoop(nn.Module):
    """All decode hops in one graph: final latents and the masks of all K hops.

    What changes from hop to hop has an axis of K in front: hop_a, hop_b, timestep, timestep_cond, source_mix,
    target_gain, share_self.
    """

    def __init__(self, hop: DecodeHop):
        super().__init__()
        self.hop = hop

    def forward(
        self,
        latents: Tensor,
        hop_a: Tensor,
        hop_b: Tensor,
        timestep: Tensor,
        timestep_cond: Tensor,
        encoder_hidden_states: Tensor,
        source_row: Tensor,
        source_mix: Tensor,
        target_gain: Tensor,
        share_self: Tensor,
        source_words: Tensor,
        target_words: Tensor,
        use_blend: Tensor,
        word_maps: Tensor,
        user_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        masks, fixed = [], (source_words, target_words, use_blend)
        for k in range(len(hop_a)):
            hop = (hop_a[k], hop_b[k], timestep[k], timestep_cond[k])
            edit = (source_row, source_mix[k], target_gain[k], share_self[k], *fixed)
            latents, word_maps, mask, *_ = self.hop(latents, *hop, encoder_hidden_states, *edit, word_maps, user_mask)
            masks.append(mask)
        return latents, torch.stack(masks)


class DecodePairs(nn.Module):
    """A decode hop of B pairs of one source and one target: every port batch-first, so that servers can batch requests.

    Source and target are the second axis (of 2) of latents, hop_a, hop_b, timestep, timestep_cond,
    encoder_hidden_states and word_maps.
    """

    def __init__(self, hop: DecodeHop):
        super().__init__()
        self.hop = hop

    def forward(
        self,
        latents: Tensor,
        hop_a: Tensor,
        hop_b: Tensor,
        timestep: Tensor,
        timestep_cond: Tensor,
        encoder_hidden_states: Tensor,
        source_mix: Tensor,
        target_gain: Tensor,
        share_self: Tensor,
        source_words: Tensor,
        target_words: Tensor,
        use_blend: Tensor,
        word_maps: Tensor,
        user_mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        pairs, both = latents.shape[0], (latents, hop_a, hop_b, timestep, timestep_cond, encoder_hidden_states)
        rows = [torch.cat([pair[:, 0], pair[:, 1]]) for pair in both]
        source_row = torch.arange(pairs, device=latents.device)
        edit = (source_row, source_mix, target_gain, share_self[:, 0], source_words, target_words, use_blend[:, 0])
        x, maps, mask, *_ = self.hop(*rows, *edit, word_maps.transpose(0, 1), user_mask)
        return torch.stack([x[:pairs], x[pairs:]], dim=1), maps.transpose(0, 1), mask
