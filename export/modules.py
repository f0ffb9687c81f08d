"""What ONNX graphs are made of: the networks behind the names and in the order of their ports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from csrc_triton.boundary_step import boundary_step
from csrc_triton.local_blend import local_blend
from icd_engine.editing.plan import EditStep
from icd_engine.networks.text_encoder import PooledTextEncoder, TextEncoder
from icd_engine.networks.unet import AddedConditions, UNet, UNetOutput
from icd_engine.networks.vae import VAE

ADDED = ("text_embeds", "time_ids")  # SDXL's further conditions
KEPT = "kept_"  # what source rows contribute to target rows, kept_0, kept_1, ...
Ports = Mapping[str, Any]


class HopRow(NamedTuple):
    """What every hop takes for each row, by the names of its ports."""

    latents: Tensor
    hop_a: Tensor
    hop_b: Tensor
    timestep: Tensor
    timestep_cond: Tensor
    encoder_hidden_states: Tensor
    added: Sequence[Tensor] = ()  # of ADDED

    @classmethod
    def of(cls, values: Sequence[Tensor]) -> HopRow:
        return cls(**dict(zip(ROW, values, strict=False)), added=values[len(ROW) :])


class HopEdit(NamedTuple):
    """What a decode hop takes for each target."""

    source_row: Tensor
    source_mix: Tensor
    target_gain: Tensor
    share_self: Tensor
    source_words: Tensor
    target_words: Tensor
    use_blend: Tensor
    word_maps: Tensor
    user_mask: Tensor


class HopAnchor(NamedTuple):
    """What holds the rows of a decode hop to the encode trajectory: see `export.ports.anchor_ports`."""

    boundary: Tensor  # [R, 4, h, w]; only that of source rows is looked at
    anchor: Tensor  # [R]


class FurtherAnchor(NamedTuple):
    """The same where target rows run alone: what their sources' first run left."""

    residual: Tensor  # [S, 4, h, w]
    anchor: Tensor  # [T]


ROW = HopRow._fields[:-1]


def listed(ports: Ports, names: Sequence[str]) -> list[Any]:
    """The values of those of the names that are ports."""
    return [ports[name] for name in names if name in ports]


class PortModule(nn.Module):
    """A module whose arguments are made of values by port: lists where they belong together.

    (Lists, because torch.export confuses the fields of named tuples where one name begins another.)
    """

    @staticmethod
    def arguments(ports: Ports) -> dict[str, Any]:
        """Values by port -> arguments of `forward`, in the order of the ports."""
        return dict(ports)


