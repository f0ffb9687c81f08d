"""The CLIP text encoders: transformers' modules behind one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

PREFIX = "text_model."
# What config.json is read for; other fields say how transformers is to run, which is not for a file to say.
FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "projection_dim",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)
PENULTIMATE = -2  # of the hidden states: what SDXL's text attention was trained on


class PromptFeatures(NamedTuple):
    """What networks see of prompts: a vector a token [B, n, C], and SDXL's pooled vector [B, P]."""

    tokens: Tensor
    pooled: Tensor | None = None


class TextEncoder(nn.Module):
    """Token ids [B, n] -> prompt features [B, n, C], the last hidden state; built from
    `text_encoder/config.json`."""

    kind: type[nn.Module] = CLIPTextModel

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        self.model = self.kind(
            CLIPTextConfig(**{name: config[name] for name in FIELDS if name in config})
        )

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids).last_hidden_state

    def encode(self, ids: Tensor) -> PromptFeatures:
        return PromptFeatures(self(ids))

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Loads strictly; published files and transformers' versions differ in a key prefix and a
        constant buffer."""
        known = self.model.state_dict()
        bare = {key.removeprefix(PREFIX): value for key, value in weights.items()}
        bare.pop("embeddings.position_ids", None)
        prefixed = {key.removeprefix(PREFIX): key for key in known}
        self.model.load_state_dict(
            {prefixed.get(key, key): value for key, value in bare.items()}, strict=True
        )


class PenultimateTextEncoder(TextEncoder):
    """The same up to the hidden state before the last layer, as SDXL's first encoder is read."""

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids, output_hidden_states=True).hidden_states[PENULTIMATE]


class PooledTextEncoder(TextEncoder):
    """SDXL's second encoder, `text_encoder_2`: the penultimate hidden state, and the projected end
    token [B, P]."""

    kind = CLIPTextModelWithProjection

    def __init__(self, config: Mapping[str, Any], end: int | None = None):
        """end: id of the tokenizer's end token, the configuration's if None.

        Published configurations have a wrong one (2), for which transformers takes the largest id:
        an added token's, where there is one.
        """
        super().__init__(config)
        self.end: int = config["eos_token_id"] if end is None else end

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        out = self.model(ids, output_hidden_states=True)
        return out.hidden_states[PENULTIMATE], self.pooled(ids, out.last_hidden_state)

    def pooled(self, ids: Tensor, last: Tensor) -> Tensor:
        """The projected end token [B, P] of ids [B, n] and their last hidden state [B, n, C]."""
        rows = torch.arange(ids.shape[0], device=ids.device)
        # The first one: the padding may be the same token
        ends = last[rows, (ids == self.end).int().argmax(dim=-1)]
        return self.model.get_submodule("text_projection")(ends)


class DualTextEncoder(nn.Module):
    """SDXL's two encoders. Ids [B, 2 n] are those of the first, then of the second, which pads
    otherwise."""

    def __init__(self, first: PenultimateTextEncoder, second: PooledTextEncoder):
        super().__init__()
        self.first = first
        self.second = second

    def encode(self, ids: Tensor) -> PromptFeatures:
        first, second = ids.chunk(2, dim=-1)
        tokens, pooled = self.second(second)
        return PromptFeatures(torch.cat([self.first(first), tokens], dim=-1), pooled)
