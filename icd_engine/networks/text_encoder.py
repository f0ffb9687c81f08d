"""The CLIP text encoders; load the weights of transformers' CLIPTextModel unchanged.

Written here, not taken from transformers, because importing that module takes two seconds, which was
half of a first edit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icd_engine.networks.blocks import merge_heads, split_heads

PREFIX = "text_model."  # of keys in published files; transformers' versions have it or have it not
POSITIONS = "embeddings.position_ids"  # a constant in older files
PENULTIMATE = -2  # of the states: what SDXL's text attention was trained on
NORM_EPS = 1e-5


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


class PromptFeatures(NamedTuple):
    """What networks see of prompts: a vector a token [B, n, C], and SDXL's pooled vector [B, P]."""

    tokens: Tensor
    pooled: Tensor | None = None


class Embeddings(nn.Module):
    """Token ids [B, n] -> [B, n, C], each token's vector and its position's."""

    def __init__(self, tokens: int, positions: int, channels: int):
        super().__init__()
        # Not by nn.Embedding's own initialisation: on the meta device that imports torch's tracer,
        # which takes a second
        self.token_embedding, self.position_embedding = (
            nn.Embedding.from_pretrained(torch.randn(count, channels), freeze=False)
            for count in (tokens, positions)
        )

    def forward(self, ids: Tensor) -> Tensor:
        return self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]


class CausalAttention(nn.Module):
    """Self-attention of [B, n, C] in which a token sees itself and those before it."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(channels, channels)
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            split_heads(project(x), self.heads)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(merge_heads(F.scaled_dot_product_attention(q, k, v, is_causal=True)))


class FeedForward(nn.Module):
    def __init__(self, channels: int, inner: int, activation: Callable[[Tensor], Tensor]):
        super().__init__()
        self.fc1 = nn.Linear(channels, inner)
        self.activation = activation
        self.fc2 = nn.Linear(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class TextLayer(nn.Module):
    """Attention and two linear layers, each over a norm and with a residual."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        channels, eps = config["hidden_size"], config.get("layer_norm_eps", NORM_EPS)
        activation = ACTIVATIONS[config.get("hidden_act", "quick_gelu")]
        self.layer_norm1 = nn.LayerNorm(channels, eps)
        self.self_attn = CausalAttention(channels, config["num_attention_heads"])
        self.layer_norm2 = nn.LayerNorm(channels, eps)
        self.mlp = FeedForward(channels, config["intermediate_size"], activation)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class TextLayers(nn.Module):
    """[B, n, C] -> the same before the first layer and after every one."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        self.layers = nn.ModuleList(TextLayer(config) for _ in range(config["num_hidden_layers"]))

    def forward(self, x: Tensor) -> list[Tensor]:
        return list(accumulate(self.layers, lambda x, layer: layer(x), initial=x))


class TextEncoder(nn.Module):
    """Token ids [B, n] -> prompt features [B, n, C], the last hidden state; built from
    `text_encoder/config.json`."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        channels = config["hidden_size"]
        self.embeddings = Embeddings(
            config["vocab_size"], config["max_position_embeddings"], channels
        )
        self.encoder = TextLayers(config)
        self.final_layer_norm = nn.LayerNorm(channels, config.get("layer_norm_eps", NORM_EPS))

    def states(self, ids: Tensor) -> list[Tensor]:
        """[B, n, C] before the first layer and after every one; the last is not normed yet."""
        return self.encoder(self.embeddings(ids))

    def forward(self, ids: Tensor) -> Tensor:
        return self.final_layer_norm(self.states(ids)[-1])

    def encode(self, ids: Tensor) -> PromptFeatures:
        return PromptFeatures(self(ids))

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Takes these very tensors, strictly, whatever key style they were saved in. RuntimeError
        where they do not fit."""
        own = {key.removeprefix(PREFIX): value for key, value in weights.items()}
        own.pop(POSITIONS, None)
        self.load_state_dict(own, strict=True, assign=True)


class PenultimateTextEncoder(TextEncoder):
    """The same up to the hidden state before the last layer, as SDXL's first encoder is read."""

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embeddings(ids)
        for layer in self.encoder.layers[: PENULTIMATE + 1]:  # nobody reads what the last one makes
            x = layer(x)
        return x


class PooledTextEncoder(TextEncoder):
    """SDXL's second encoder, `text_encoder_2`: the penultimate hidden state, and the projected end
    token [B, P]."""

    def __init__(self, config: Mapping[str, Any], end: int | None = None):
        """end: id of the tokenizer's end token, the configuration's if None.

        Published configurations have a wrong one (2), for which transformers takes the largest id:
        an added token's, where there is one.
        """
        super().__init__(config)
        self.text_projection = nn.Linear(
            config["hidden_size"], config["projection_dim"], bias=False
        )
        self.end: int = config["eos_token_id"] if end is None else end

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        states = self.states(ids)
        return states[PENULTIMATE], self.pooled(ids, self.final_layer_norm(states[-1]))

    def pooled(self, ids: Tensor, last: Tensor) -> Tensor:
        """The projected end token [B, P] of ids [B, n] and their last hidden state [B, n, C]."""
        rows = torch.arange(ids.shape[0], device=ids.device)
        # The first one: the padding may be the same token
        ends = last[rows, (ids == self.end).int().argmax(dim=-1)]
        return self.text_projection(ends)


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
