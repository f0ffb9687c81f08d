"""Metrics through trained networks: small random ones, whose figures are worked out again by
hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
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
from benchmarks.evaluation.lpips import BACKBONES
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
CPU = torch.device("cpu")
SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def vit(folder: Path, *, scale: float = 3.0) -> Path:
    torch.manual_seed(0)
    model = ViTModel(ViTConfig(**SHAPE, image_size=224, patch_size=32))
    with torch.no_grad():
        for parameter in model.parameters():  # else all keys are nearly alike
            parameter.mul_(scale)
    model.save_pretrained(folder)
    return folder


def resized(
    picture: np.ndarray, side: int = 224, how: Image.Resampling = Image.Resampling.BILINEAR
) -> np.ndarray:
    """By PIL's filter, in floating point, as torch's antialiased one."""
    planes = [Image.fromarray(picture[..., c].astype(np.float32)) for c in range(3)]
    return np.stack([np.asarray(p.resize((side, side), how)) for p in planes])


def normalised(planes: np.ndarray) -> np.ndarray:
    return (planes - np.reshape(features.MEAN, (3, 1, 1))) / np.reshape(
        features.DEVIATION, (3, 1, 1)
    )


def cosine(one, other) -> float:
    one, other = (x.double().numpy().ravel() for x in (one, other))
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_structure_distance_is_pie_benchs(tmp_path):
    """cos of all keys with all in float64 by numpy, of pictures normalised in 0..255."""
    metric = features.dino(vit(tmp_path / "dino"), CPU)
    model = ViTModel.from_pretrained(tmp_path / "dino").eval()
    found = []
    for picture in (SOURCE, EDIT):
        pixels = torch.from_numpy(normalised(resized(picture)))[None].float()
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
    assert metric(PROMPT, MADE) == {}


@pytest.mark.parametrize(
    ("height", "width", "size"), [(64, 64, (224, 224)), (64, 96, (224, 336)), (96, 32, (480, 160))]
)
def test_structure_distance_sees_pictures_at_pie_benchs_size(height, width, size):
    """The short side 224, the long side 480 at most."""
    assert features.unscaled(np.zeros((height, width, 3), np.uint8)).shape[2:] == size


def test_dinov2_is_the_cosine_of_class_tokens(tmp_path):
    """Of the middle 224 pixels of pictures at 256, as DINOv2's own processor cuts them."""
    torch.manual_seed(0)
    model = Dinov2Model(
        Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, patch_size=32)
    ).eval()
    model.save_pretrained(tmp_path)
    tokens = []
    for picture in (SOURCE, EDIT, MADE.reconstruction):
        whole = resized(picture, 256, Image.Resampling.BICUBIC).clip(0, 255)
        pixels = torch.from_numpy(normalised(whole[:, 16:240, 16:240] / 255))[None].float()
        with torch.no_grad():
            tokens.append(model(pixels, interpolate_pos_encoding=True).pooler_output)
    found = features.dinov2(tmp_path, CPU)(ITEM, MADE)
    assert found["edit_dino"] == pytest.approx(cosine(tokens[0], tokens[1]), abs=1e-4)
    assert found["inversion_dino"] == pytest.approx(cosine(tokens[0], tokens[2]), abs=1e-4)
    assert abs(found["edit_dino"] - found["inversion_dino"]) > 1e-3
    assert features.dinov2(tmp_path, CPU)(PROMPT, Edited(EDIT, None, 4, 0.1)) == {}


def test_clip_sees_the_whole_and_the_edited_region(tmp_path):
    torch.manual_seed(3)
    text = SHAPE | {
        "vocab_size": 563,
        "bos_token_id": 561,
        "eos_token_id": 562,
        "pad_token_id": 562,
    }
    vision = SHAPE | {"image_size": 32, "patch_size": 16}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    model.save_pretrained(tmp_path)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    processor = CLIPProcessor(images, tokenizer)
    processor.save_pretrained(tmp_path)
    found = features.clip(tmp_path, CPU)(ITEM, MADE)

    def score(picture):
        inputs = processor(text=["a dog"], images=[picture], return_tensors="pt")
        with torch.no_grad():
            out = model(**inputs)
        return max(0.0, 100 * cosine(out.image_embeds, out.text_embeds))

    region = EDIT.copy()
    region[32:] = 0
    assert found["clip_whole"] == pytest.approx(score(EDIT), abs=1e-3)
    assert found["clip_edited"] == pytest.approx(score(region), abs=1e-3)
    assert found["clip_whole"] != found["clip_edited"]
    assert list(features.clip(tmp_path, CPU)(PROMPT, MADE)) == ["clip_whole"]


