"""The UNet equals diffusers' module on its own weights, and an edit step equals edited attention
maps."""

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import UNet2DConditionModel

from icd_engine.editing.plan import EditStep
from icd_engine.errors import BundleError
from icd_engine.networks.unet import AddedConditions, UNet

SD15 = {
    "block_out_channels": [16, 32, 32, 32],
    "attention_head_dim": 2,
    "cross_attention_dim": 24,
    "norm_num_groups": 8,
    "time_cond_proj_dim": 64,
}
SDXL = SD15 | {
    "block_out_channels": [16, 32, 64],
    "attention_head_dim": [2, 4, 8],
    "transformer_layers_per_block": [1, 2, 3],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 20 + 6 * 8,
}
SD21 = SD15 | {
    "attention_head_dim": [2, 4, 4, 4],
    "use_linear_projection": True,
    "upcast_attention": True,
}
TINY = SD15 | {
    "block_out_channels": [16, 32],
    "down_block_types": ["CrossAttnDownBlock2D"] * 2,
    "up_block_types": ["CrossAttnUpBlock2D"] * 2,
}
CONFIGS = {"sd15": SD15, "sd21": SD21, "sdxl": SDXL, "tiny": TINY}


def build(config: dict) -> tuple[UNet2DConditionModel, UNet]:
    torch.manual_seed(0)
    theirs = UNet2DConditionModel(**config).eval()
    ours = UNet(theirs.config).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours


def inputs(config: dict, rows: int = 3, height: int = 16, width: int = 24) -> dict:
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    added = None
    if "addition_embed_type" in config:
        added = AddedConditions(
            draw(rows, 20), torch.randint(0, 1024, (rows, 6), generator=generator).float()
        )
    t = torch.tensor([999.0, 519.0, 19.0])[:rows]
    return {
        "latents": draw(rows, 4, height, width),
        "t": t,
        "prompt": draw(rows, 11, 24),
        "guidance": draw(rows, 64),
        "added": added,
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_diffusers(name):
    theirs, ours = build(CONFIGS[name])
    x = inputs(CONFIGS[name])
    added = None if x["added"] is None else x["added"]._asdict()
    with torch.no_grad():
        expected = theirs(
            x["latents"], x["t"], x["prompt"], timestep_cond=x["guidance"], added_cond_kwargs=added
        ).sample
        eps, maps, _ = ours(**x)
    assert maps is None
    assert (eps - expected).abs().max() <= 1e-5 * expected.abs().max()


class EditedMaps:
    """Prompt-to-prompt the way it was published: a processor that edits stored attention maps, one
    target row."""

    def __init__(self, edit: EditStep, shares: bool, maps: list | None):
        self.edit, self.shares, self.maps = edit, shares, maps

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        cross = encoder_hidden_states is not None
        context = encoder_hidden_states if cross else hidden_states
        q, k, v = (
            project(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for project, x in (
                (attn.to_q, hidden_states),
                (attn.to_k, context),
                (attn.to_v, context),
            )
        )
        probabilities = (q @ k.mT * attn.scale).softmax(-1)
        source, target = probabilities[0], probabilities[1]
        if cross:
            target = source @ self.edit.source_mix[0] + target * self.edit.target_gain[0]
            if self.maps is not None:
                words = (source @ self.edit.source_words[0], target @ self.edit.target_words[0])
                self.maps.append([m.mean(0) for m in words])
        elif self.shares and bool(self.edit.share_self[0]):
            target = source
        out = torch.stack([source, target]) @ v
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("share", [False, True], ids=["own_self", "shared_self"])
@pytest.mark.parametrize("name", CONFIGS)
def test_edit_step_equals_edited_maps(name, share):
    """Two rows are enough for the published form; more rows are compared with single edits
    below."""
    theirs, ours = build(CONFIGS[name])
    x = inputs(CONFIGS[name], rows=2)
    edit = random_edit(targets=1, share=share)
    feeding: list = []
    levels = len(CONFIGS[name]["block_out_channels"])
    processors = {}
    for key in theirs.attn_processors:
        place, index = key.split(".")[0], key.split(".")[1]
        level = {"down_blocks": int(index) if index.isdigit() else 0, "mid_block": levels - 1}.get(
            place
        )
        level = levels - 1 - int(index) if level is None else level
        feeds = place != "mid_block" and level == 2
        processors[key] = EditedMaps(edit, shares=level >= 1, maps=feeding if feeds else None)
    theirs.set_attn_processor(processors)
    added = None if x["added"] is None else x["added"]._asdict()
    with torch.no_grad():
        expected = theirs(
            x["latents"], x["t"], x["prompt"], timestep_cond=x["guidance"], added_cond_kwargs=added
        ).sample
        eps, maps, _ = ours(**x, edit=edit)
    assert (eps - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (maps is None) == (levels < 3)
    if maps is not None:
        for got, published in zip(maps, zip(*feeding, strict=True), strict=True):
            mean = torch.stack(published).mean(0)
            assert (got[0].flatten() - mean).abs().max() <= 1e-5 * mean.abs().max()


def random_edit(targets: int, share: bool | list[bool], tokens: int = 11) -> EditStep:
    generator = torch.Generator().manual_seed(2)
    draw = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
    shares = [share] * targets if isinstance(share, bool) else share
    return EditStep(
        source_row=torch.zeros(targets, dtype=torch.long),
        source_mix=draw(targets, tokens, tokens) / tokens,
        target_gain=draw(targets, tokens),
        share_self=torch.tensor(shares),
        source_words=(draw(targets, tokens) > 0.5).float(),
        target_words=(draw(targets, tokens) > 0.5).float(),
    )


def test_two_targets_equal_two_edits():
    _, ours = build(SD15)
    x = inputs(SD15, rows=3)
    edit = random_edit(targets=2, share=[True, False])
    with torch.no_grad():
        eps, maps, _ = ours(**x, edit=edit)
        for row in (1, 2):
            rows = [0, row]
            single = EditStep(*(field[row - 1 : row] for field in edit))
            picked = {key: None if value is None else value[rows] for key, value in x.items()}
            alone, alone_maps, _ = ours(**picked, edit=single)
            assert (eps[rows] - alone).abs().max() <= 1e-5 * alone.abs().max()
            for got, expected in zip(maps, alone_maps, strict=True):
                assert (got[row - 1] - expected[0]).abs().max() <= 1e-5 * expected.abs().max()


def test_source_rows_do_not_depend_on_the_edit():
    _, ours = build(SD15)
    x = inputs(SD15, rows=2)
    with torch.no_grad():
        plain = ours(**x).eps[0]
        edited = ours(**x, edit=random_edit(targets=1, share=True)).eps[0]
    assert (plain - edited).abs().max() <= 1e-5 * plain.abs().max()


def test_unsupported_configuration_is_named():
    with pytest.raises(BundleError, match="class_embed_type"):
        UNet(SD15 | {"class_embed_type": "timestep"})


def test_blocks_run_in_the_order_of_their_tables():
    """They take what was computed for them off lists, one after the other."""
    _, ours = build(SDXL)
    ran = []
    for block in (*ours.residual_blocks(), *ours.transformer_blocks()):
        block.register_forward_hook(lambda module, *_: ran.append(module))
    with torch.no_grad():
        ours(**inputs(SDXL))
    for own in (ours.residual_blocks(), ours.transformer_blocks()):
        assert [id(block) for block in ran if block in own] == [id(block) for block in own]


def test_a_block_that_takes_nothing_is_found(monkeypatch):
    """Those after it took what was meant for another, of the same shape."""
    _, ours = build(TINY | {"block_out_channels": [16, 16]})

    def idle(x, state, skips):
        skips.append(x)
        return x

    monkeypatch.setattr(ours.mid_block, "forward", idle)
    with torch.no_grad(), pytest.raises(RuntimeError, match="2 of its shifts not taken"):
        ours(**inputs(TINY))