class TextFeatures(PortModule):
    """Token ids -> the last hidden state."""

    def __init__(self, encoder: TextEncoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.encoder(input_ids)


class TextStates(PortModule):
    """Token ids -> SDXL's pooled features where the encoder projects them, the last hidden state,
    and all of them."""

    def __init__(self, encoder: TextEncoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        states = self.encoder.states(input_ids)
        last = self.encoder.final_layer_norm(states[-1])
        pooled = []
        if isinstance(self.encoder, PooledTextEncoder):
            pooled = [self.encoder.pooled(input_ids, last)]
        return *pooled, last, *states


class Posterior(PortModule):
    """Pictures in [-1, 1] -> mean and log-variance of their latents, not scaled."""

    def __init__(self, vae: VAE):
        super().__init__()
        self.vae = vae

    def forward(self, sample: Tensor) -> Tensor:
        return self.vae.moments(sample.to(self.vae.dtype))


class VaePictures(PortModule):
    """Latents, not scaled -> pictures, about in [-1, 1]."""

    def __init__(self, vae: VAE):
        super().__init__()
        self.vae = vae

    def forward(self, latent_sample: Tensor) -> Tensor:
        latents = latent_sample.to(self.vae.dtype)
        return self.vae.decoder(self.vae.post_quant_conv(latents))


class UNetModule(PortModule):
    """A UNet; latents and tables come in float32 whatever its own precision is."""

    def __init__(self, unet: UNet):
        super().__init__()
        self.unet = unet
        self.dtype = unet.conv_in.weight.dtype

    def predict(self, row: HopRow, *edit: Any) -> UNetOutput:
        added = AddedConditions(row.added[0], row.added[1].float()) if row.added else None
        shifts = self.unet.time_shifts(row.timestep, row.timestep_cond, added)
        prompt = self.unet.prompt_values(row.encoder_hidden_states.to(self.dtype))
        return self.unet.predict(row.latents.to(self.dtype), shifts, prompt, *edit)


class Noise(UNetModule):
    """The standard UNet: predicted noise.

    One time step is expanded to the rows, which in ONNX takes [], [1] and [rows] alike: optimum and
    diffusers send the first two, and onnxruntime does not hold inputs to a declared scalar.
    """

    @staticmethod
    def arguments(ports: Ports) -> dict[str, Any]:
        return {name: value for name, value in ports.items() if name not in ADDED} | {
            "added": listed(ports, ADDED)
        }

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        timestep_cond: Tensor,
        added: list[Tensor],
    ) -> Tensor:
        each = timestep.expand(sample.shape[0])
        return self.predict(
            HopRow(sample, sample, sample, each, timestep_cond, encoder_hidden_states, added)
        ).eps


class EncodeHop(UNetModule):
    """x_s = A x_t + B eps, rows independent of each other."""

    @staticmethod
    def arguments(ports: Ports) -> dict[str, Any]:
        return {"row": listed(ports, (*ROW, *ADDED))}

    def forward(self, row: list[Tensor]) -> Tensor:
        return self.step(HopRow.of(row))

    def step(self, row: HopRow) -> Tensor:
        return boundary_step(row.latents, self.predict(row).eps, row.hop_a, row.hop_b)


class DecodeHop(UNetModule):
    """A decode hop of an edit, anchoring and local blend included: next latents, word maps so far,
    mask, the residuals of the source rows, and what may be kept.

    Rows are sources, then targets; with what a first edit kept, its source latents after the hop and
    its residuals, targets alone. Source rows may be of other hops than the targets: those of all
    hops in one call leave what every later hop of an anchored edit takes.
    """

    @staticmethod
    def arguments(ports: Ports) -> dict[str, Any]:
        further = "source_latents" in ports
        arguments: dict[str, Any] = {
            "row": listed(ports, (*ROW, *ADDED)),
            "edit": listed(ports, HopEdit._fields),
            "held": listed(ports, (FurtherAnchor if further else HopAnchor)._fields),
        }
        if further:
            kept = [value for name, value in ports.items() if name.startswith(KEPT)]
            arguments |= {"source_latents": ports["source_latents"], "kept": kept}
        return arguments

    def forward(
        self,
        row: list[Tensor],
        edit: list[Tensor],
        held: list[Tensor],
        source_latents: Tensor | None = None,
        kept: list[Tensor] | None = None,
    ) -> tuple[Tensor, ...]:
        if source_latents is None or kept is None:
            return self.step(HopRow.of(row), HopEdit(*edit), HopAnchor(*held))
        own = HopEdit(*edit)
        kept = [value.to(self.dtype) for value in kept]
        out = self.predict(HopRow.of(row), EditStep(*own[: len(EditStep._fields)]), kept, False)
        x = _stepped(HopRow.of(row), out.eps)
        residual, anchor = held
        x = x + anchor[:, None, None, None] * residual[own.source_row]
        return _blended(x, out, own, source_latents)

    def step(self, row: HopRow, edit: HopEdit, held: HopAnchor) -> tuple[Tensor, ...]:
        """A hop of source and target rows."""
        out = self.predict(row, EditStep(*edit[: len(EditStep._fields)]), None, True)
        x = _stepped(row, out.eps)
        sources = x.shape[0] - edit.source_row.shape[0]  # not len(): it would become a constant
        share = held.anchor[:, None, None, None]
        own = x[:sources]
        residual = held.boundary[:sources] - own
        # Not arithmetic: a row on the trajectory is exactly there
        own = torch.where(share[:sources] > 0, held.boundary[:sources], own)
        targets = x[sources:] + share[sources:] * residual[edit.source_row]
        x, maps, mask = _blended(torch.cat([own, targets]), out, edit, None)
        return x, maps, mask, residual, *(out.kept or [])


def _stepped(row: HopRow, eps: Tensor) -> Tensor:
    return boundary_step(row.latents, eps, row.hop_a, row.hop_b)


def _blended(
    x: Tensor, out: UNetOutput, edit: HopEdit, source_latents: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Latents after local blend, word maps so far, and the mask."""
    # A network without text attention at the level that local blend reads has no maps.
    maps = edit.word_maps if out.word_maps is None else edit.word_maps + out.word_maps
    x, mask = local_blend(
        x,
        maps[0],
        maps[1],
        edit.source_row,
        use_blend=edit.use_blend,
        user_mask=edit.user_mask,
        source_latents=source_latents,
    )
    return x, maps, mask
