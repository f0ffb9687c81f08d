"""The CLIP text encoder: transformers' module behind one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

PREFIX = "text_model."


class TextEncoder(nn.Module):
    """Token ids [B, n] -> prompt features [B, n, C], the last hidden state; built from `text_encoder/config.json`."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        self.model = CLIPTextModel(CLIPTextConfig(**config))

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids).last_hidden_state

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Loads strictly; published files and transformers' versions differ in a key prefix and a constant buffer."""
        prefix = PREFIX if any(key.startswith(PREFIX) for key in self.model.state_dict()) else ""
        bare = {key.removeprefix(PREFIX): value for key, value in weights.items()}
        bare.pop("embeddings.position_ids", None)
        self.model.load_state_dict({prefix + key: value for key, value in bare.items()}, strict=True)
