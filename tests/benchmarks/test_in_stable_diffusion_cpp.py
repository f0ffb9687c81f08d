"""stable-diffusion.cpp beside our runners: what it is asked, what is made of its answers, and that
it is left out where it is not installed. A fake stands for the library; the long test asks the real one."""

import ctypes
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from benchmarks import in_stable_diffusion_cpp as ggml
from benchmarks.architectures import ARCHITECTURES, architecture_bundle
from benchmarks.checks import Refused
from benchmarks.edit import measure_edit
from benchmarks.networks import measure_networks
from icd_engine.bundles.files import read_shapes
from icd_engine.images import to_pil

ASKED = {"architecture": "small", "device": "cpu", "runner": "eager", "repeats": 2, "warmup": 1}
SECONDS = {"encode": 1.5, "decode": 2.25}  # of the fake's VAE, by its log


class Fake(ModuleType):
    """The library: one picture for all requests, which it keeps, and its callbacks."""

    sd_log_callback = staticmethod(
        ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    )

    def __init__(self, picture: Image.Image):
        super().__init__("stable_diffusion_cpp")
        self.__spec__ = ModuleSpec(self.__name__, None)
        self.picture = picture
        self.model: object | None = object()
        self.opened: dict = {}
        self.keys: dict[str, set[str]] = {}
        self.requests: list[dict] = []
        self.closed = False
        self.listener = None
        self.watcher = None

    def sd_set_log_callback(self, callback, data) -> None:
        self.listener = callback

    def sd_set_progress_callback(self, callback, data) -> None:
        self.watcher = callback

    def StableDiffusion(self, **options) -> "Fake":
        self.opened = options
        files = [*Path(options["model_path"]).glob("*/*.safetensors"), options["clip_g_path"]]
        self.keys = {Path(file).parent.name: set(read_shapes(Path(file))) for file in files if file}
        self.listener(3, b"ggml.c:1 - no such tensor\n", None)
        return self

    def generate_image(self, progress_callback, **request) -> list[Image.Image]:
        self.requests.append(request)
        self.watcher = progress_callback
        steps = request["sigmas"].count(",")
        for step in range(steps + 1 if steps else 0):
            progress_callback(step, steps, 0.5)
        for half in ("encode", "decode") if request["init_image"] else ("decode",):
            line = (
                f"vae.hpp:1 - computing vae {half} graph completed, taking {SECONDS[half]:.2f}s\n"
            )
            self.listener(0, line.encode(), None)
        return [self.picture]

    def close(self) -> None:
        self.closed = True


@pytest.fixture(params=["small", "small-xl"])
def architecture(request, tmp_path, monkeypatch) -> str:
    """A narrow shape, whose text encoders have the first words of a vocabulary alone."""
    monkeypatch.setenv("ICD_BENCHMARK_CACHE", str(tmp_path))
    monkeypatch.setattr(ggml, "ARCHITECTURES", (request.param,))
    monkeypatch.setattr(ggml, "BEGIN", 0)
    monkeypatch.setattr(ggml, "END", 1)
    monkeypatch.setattr(ggml, "COMPARED", ARCHITECTURES[request.param]["size"])
    return request.param


@pytest.fixture
def library(architecture, monkeypatch) -> Fake:
    """It makes the picture that our networks make, in eight bits."""
    expected = ggml.expected_picture(architecture_bundle(architecture))
    fake = Fake(to_pil(expected))
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    return fake


def measured(part: str, architecture: str, **options) -> list[dict]:
    asked = ASKED | {"architecture": architecture, "baseline": ggml.NAME} | options
    return list(measure_networks(part, **asked))


def test_where_it_is_missing_one_line_says_so(monkeypatch, capsys):
    monkeypatch.setattr(ggml, "find_spec", lambda name: None)
    for part in ("unet", "vae"):
        assert {result["runner"] for result in measured(part, "small")} == {"eager"}
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("stable-diffusion.cpp is not installed (pip install ")


