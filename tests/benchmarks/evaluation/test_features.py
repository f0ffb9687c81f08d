"""Metrics through trained networks: small random ones, whose figures are worked out again by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTModel,
)

from benchmarks.evaluation import features
from benchmarks.evaluation.lpips import alexnet_features
from benchmarks.evaluation.suites import Edited, Item
from icd_engine.errors import SettingsError

TOKENIZER = Path(__file__).parents[2] / "data" / "bpe_tokenizer"
RNG = np.random.default_rng(0)
SOURCE, EDIT = RNG.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
MASK = np.zeros((64, 64), bool)
MASK[:32] = True
ITEM = Item("0", "color", "a cat", "a dog", lambda: SOURCE, mask=MASK)
PROMPT = Item("0", "prompt", "a cat", "a cat", None)
MADE = Edited(EDIT, (SOURCE // 2), 8, 0.5)
SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def vit(folder: Path, *, scale: float = 3.0) -> Path:
    torch.manual_seed(0)
    model = ViTModel(ViTConfig(**SHAPE, image_size=224, patch_size=32))
    with torch.no_grad():
        for parameter in model.parameters():  # else all keys are nearly alike
            parameter.mul_(scale)
    model.save_pretrained(folder)
    return folder


def resized(picture: np.ndarray) -> np.ndarray:
    """PIL's bilinear filter to 224, in floating point, as torch's antialiased one."""
    from PIL import Image

    planes = [Image.fromarray(picture[..., c].astype(np.float32)) for c in range(3)]
    return np.stack([np.asarray(p.resize((224, 224), Image.Resampling.BILINEAR)) for p in planes])


def test_structure_distance_is_pie_benchs(tmp_path):
    """cos of all keys with all in float64 by numpy, of pictures normalised in 0..255."""
    metric = features.dino(vit(tmp_path / "dino"))
    model = ViTModel.from_pretrained(tmp_path / "dino").eval()
    found = []
    for picture in (SOURCE, EDIT):
        mean, deviation = (np.array(values)[:, None, None] for values in (features.MEAN, features.DEVIATION))
        pixels = torch.from_numpy((resized(picture) - mean) / deviation)[None].float()
        with torch.no_grad():
            hidden = model(pixels, output_hidden_states=True).hidden_states[-2]
            layer = model.layers[-1]
            keys = layer.attention.k_proj(layer.layernorm_before(hidden))[0].double().numpy()
        assert keys.shape == (50, 16)  # 7 x 7 patches and the class token
        unit = keys / np.linalg.norm(keys, axis=1, keepdims=True)
        found.append(unit @ unit.T)
    expected = ((found[0] - found[1]) ** 2).mean()
    assert expected > 1e-4
    assert metric(ITEM, MADE)["structure_distance"] == pytest.approx(expected, rel=2e-3)
    same = Edited(SOURCE, SOURCE, 8, 0.5)
    assert metric(ITEM, same)["structure_distance"] == 0
    assert metric(PROMPT, MADE) == {"structure_distance": None}


def test_dinov2_is_the_cosine_of_features(tmp_path):
    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, patch_size=32)).eval()
    model.save_pretrained(tmp_path)
    metric = features.dinov2(tmp_path)
    with torch.no_grad():
        one, other = (
            model(features.scaled(x), interpolate_pos_encoding=True).pooler_output[0].double().numpy()
            for x in (SOURCE, MADE.reconstruction)
        )
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert metric(ITEM, MADE)["inversion_dino"] == pytest.approx(cosine, abs=1e-5) and cosine < 0.9999
    assert metric(PROMPT, Edited(EDIT, None, 4, 0.1)) == {"inversion_dino": None}


def test_clip_sees_the_whole_and_the_edited_region(tmp_path):
    torch.manual_seed(3)
    text = SHAPE | {"vocab_size": 563, "bos_token_id": 561, "eos_token_id": 562, "pad_token_id": 562}
    vision = SHAPE | {"image_size": 32, "patch_size": 16}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    model.save_pretrained(tmp_path)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    processor = CLIPProcessor(images, tokenizer)
    processor.save_pretrained(tmp_path)
    found = features.clip(tmp_path)(ITEM, MADE)

    def score(picture):
        inputs = processor(text=["a dog"], images=[picture], return_tensors="pt")
        with torch.no_grad():
            out = model(**inputs)
        one, other = (x[0].double().numpy() for x in (out.image_embeds, out.text_embeds))
        return max(0.0, 100 * float(one @ other / np.linalg.norm(one) / np.linalg.norm(other)))

    region = EDIT.copy()
    region[32:] = 0
    assert found["clip_whole"] == pytest.approx(score(EDIT), abs=1e-3)
    assert found["clip_edited"] == pytest.approx(score(region), abs=1e-3)
    assert found["clip_whole"] != found["clip_edited"]
    assert features.clip(tmp_path)(PROMPT, MADE)["clip_edited"] is None


def test_lpips_is_torchmetrics_on_the_given_backbone(tmp_path, monkeypatch):
    module = pytest.importorskip("torchmetrics.functional.image.lpips")
    torch.manual_seed(0)
    backbone = alexnet_features()
    state = {f"features.{key}": value for key, value in backbone.state_dict().items()}
    torch.save(state | {"classifier.1.weight": torch.zeros(1)}, tmp_path / "alexnet.pth")
    metric = features.lpips(tmp_path / "alexnet.pth")
    found = metric(ITEM, MADE)
    monkeypatch.setattr(module, "_get_tv_model_features", lambda name, pretrained: backbone)
    monkeypatch.setattr(torch.serialization, "default_restore_location", lambda storage, location: storage)
    theirs = module._LPIPS(net="alex")

    def expected(one, other):
        one, other = (torch.from_numpy(x.copy()).permute(2, 0, 1)[None] / 127.5 - 1 for x in (one, other))
        return float(theirs(one, other))

    assert found["inversion_lpips"] == pytest.approx(expected(SOURCE, MADE.reconstruction), rel=1e-4)
    frames = (np.where(MASK[..., None], 0, x).astype(np.uint8) for x in (SOURCE, EDIT))
    assert found["background_lpips"] == pytest.approx(expected(*frames), rel=1e-4) and found["background_lpips"] > 1e-4
    kept = Edited(np.where(MASK[..., None], EDIT, SOURCE), SOURCE, 8, 0.5)
    assert metric(ITEM, kept) == {"inversion_lpips": 0, "background_lpips": 0}


def test_figures_without_weights_are_none(tmp_path):
    metrics = features.learned({"clip": None, "dino": vit(tmp_path / "dino"), "dinov2": None, "lpips": None})
    row = {key: value for metric in metrics for key, value in metric(ITEM, MADE).items()}
    assert set(row) == {figure for figures in features.FIGURES.values() for figure in figures}
    assert [key for key, value in row.items() if value is not None] == ["structure_distance"]


@pytest.mark.parametrize("name", ["clip", "dino", "dinov2", "lpips"])
def test_weights_that_are_none(tmp_path, name):
    if name == "lpips":
        pytest.importorskip("torchmetrics")
    (tmp_path / "file").write_bytes(b"not weights")
    for path in (tmp_path / "absent", tmp_path / "file", tmp_path):
        with pytest.raises(SettingsError, match="holds no weights for this metric") as caught:
            features.learned({name: path})
        assert "\n" not in str(caught.value)
