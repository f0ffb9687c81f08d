"""What ONNX graphs are made of: the networks behind the names and in the order of their ports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from csrc_triton.boundary_step import boundary_step
from csrc_triton.local_blend import local_blend
from icd_engine.editing.plan import EditStep
from icd_engine.networks.text_encoder import TextEncoder
from icd_engine.networks.unet import AddedConditions, UNet, UNetOutput
from icd_engine.networks.vae import VAE

ADDED = ("text_embeds", "time_ids")  # SDXL's further conditions
KEPT = "kept_"  # what source rows contribute to target rows, kept_0, kept_1, ...
Ports = Mapping[str, Any]


class Row(NamedTuple):
    """What every hop takes for each row, by the names of its ports."""

    latents: Tensor
    hop_a: Tensor
    hop_b: Tensor
    timestep: Tensor
    timestep_cond: Tensor
    encoder_hidden_states: Tensor
    added: Sequence[Tensor] = ()  # of ADDED

    @classmethod
    def of(cls, values: Sequence[Tensor]) -> Row:
        return cls(**dict(zip(ROW, values, strict=False)), added=values[len(ROW) :])


class Edit(NamedTuple):
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


ROW = Row._fields[:-1]


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
        self.model = encoder.model

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        out = self.model(input_ids, output_hidden_states=True)
        pooled = [out.text_embeds] if "text_embeds" in out else []
        return *pooled, out.last_hidden_state, *out.hidden_states


class Posterior(PortModule):
    """Pictures in [-1, 1] -> mean and log-variance of their latents, not scaled."""

    def __init__(self, vae: VAE):
        super().__init__()
        self.vae = vae

    def forward(self, sample: Tensor) -> Tensor:
        return self.vae.moments(sample)


class Pictures(PortModule):
    """Latents, not scaled -> pictures, about in [-1, 1]."""

    def __init__(self, vae: VAE):
        super().__init__()
        self.vae = vae

    def forward(self, latent_sample: Tensor) -> Tensor:
        return self.vae.decoder(self.vae.post_quant_conv(latent_sample))


class Hop(PortModule):
    """A UNet; latents and tables come in float32 whatever its own precision is."""

    def __init__(self, unet: UNet):
        super().__init__()
        self.unet = unet
        self.dtype = unet.conv_in.weight.dtype

    def predict(self, row: Row, *edit: Any) -> UNetOutput:
        added = AddedConditions(row.added[0], row.added[1].float()) if row.added else None
        shifts = self.unet.time_shifts(row.timestep, row.timestep_cond, added)
        prompt = self.unet.prompt_values(row.encoder_hidden_states.to(self.dtype))
        return self.unet.predict(row.latents.to(self.dtype), shifts, prompt, *edit)


class Noise(Hop):
    """The standard UNet: predicted noise."""

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
        return self.predict(
            Row(sample, sample, sample, timestep, timestep_cond, encoder_hidden_states, added)
        ).eps


class EncodeHop(Hop):
    """x_s = A x_t + B eps, rows independent of each other."""

    @staticmethod
    def arguments(ports: Ports) -> dict[str, Any]:
        return {"row": listed(ports, (*ROW, *ADDED))}

    def forward(self, row: list[Tensor]) -> Tensor:
        return self.step(Row.of(row))

    def step(self, row: Row) -> Tensor:
        return boundary_step(row.latents, self.predict(row).eps, row.hop_a, row.hop_b)


class DecodeHop(Hop):
    """A decode hop of an edit, local blend included: next latents, word maps so far, mask, and what
    may be kept.

    Rows are sources, then targets; with what a first edit kept and its source latents after the
    hop, targets alone.
    """

    @staticmethod
    def arguments(ports: Ports) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "row": listed(ports, (*ROW, *ADDED)),
            "edit": listed(ports, Edit._fields),
        }
        if "source_latents" in ports:
            kept = [value for name, value in ports.items() if name.startswith(KEPT)]
            arguments |= {"source_latents": ports["source_latents"], "kept": kept}
        return arguments

    def forward(
        self,
        row: list[Tensor],
        edit: list[Tensor],
        source_latents: Tensor | None = None,
        kept: list[Tensor] | None = None,
    ) -> tuple[Tensor, ...]:
        return self.step(Row.of(row), Edit(*edit), source_latents, kept)

    def step(
        self,
        row: Row,
        edit: Edit,
        source_latents: Tensor | None = None,
        kept: list[Tensor] | None = None,
    ) -> tuple[Tensor, ...]:
        out = self.predict(row, EditStep(*edit[: len(EditStep._fields)]), kept, kept is None)
        x = boundary_step(row.latents, out.eps, row.hop_a, row.hop_b)
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
        return x, maps, mask, *(out.kept or [])


class EncodeLoop(PortModule):
    """All encode hops in one graph: hop_a, hop_b, timestep and timestep_cond have an axis of K hops
    in front."""

    arguments = staticmethod(EncodeHop.arguments)

    def __init__(self, hop: EncodeHop):
        super().__init__()
        self.hop = hop

    def forward(self, row: list[Tensor]) -> Tensor:
        loop = Row.of(row)
        latents = loop.latents
        for k in range(len(loop.hop_a)):
            latents = self.hop.step(_at(loop, k, latents))
        return latents


class DecodeLoop(PortModule):
    """All decode hops in one graph: final latents and the masks of all K hops.

    What changes from hop to hop has an axis of K in front: hop_a, hop_b, timestep, timestep_cond,
    source_mix, target_gain, share_self.
    """

    arguments = staticmethod(DecodeHop.arguments)

    def __init__(self, hop: DecodeHop):
        super().__init__()
        self.hop = hop

    def forward(self, row: list[Tensor], edit: list[Tensor]) -> tuple[Tensor, Tensor]:
        loop = Row.of(row)
        edits = Edit(*edit)
        latents = loop.latents
        maps = edits.word_maps
        masks = []
        for k in range(len(loop.hop_a)):
            step = edits._replace(
                source_mix=edits.source_mix[k],
                target_gain=edits.target_gain[k],
                share_self=edits.share_self[k],
                word_maps=maps,
            )
            latents, maps, mask, *_ = self.hop.step(_at(loop, k, latents), step)
            masks.append(mask)
        return latents, torch.stack(masks)


def _at(loop: Row, k: int, latents: Tensor) -> Row:
    """What the rows take in hop k of a loop."""
    each = {
        name: getattr(loop, name)[k] for name in ("hop_a", "hop_b", "timestep", "timestep_cond")
    }
    return loop._replace(latents=latents, **each)


class DecodePairs(PortModule):
    """A decode hop of B pairs of one source and one target: every port batch-first, so that servers
    can batch requests.

    Source and target are the second axis (of 2) of what every row takes and of word_maps.
    """

    @staticmethod
    def arguments(ports: Ports) -> dict[str, Any]:
        return {"row": listed(ports, (*ROW, *ADDED)), "edit": listed(ports, Edit._fields[1:])}

    def __init__(self, hop: DecodeHop):
        super().__init__()
        self.hop = hop

    def forward(self, row: list[Tensor], edit: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        pairs = row[0].shape[0]
        of_pair = Edit(torch.arange(pairs, device=row[0].device), *edit)
        of_pair = of_pair._replace(
            share_self=of_pair.share_self[:, 0],
            use_blend=of_pair.use_blend[:, 0],
            word_maps=of_pair.word_maps.transpose(0, 1),
        )
        rows = [torch.cat([pair[:, 0], pair[:, 1]]) for pair in row]
        x, maps, mask, *_ = self.hop.step(Row.of(rows), of_pair)
        return torch.stack([x[:pairs], x[pairs:]], dim=1), maps.transpose(0, 1), mask