@pytest.mark.parametrize("net", BACKBONES)
@pytest.mark.parametrize("layout", ["torchvision", "lpips"])
def test_lpips_is_torchmetrics_on_the_given_backbone(tmp_path, monkeypatch, net, layout):
    module = pytest.importorskip("torchmetrics.functional.image.lpips")
    torch.manual_seed(0)
    backbone = BACKBONES[net][0]()
    monkeypatch.setattr(module, "_get_tv_model_features", lambda name, pretrained: backbone)
    theirs = module._LPIPS(net=net)
    state = {f"features.{key}": value for key, value in backbone.state_dict().items()}
    state |= {"classifier.1.weight": torch.zeros(1)}
    torch.save(state if layout == "torchvision" else theirs.state_dict(), tmp_path / "weights.pth")
    metric = features.lpips(tmp_path / "weights.pth", CPU)
    found = metric(ITEM, MADE)

    def expected(one, other):
        one, other = (
            torch.from_numpy(x.copy()).permute(2, 0, 1)[None] / 127.5 - 1 for x in (one, other)
        )
        return float(theirs(one, other))

    assert found["inversion_lpips"] == pytest.approx(
        expected(SOURCE, MADE.reconstruction), rel=1e-4
    )
    frames = (np.where(MASK[..., None], 0, x).astype(np.uint8) for x in (SOURCE, EDIT))
    assert (
        found["background_lpips"] == pytest.approx(expected(*frames), rel=1e-4)
        and found["background_lpips"] > 1e-4
    )
    kept = Edited(np.where(MASK[..., None], EDIT, SOURCE), SOURCE, 8, 0.5)
    assert metric(ITEM, kept) == {"inversion_lpips": 0, "background_lpips": 0}
    everything = Item("0", "change style", "a", "b", lambda: SOURCE, mask=np.ones((64, 64), bool))
    assert metric(everything, kept)["background_lpips"] is None


def test_figures_without_weights_are_none(tmp_path):
    paths = {"clip": None, "dino": vit(tmp_path / "dino"), "dinov2": None, "lpips": None}
    metrics = features.learned(paths, CPU)
    row = {key: value for metric in metrics for key, value in metric(ITEM, MADE).items()}
    assert set(row) == {figure for figures in features.FIGURES.values() for figure in figures}
    assert [key for key, value in row.items() if value is not None] == ["structure_distance"]
    assert set(features.absent(paths)) == set(row) - {"structure_distance"}
    assert [key for metric in metrics for key in metric(PROMPT, MADE)] == ["clip_whole"]


@pytest.mark.parametrize("name", ["clip", "dino", "dinov2", "lpips"])
def test_weights_that_are_none(tmp_path, name):
    if name == "lpips":
        pytest.importorskip("torchmetrics")
    (tmp_path / "file").write_bytes(b"not weights")
    for path in (tmp_path / "absent", tmp_path / "file", tmp_path):
        with pytest.raises(SettingsError, match="holds no weights for this metric") as caught:
            features.learned({name: path}, CPU)
        assert "\n" not in str(caught.value)


def test_weights_of_another_network_are_refused_quietly(tmp_path, capfd):
    """transformers would fill in random ones and print a table about it; the figures would change
    from run to run."""
    vit(tmp_path / "vit")
    text = SHAPE | {
        "vocab_size": 563,
        "bos_token_id": 561,
        "eos_token_id": 562,
        "pad_token_id": 562,
    }
    vision = SHAPE | {"image_size": 32, "patch_size": 16}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(
        tmp_path / "clip"
    )
    capfd.readouterr()
    wrong = (
        ("clip", "vit", "it lacks"),
        ("dino", "clip", "no vision transformer"),
        ("dinov2", "clip", "no vision"),
    )
    for name, folder, message in wrong:
        with pytest.raises(SettingsError, match=message):
            features.learned({name: tmp_path / folder}, CPU)
    assert capfd.readouterr() == ("", "")


def test_a_folder_without_a_pooler_gives_the_same_figures_every_time(tmp_path):
    """DINO's published folders have none."""
    ViTModel(
        ViTConfig(**SHAPE, image_size=224, patch_size=32), add_pooling_layer=False
    ).save_pretrained(tmp_path)
    one, other = (features.dinov2(tmp_path, CPU)(ITEM, MADE) for _ in range(2))
    assert one == other


def test_the_fitted_heads_are_no_backbone(tmp_path):
    pytest.importorskip("torchmetrics")
    torch.save({"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}, tmp_path / "alex.pth")
    with pytest.raises(SettingsError, match="heads alone are not enough"):
        features.lpips(tmp_path / "alex.pth", CPU)
