"""The text encoders equal transformers' modules, whatever key style the weights were saved in."""

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from icd_engine.networks.text_encoder import (
    DualTextEncoder,
    PenultimateTextEncoder,
    PooledTextEncoder,
    TextEncoder,
)

CONFIG = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": 12,
    "hidden_act": "quick_gelu",
    "bos_token_id": 38,
    "eos_token_id": 39,
    "pad_token_id": 39,
}
IDS = torch.tensor(
    [[38, 3, 5, 7, 39, 39, 39, 39, 39, 39, 39, 39], [38, 1, 39, 39, 39, 39, 39, 39, 39, 39, 39, 39]]
)


@pytest.fixture(scope="module")
def theirs() -> CLIPTextModel:
    torch.manual_seed(0)
    return CLIPTextModel(CLIPTextConfig(**CONFIG)).eval()


def bare(theirs: CLIPTextModel) -> dict[str, torch.Tensor]:
    return {key.removeprefix("text_model."): value for key, value in theirs.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "text_model."], ids=["new_keys", "published_keys"])
@pytest.mark.parametrize("position_ids", [False, True], ids=["plain", "with_position_ids"])
def test_equals_transformers(theirs, prefix, position_ids):
    weights = {prefix + key: value for key, value in bare(theirs).items()}
    if position_ids:  # published files hold this constant
        weights[prefix + "embeddings.position_ids"] = torch.arange(12)[None]
    ours = TextEncoder(CONFIG).eval()
    ours.load_weights(weights)
    with torch.no_grad():
        assert torch.equal(ours(IDS), theirs(IDS).last_hidden_state)
        assert ours(IDS).shape == (2, 12, 16)


@pytest.mark.parametrize("prefix", ["", "text_model."], ids=["new_keys", "published_keys"])
def test_sdxls_two_encoders(theirs, prefix):
    """The hidden states before the last layers, side by side, and the second encoder's projected
    end token."""
    torch.manual_seed(1)
    second = CLIPTextModelWithProjection(CLIPTextConfig(**CONFIG, projection_dim=6)).eval()
    first, pooled = (
        PenultimateTextEncoder(CONFIG).eval(),
        PooledTextEncoder(CONFIG | {"projection_dim": 6}).eval(),
    )
    first.load_weights({prefix + key: value for key, value in bare(theirs).items()})
    own = {key.removeprefix("text_model."): value for key, value in second.state_dict().items()}
    projection = {"text_projection.weight": own.pop("text_projection.weight")}
    pooled.load_weights({prefix + key: value for key, value in own.items()} | projection)
    padded_otherwise = torch.where(IDS == 39, 0, IDS)
    padded_otherwise[[0, 1], [4, 2]] = 39  # the end token itself stays
    with torch.no_grad():
        got = DualTextEncoder(first, pooled).encode(torch.cat([IDS, padded_otherwise], dim=1))
        one = theirs(IDS, output_hidden_states=True).hidden_states[-2]
        two = second(padded_otherwise, output_hidden_states=True)
    assert torch.equal(got.tokens, torch.cat([one, two.hidden_states[-2]], dim=-1))
    assert torch.equal(got.pooled, two.text_embeds) and got.pooled.shape == (2, 6)


def test_padding_after_the_end_changes_nothing_before(theirs):
    """Attention is causal: the features of a prompt's own tokens do not depend on what follows."""
    ours = TextEncoder(CONFIG).eval()
    ours.load_weights(bare(theirs))
    other = IDS.clone()
    other[0, 6:] = 2
    with torch.no_grad():
        assert torch.allclose(ours(IDS)[0, :6], ours(other)[0, :6], atol=1e-6)
        assert not torch.allclose(ours(IDS)[0, 6:], ours(other)[0, 6:], atol=1e-3)


@pytest.mark.parametrize("change", ["missing", "further", "shape"])
def test_weights_that_do_not_fit_are_refused(theirs, change):
    weights = bare(theirs)
    key = "final_layer_norm.weight"
    if change == "missing":
        del weights[key]
    elif change == "further":
        weights["further.weight"] = torch.zeros(1)
    else:
        weights[key] = weights[key][:3]
    with pytest.raises(
        RuntimeError, match="further" if change == "further" else key.replace(".", r"\.")
    ):
        TextEncoder(CONFIG).load_weights(weights)