def test_steps_of_the_unet(library, architecture):
    ours, theirs = [], []
    for result in measured("unet", architecture, dtype="bfloat16"):
        (theirs if result["runner"] == ggml.NAME else ours).append(result)
    assert [one["piece"] for one in theirs] == [one["piece"] for one in ours]
    for one, other in zip(theirs, ours, strict=True):
        assert one["call_ms"] >= 0 and one["repeats"] == 2 and one["dtype"] == "bfloat16"
        assert (one["tflop"], one["model"]) == (other["tflop"], other["model"])
        assert "convolutions in float16" in one["note"]
    assert theirs[1]["note"].startswith("two passes of one row")
    compared, one_row, two_rows = library.requests
    assert [r["cfg_scale"] for r in library.requests] == [1.0, 1.0, 2.0]
    assert compared["sample_steps"] == 1
    assert one_row["sample_steps"] == two_rows["sample_steps"] == 3
    assert one_row["sigmas"].split(",")[-1] == "0.0" and one_row["sigmas"].count(",") == 3
    assert library.opened["wtype"] == "bf16"
    assert library.opened["n_threads"] == torch.get_num_threads()


def test_halves_of_the_vae(library, architecture):
    found = {
        result["piece"]: result["call_ms"]
        for result in measured("vae", architecture, size=128)
        if result["runner"] == ggml.NAME
    }
    assert found == {"VAE encoder": 1500.0, "VAE decoder": 2250.0}
    for request in library.requests[1:]:
        assert request["sigmas"] == "0.0" and request["width"] == 128  # no step: the VAE alone
    assert library.closed and library.listener is None and library.watcher is None


def test_it_is_given_the_bundle_in_keys_that_it_knows(library, architecture):
    measured("unet", architecture)
    assert (
        "conv_in.weight" in library.keys["unet"] and "decoder.conv_in.weight" in library.keys["vae"]
    )
    for part in library.keys.keys() - {"unet", "vae"}:
        own = {key for key in library.keys[part] if not key.startswith("text_model.")}
        assert own <= {"text_projection.weight"}
    assert len(library.keys) == 3 + architecture.endswith("xl")
    bundle = architecture_bundle(architecture)
    assert [path.name for path in bundle.path.parent.iterdir()] == [bundle.path.name]


def test_another_picture_is_refused(library, architecture):
    library.picture = library.picture.transpose(Image.Transpose.ROTATE_90)
    with pytest.raises(Refused, match=r"stable-diffusion.cpp's picture is off by"):
        measured("unet", architecture)
    assert len(library.requests) == 1 and library.closed


def test_a_folder_that_does_not_load_is_refused(library, architecture):
    library.model = None
    with pytest.raises(Refused, match=r"does not load .*no such tensor"):
        measured("unet", architecture)
    assert not library.requests


def test_a_shape_that_it_does_not_know_is_refused(library):
    with pytest.raises(Refused, match=r"not tiny-xl"):
        list(ggml.measure_pieces("unet", "tiny-xl", 64, torch.float32, 1, 0))


def test_each_benchmark_has_its_own_baselines():
    with pytest.raises(Refused, match=r"the baseline of unet is stable-diffusion.cpp, on the CPU"):
        measured("unet", "small", baseline="reference")
    with pytest.raises(Refused, match=r"not stable-diffusion.cpp"):
        measure_edit(baseline=ggml.NAME)


@pytest.mark.long
@pytest.mark.parametrize("part", ["unet", "vae"])
def test_the_library_makes_our_picture(part):
    """Of the random bundle of sd15, in the user's cache."""
    pytest.importorskip("stable_diffusion_cpp")
    pieces = dict(ggml.measure_pieces(part, "sd15", 256, torch.float32, 1, 0))
    assert pieces.keys() == (ggml.UNET_PIECES if part == "unet" else ggml.VAE_PIECES).keys()
    assert all(times.p50 > 0 for times in pieces.values())
