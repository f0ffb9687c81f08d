"""A LoRA file's scale is what its tensors, header or peft's configuration say, and one thing only."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("peft")

from peft import LoraConfig, inject_adapter_in_model

from icd_engine.bundles.lora import assumed_scales, read_lora
from icd_engine.errors import BundleError

SHAPES = {"mid.attn_x.to_q.weight": (6, 5), "up.0.to_q.weight": (6, 5), "proj_in.weight": (6, 5)}
MODULES = [key.removesuffix(".weight") for key in SHAPES]
RANK = 4
ALL_32 = {"r": RANK, "lora_alpha": 32}


def scales(tmp_path, header=None, beside=None, ranks=None, **alphas):
    """(module -> scale, what said them) of a file with such a header, configuration and tensors."""
    tensors = {}
    for module in MODULES:
        rank = (ranks or {}).get(module, RANK)
        tensors[f"unet.{module}.lora_A.weight"] = torch.ones(rank, 5)
        tensors[f"unet.{module}.lora_B.weight"] = torch.ones(6, rank)
    for module, alpha in alphas.items():
        tensors[f"unet.{module}.alpha"] = torch.tensor(alpha)
    as_text = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in (header or {}).items()
    }
    save_file(tensors, tmp_path / "lora.safetensors", metadata={"format": "pt", **as_text})
    if beside is not None:
        (tmp_path / "adapter_config.json").write_text(json.dumps(beside))
    lora = read_lora(tmp_path / "lora.safetensors", SHAPES, rounds=False)
    return {module: pair.scale for module, pair in lora.items()}, {
        pair.said_by for pair in lora.values()
    }


def adapter(**fields):
    return {"lora_adapter_metadata": {f"unet.{name}": value for name, value in fields.items()}}


def alphas(key: str) -> dict:
    return {
        "network_alphas": {
            key.format(module, flat=module.replace(".", "_")): 32 for module in MODULES
        }
    }


HEADER, BESIDE = "the header's lora_adapter_metadata", "adapter_config.json"
ALPHAS = "the header's network_alphas"


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ({"header": adapter(**ALL_32)}, HEADER),
        ({"header": {"lora_adapter_metadata": ALL_32}}, HEADER),
        ({"header": alphas("unet.{}.alpha")}, ALPHAS),
        ({"header": alphas("unet.{}.lora_A.weight.alpha")}, ALPHAS),
        ({"header": alphas("lora_unet_{flat}.alpha")}, ALPHAS),
        ({"header": {"ss_network_alpha": "32.0"}}, "the header's ss_network_alpha"),
        ({"beside": ALL_32}, BESIDE),
        ({"beside": {**ALL_32, "peft_type": "LORA", "use_rslora": None}}, BESIDE),
        (dict.fromkeys(MODULES, 32.0), "alpha tensors"),
    ],
    ids=[
        "diffusers",
        "a network alone",
        "alphas",
        "alphas of factors",
        "alphas of kohya",
        "kohya",
        "peft",
        "peft whole",
        "tensors",
    ],
)
def test_every_place_is_read(tmp_path, said, place):
    assert scales(tmp_path, **said) == (dict.fromkeys(MODULES, 8.0), {place})


def test_where_nothing_says_it_the_published_alpha_is_taken_and_noted(tmp_path):
    header = {"ss_network_alpha": "None", **adapter(r=RANK), "network_alphas": {}}
    assert scales(tmp_path, header) == (dict.fromkeys(MODULES, 2.0), {"assumed"})
    lora = read_lora(tmp_path / "lora.safetensors", SHAPES, rounds=False)
    assert assumed_scales("x", lora) == [
        "LoRA alpha assumed: 8, as of the published models (x has none)"
    ]
    found, places = scales(tmp_path, proj_in=16.0)
    assert found == {**dict.fromkeys(MODULES, 2.0), "proj_in": 4.0}
    assert places == {"alpha tensors", "assumed"}
    lora = read_lora(tmp_path / "lora.safetensors", SHAPES, rounds=False)
    assert "assumed for 2 of 3 modules" in assumed_scales("x", lora)[0]
    scales(tmp_path, adapter(**ALL_32))
    lora = read_lora(tmp_path / "lora.safetensors", SHAPES, rounds=False)
    assert assumed_scales("x", lora) == []


def test_places_that_agree_are_one(tmp_path):
    found, places = scales(tmp_path, adapter(**ALL_32), ALL_32, proj_in=32.0)
    assert set(found.values()) == {8.0}
    assert places == {"alpha tensors", "the header's lora_adapter_metadata"}


def test_an_alpha_that_half_precision_rounds_agrees(tmp_path):
    tensor = float(torch.tensor(0.1, dtype=torch.bfloat16))
    found, _ = scales(tmp_path, beside={"r": RANK, "lora_alpha": 0.1}, proj_in=tensor)
    assert found["proj_in"] == tensor / RANK != 0.1 / RANK


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name in ("mid", "up"):
            setattr(self, name, torch.nn.ModuleDict())
        self.mid["attn_x"] = torch.nn.ModuleDict({"to_q": torch.nn.Linear(5, 6)})
        self.up["0"] = torch.nn.ModuleDict({"to_q": torch.nn.Linear(5, 6)})
        self.proj_in = torch.nn.Linear(5, 6)


@pytest.mark.parametrize(
    "fields",
    [
        {"lora_alpha": 32},
        {"lora_alpha": 32, "use_rslora": True},
        {"lora_alpha": 32, "alpha_pattern": {"to_q": 6, "up.0.to_q": 7}},
        {"lora_alpha": 3, "alpha_pattern": {"up.0.to_q": 7, "to_q": 6}},
        {"lora_alpha": 3, "alpha_pattern": {"^proj_in": 6, r"up\.\d+\.to_q": 5}},
        {"lora_alpha": 3, "rank_pattern": {"proj_in": 2}, "alpha_pattern": {"(mid|up).*": 9}},
        {"lora_alpha": 3, "rank_pattern": {"to_q": 8}, "use_rslora": True},
    ],
    ids=["alpha", "rslora", "patterns", "order", "regular", "ranks", "ranks and rslora"],
)
@pytest.mark.parametrize("place", ["header", "beside"])
def test_the_scale_is_pefts_own(tmp_path, fields, place):
    """Against the scaling that peft gives the same modules."""
    config = LoraConfig(r=RANK, target_modules=MODULES, **fields)
    peft = inject_adapter_in_model(config, Net())
    layers = {module: peft.get_submodule(module) for module in MODULES}
    fields = {"r": RANK, **fields}
    found, _ = scales(
        tmp_path,
        **({"header": adapter(**fields)} if place == "header" else {"beside": fields}),
        ranks={module: layer.r["default"] for module, layer in layers.items()},
    )
    for module, layer in layers.items():
        assert math.isclose(found[module], layer.scaling["default"], rel_tol=1e-12), module


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"header": adapter(**ALL_32), "proj_in": 2.0}, rf"'proj_in' has LoRA scale 0\.5 by .*, but 8 by {HEADER}"),
        ({"header": adapter(**ALL_32), "beside": {"lora_alpha": 8}}, rf"scale 8 by {HEADER}, but 2 by {BESIDE}"),
        ({"header": adapter(**ALL_32), "beside": ALL_32 | {"use_rslora": True}}, r"but 16 by adapter_config\.json"),
        ({"header": {"network_alphas": {"proj_in": 3}}, "beside": ALL_32}, rf"scale 0\.75 by {ALPHAS}, but 8 by"),
        ({"header": adapter(r=8, lora_alpha=32)}, r"has rank 4, but 8 by the header's lora_adapter_metadata"),
        ({"beside": ALL_32 | {"rank_pattern": {"proj_in": 2}}}, r"'proj_in' has rank 4, but 2 by adapter_config\.json"),
        ({"header": {"lora_adapter_metadata": "{"}}, r"lora_adapter_metadata must hold a JSON object"),
        ({"header": {"network_alphas": "[" * 10**5}}, r"network_alphas must hold a JSON object"),
        ({"header": {"network_alphas": {"proj_in": "8"}}}, r"proj_in must be a number, not '8'"),
        ({"header": {"ss_network_alpha": "much"}}, "ss_network_alpha must be a number, not nan"),
        ({"header": adapter(lora_alpha=True)}, "lora_alpha must be a number, not True"),
        ({"beside": {"lora_alpha": math.inf}}, r"adapter_config\.json: lora_alpha must be a number, not inf"),
        ({"beside": {"r": []}}, r"r must be a number, not \[\]"),
        ({"beside": []}, r"adapter_config\.json must hold a JSON object"),
        ({"beside": {"peft_type": "LOHA"}}, "peft_type must be 'LORA', not 'LOHA'"),
        ({"beside": {"use_rslora": "yes"}}, "use_rslora must be true or false"),
        ({"beside": {"alpha_pattern": [1]}}, r"alpha_pattern must be an object, not \[1\]"),
        ({"beside": {"alpha_pattern": {"to_q": None}}}, "alpha_pattern must be a number, not None"),
        ({"beside": {"alpha_pattern": {"(": 1}}}, r"'\(' is no usable pattern"),
        ({"beside": {"rank_pattern": {"([a-z.]+)+!": 1}}}, "is no usable pattern"),
        ({"beside": {"rank_pattern": {"a*a*a*a*!": 1}}}, "is no usable pattern"),
        ({"beside": {"rank_pattern": {"a" * 257: 1}}}, "is no usable pattern"),
    ],
)  # fmt: skip
def test_what_contradicts_or_is_damaged_is_one_error(tmp_path, said, message):
    with pytest.raises(BundleError, match=message) as caught:
        scales(tmp_path, **said)
    assert "\n" not in str(caught.value)
    assert "json must hold" in str(caught.value) or str(caught.value).startswith("lora.safetensors")
