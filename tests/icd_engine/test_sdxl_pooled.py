"""SDXL's pooled vector is the end token's, whatever tokens a vocabulary was given and whatever the
configuration says of the end: in a loaded model, and in what is exported of one."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer

from export.modules import TextStates
from icd_engine.bundles.bundle import Bundle
from icd_engine.bundles.convert import convert
from icd_engine.editing.words import PromptTokenizer
from icd_engine.loading import load_text_encoder
from icd_engine.networks.text_encoder import DualTextEncoder

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "sdxl"
EMBEDDING = "token_embedding.weight"
OWN = "<my-cat>"


def add_token(base: Path) -> None:
    """As textual inversion leaves a folder: one token behind the end token, its vector in both
    encoders."""
    for part in ("", "_2"):
        file = base / f"tokenizer{part}" / "tokenizer.json"
        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.add_tokens([AddedToken(OWN, special=False)])
        tokenizer.save(str(file))
        weights = load_file(base / f"text_encoder{part}" / "model.safetensors")
        key = next(key for key in weights if key.endswith(EMBEDDING))
        vectors = weights[key]
        torch.manual_seed(5)
        weights[key] = torch.cat([vectors, torch.randn(1, vectors.shape[1])])
        save_file(weights, base / f"text_encoder{part}" / "model.safetensors")
        change(base / f"text_encoder{part}", vocab_size=len(vectors) + 1)


def change(folder: Path, **fields: int) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


@pytest.fixture(params=["plain", "added token"])
def bundle(request, tmp_path) -> Bundle:
    base = tmp_path / "base"
    shutil.copytree(GOLDEN / "base", base, copy_function=shutil.copyfile)
    if request.param == "added token":
        add_token(base)
    names = ("sdxl_cfg_distill.pt", "iCD-SDXL-forward.safetensors", "iCD-SDXL-reverse.safetensors")
    return convert(base, *(GOLDEN / name for name in names), tmp_path / "bundle")


# What published files say (2), another token of the prompt, one that is in no prompt
@pytest.mark.parametrize("told", [None, 2, 320, 300], ids=str)
@pytest.mark.parametrize("padding", ["end token", "own"])
def test_the_pooled_vector_is_the_end_tokens(bundle, told, padding):
    if told is not None:
        change(bundle.path / "text_encoder_2", eos_token_id=told)
        bundle.configs["text_encoder_2"]["eos_token_id"] = told
    encoder = load_text_encoder(bundle, torch.device("cpu"), torch.float32)
    assert isinstance(encoder, DualTextEncoder)
    tokenizer = PromptTokenizer.from_folder(bundle.path / "tokenizer")
    prompts = [tokenizer.encode(text) for text in (f"a photo of {OWN} on the mat", "a cat", "")]
    ids = torch.tensor([t.ids if padding == "end token" else t.padded(0) for t in prompts])
    ends = [t.length - 1 for t in prompts]
    assert ids[[0, 1, 2], ends].tolist() == [tokenizer.end] * 3
    with torch.no_grad():
        last = encoder.second.final_layer_norm(encoder.second.states(ids)[-1])[[0, 1, 2], ends]
        expected = encoder.second.text_projection(last)
        assert torch.equal(encoder.second(ids)[1], expected)
        assert torch.equal(encoder.encode(torch.cat([ids, ids], dim=1)).pooled, expected)
        assert torch.equal(TextStates(encoder.second)(ids)[0], expected)
