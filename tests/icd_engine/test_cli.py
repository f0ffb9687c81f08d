"""The program `icd`: what it writes and prints, and that every mistake is one line and an exit
code."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from icd_engine.cli import doctor, main
from icd_engine.engine import Engine
from icd_engine.model import Model

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "tests" / "data" / "golden" / "sd15"
SOURCE, TARGET, OTHER = "a cat sits on the mat", "a dog sits on the mat", "a cat sits on the sofa"
GENERATED, EDITED = (
    b"digitalsourcetype/trainedAlgorithmicMedia",
    b"digitalsourcetype/compositeWithTrainedAlgorithmicMedia",
)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """An empty current folder but for cat.png, 80x60."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("cat.png")
    return tmp_path


@pytest.fixture
def loaded(monkeypatch, small_engine) -> Engine:
    """Every command gets the engine already loaded."""
    monkeypatch.setattr(Engine, "load", lambda model, placement: small_engine)
    return small_engine


@pytest.fixture
def unloaded(monkeypatch) -> None:
    """No command may come as far as to load a model."""

    def fail(*arguments: str) -> Engine:
        raise AssertionError("the model was loaded before the input was checked")

    monkeypatch.setattr(Engine, "load", fail)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def pixels_of(path: Path | str) -> np.ndarray:
    return np.asarray(Image.open(path))


def check_refused(capsys, arguments: list[str], code: int, *parts: str) -> None:
    """One line on stderr that holds `parts`, nothing on stdout."""
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("icd: error: ") and err.count("\n") == 1 and err.endswith("\n")
    for part in parts:
        assert part in err


# --- edit -----------------------------------------------------------------------------------------


def test_edit_equals_the_library(place, capsys, small_bundle, small_engine):
    command = [
        "edit",
        "cat.png",
        "--source",
        SOURCE,
        "--target",
        TARGET,
        "--model",
        str(small_bundle),
    ]
    assert main([*command, "--device", "cpu", "--dtype", "float32"]) == 0
    out, err = capsys.readouterr()
    assert out == "cat_edited.png\n"
    assert "8 network calls" in err
    assert files(place) == {"cat.png", "cat_edited.png"}
    expected = small_engine.edit("cat.png", SOURCE, TARGET).image
    assert np.array_equal(pixels_of("cat_edited.png"), np.asarray(expected))
    assert EDITED in Path("cat_edited.png").read_bytes()


def test_every_setting_reaches_the_engine(place, loaded, capsys, monkeypatch):
    seen = {}
    real = Engine.edit

    def edit(self, image, source, target, **options):
        seen.update(options)
        return real(self, image, source, target, **options)

    monkeypatch.setattr(Engine, "edit", edit)
    Image.new("L", (64, 64), 255).save("mask.png")
    options = "--seed 7 --guidance-scale 3 --tau 0.7,0.9 --tau-low 0.1 --control refine --self-replace 0.2 --size 64x48"
    words = [
        "--cross-replace",
        "default=0.3",
        "--cross-replace",
        "dog=0.1,0.6",
        "--amplify",
        "dog=2",
        "--blend",
        "cat:dog",
    ]
    command = [
        "edit",
        "cat.png",
        "--source",
        SOURCE,
        "--target",
        TARGET,
        "--mask",
        "mask.png",
        "--out",
        "a/b.jpg",
    ]
    assert main([*command, *options.split(), *words, "--quiet"]) == 0
    assert capsys.readouterr() == ("a/b.jpg\n", "")
    assert callable(seen.pop("progress"))
    assert seen == {
        "seed": 7,
        "guidance_scale": 3.0,
        "tau": (0.7, 0.9),
        "tau_low": 0.1,
        "control": "refine",
        "cross_replace": {"default": 0.3, "dog": (0.1, 0.6)},
        "self_replace": 0.2,
        "amplify": {"dog": 2.0},
        "blend": (["cat"], ["dog"]),
        "mask": "mask.png",
        "size": (64, 48),
    }
    assert Image.open("a/b.jpg").size == (64, 48)


def test_several_targets_are_numbered(place, loaded, capsys):
    Path("new_1.png").write_bytes(b"older")
    assert (
        main(
            [
                "edit",
                "cat.png",
                "--source",
                SOURCE,
                "--target",
                TARGET,
                "--target",
                OTHER,
                "--out",
                "new.png",
            ]
        )
        == 0
    )
    assert capsys.readouterr().out.split() == ["new_1.png", "new_2.png"]
    expected = loaded.edit("cat.png", SOURCE, [TARGET, OTHER]).images
    for i, picture in enumerate(expected, start=1):
        assert np.array_equal(pixels_of(f"new_{i}.png"), np.asarray(picture))
    assert files(place) == {"cat.png", "new_1.png", "new_2.png"}


def test_compare_is_source_reconstruction_edits(place, loaded):
    assert (
        main(
            [
                "edit",
                "cat.png",
                "--source",
                SOURCE,
                "--target",
                TARGET,
                "--target",
                OTHER,
                "--compare",
            ]
        )
        == 0
    )
    result = loaded.edit("cat.png", SOURCE, [TARGET, OTHER])
    panels = [
        np.asarray(p)
        for p in (Image.open("cat.png").convert("RGB"), result.reconstruction, *result.images)
    ]
    assert np.array_equal(pixels_of("cat_edited.png"), np.concatenate(panels, axis=1))


def test_automatic_settings(place, loaded, capsys):
    command = [
        "edit",
        "cat.png",
        "--source",
        SOURCE,
        "--target",
        TARGET,
        "--seed",
        "5",
        "--tau",
        "0.8",
        "--auto",
    ]
    assert main([*command, "--edits", "6", "--sheet", "sheet.png"]) == 0
    out, err = capsys.readouterr()
    assert (
        out == "sheet.png\ncat_edited.png\n" and "best of 6 settings" in err and "tau 0.80" in err
    )
    found = loaded.invert("cat.png", SOURCE, seed=5).search(TARGET, edits=6, tau=0.8)
    assert np.array_equal(pixels_of("cat_edited.png"), np.asarray(found.result.image))
    assert Image.open("sheet.png").size == (6 * 128, 128)
    check_refused(capsys, [*command, "--target", OTHER], 2, "one --target")
    check_refused(capsys, [*command, "--sheet", "x.txt"], 2, "--sheet")


def test_a_terminal_sees_the_hops(place, small_bundle, capsys, monkeypatch):
    command = [
        "edit",
        "cat.png",
        "--source",
        SOURCE,
        "--target",
        TARGET,
        "--model",
        str(small_bundle),
    ]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(command) == 0
    assert "8/8" in capsys.readouterr().err
    assert main([*command, "--quiet"]) == 0
    assert capsys.readouterr() == ("cat_edited.png\n", "")


# --- invert, then edit ----------------------------------------------------------------------------


@pytest.fixture
def kept(place, loaded, capsys) -> str:
    assert (
        main(
            [
                "invert",
                "cat.png",
                "--source",
                SOURCE,
                "--seed",
                "5",
                "--out",
                "deep/cat.safetensors",
            ]
        )
        == 0
    )
    assert capsys.readouterr().out == "deep/cat.safetensors\n"
    return "deep/cat.safetensors"


def test_a_kept_inversion_costs_the_decode_hops_only(kept, loaded, capsys):
    assert main(["edit", kept, "--target", TARGET]) == 0
    out, err = capsys.readouterr()
    assert out == "cat_edited.png\n" and "4 network calls" in err
    expected = loaded.edit("cat.png", SOURCE, TARGET, seed=5).image
    assert np.array_equal(pixels_of("cat_edited.png"), np.asarray(expected))


def test_what_was_kept_may_be_repeated(kept):
    assert (
        main(
            ["edit", kept, "--source", SOURCE, "--seed", "5", "--size", "80x48", "--target", TARGET]
        )
        == 0
    )


def test_comparing_a_kept_inversion_has_no_source_picture(kept):
    assert main(["edit", kept, "--target", TARGET, "--compare"]) == 0
    assert Image.open("cat_edited.png").size == (2 * 80, 60)


@pytest.mark.parametrize(
    "other", [["--source", OTHER], ["--seed", "6"], ["--size", "32x32"]], ids=lambda o: o[0]
)
def test_what_was_kept_cannot_be_chosen_again(kept, capsys, other):
    check_refused(capsys, ["edit", kept, "--target", TARGET, *other], 1, "was inverted")
    assert not Path("cat_edited.png").exists()


def test_a_damaged_inversion(place, loaded, capsys):
    Path("bad.safetensors").write_bytes(b"not one")
    check_refused(capsys, ["edit", "bad.safetensors", "--target", TARGET], 1, "bad.safetensors")
    check_refused(capsys, ["edit", "none.safetensors", "--target", TARGET], 1, "none.safetensors")


# --- the demonstration ----------------------------------------------------------------------------


@pytest.fixture
def demo_bundle(place, small_bundle) -> Path:
    folder = place / "model"
    shutil.copytree(small_bundle, folder)
    shutil.copy("cat.png", folder / "demo.png")
    record = {"source": SOURCE, "target": TARGET, "settings": {"self_replace": 0.6, "seed": 3}}
    (folder / "demo.json").write_text(json.dumps(record))
    return folder


def test_demo_writes_the_comparison(demo_bundle, small_engine, capsys):
    assert (
        main(["edit", "--demo", "--model", str(demo_bundle), "--device", "cpu", "--seed", "4"]) == 0
    )
    out, err = capsys.readouterr()
    assert out == "demo_edited.png\n"
    assert SOURCE in err and TARGET in err
    expected = small_engine.edit("cat.png", SOURCE, TARGET, self_replace=0.6, seed=4).image
    assert np.array_equal(pixels_of("demo_edited.png")[:, 2 * 80 :], np.asarray(expected))


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("demo.png", None, "no demonstration"),
        ("demo.json", None, "no demonstration"),
        ("demo.json", b"{", "demo.json"),
        ("demo.json", b'{"source": "a cat"}', "target"),
        ("demo.json", b'{"source": "a cat", "target": "a dog", "settings": {"tua": 1}}', "tua"),
        ("demo.png", b"", "empty"),
    ],
)
def test_a_missing_or_damaged_demo(
    demo_bundle, small_engine, monkeypatch, capsys, name, content, part
):
    monkeypatch.setattr(Engine, "load", lambda model, placement: _at(small_engine, demo_bundle))
    if content is None:
        (demo_bundle / name).unlink()
    else:
        (demo_bundle / name).write_bytes(content)
    check_refused(capsys, ["edit", "--demo"], 1, str(demo_bundle), part)
    assert not Path("demo_edited.png").exists()


def _at(engine: Engine, folder: Path) -> Engine:
    return Engine(Model(replace(engine.bundle, path=folder), engine.runner, engine.model.tokenizer))


# --- generate -------------------------------------------------------------------------------------


def test_generate(place, loaded, capsys):
    assert (
        main(
            [
                "generate",
                SOURCE,
                TARGET,
                "--seed",
                "2",
                "--tau",
                "0.7",
                "--guidance-scale",
                "2",
                "--size",
                "48x32",
            ]
        )
        == 0
    )
    assert capsys.readouterr().out.split() == ["generated_1.png", "generated_2.png"]
    expected = loaded.generate([SOURCE, TARGET], seed=2, tau=0.7, guidance_scale=2, size=(48, 32))
    for i, picture in enumerate(expected, start=1):
        assert np.array_equal(pixels_of(f"generated_{i}.png"), np.asarray(picture))
    assert GENERATED in Path("generated_1.png").read_bytes()


# --- mistakes -------------------------------------------------------------------------------------

EDIT = ["edit", "cat.png", "--source", SOURCE, "--target", TARGET]
CONVERT = [
    "convert",
    "--base",
    "a",
    "--teacher",
    "b",
    "--forward",
    "c",
    "--reverse",
    "d",
    "--out",
    "e",
]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["edit"], "PICTURE"),
        (["edit", "cat.png", "--target", TARGET], "--source"),
        (["edit", "cat.png", "--source", SOURCE], "--target"),
        (["edit", "--demo", "--target", TARGET], "--demo"),
        (["edit", "cat.png", "--demo"], "--demo"),
        ([*EDIT, "--tau", "high"], "--tau"),
        ([*EDIT, "--cross-replace", "0.1", "--cross-replace", "0.2"], "--cross-replace"),
        ([*EDIT, "--self-replace", "1,2,3"], "--self-replace"),
        ([*EDIT, "--amplify", "dog"], "--amplify"),
        ([*EDIT, "--blend", ":"], "--blend"),
        ([*EDIT, "--size", "big"], "--size"),
        ([*EDIT, "--control", "much"], "--control"),
        ([*EDIT, "--guidance-scale", "x"], "--guidance-scale"),
        ([*EDIT, "--seed", "x"], "--seed"),
        ([*EDIT, "--dtype", "int8"], "--dtype"),
        ([*EDIT, "--out", "cat.bmp"], "--out"),
        ([*EDIT, "--colour", "red"], "--colour"),
        (["generate"], "PROMPT"),
        (["generate", TARGET, "--out", "x.txt"], "--out"),
        (["invert", "cat.png", "--source", SOURCE, "--out", "cat.png"], "--out"),
        (["invert", "cat.png", "--out", "x.safetensors"], "--source"),
        (["convert", "--base", "x"], "--teacher"),
        ([*CONVERT, "--decode-steps", "1;2"], "--decode-steps"),
        (["edti"], "edit"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else value,
)
def test_a_wrong_command_line(place, unloaded, capsys, arguments, part):
    check_refused(capsys, arguments, 2, part)
    assert files(place) == {"cat.png"}


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["edit", "dog.png", "--source", SOURCE, "--target", TARGET], "dog.png"),
        (["edit", "https://x.org/cat.png", "--source", SOURCE, "--target", TARGET], "URL"),
        ([*EDIT, "--mask", "mask.png"], "mask.png"),
        ([*EDIT, "--tau", "1.5"], "tau"),
        ([*EDIT, "--guidance-scale", "nan"], "guidance_scale"),
        ([*EDIT, "--seed", "-1"], "seed"),
        ([*EDIT, "--amplify", "dog=1e9"], "amplify"),
        (["invert", "dog.png", "--source", SOURCE, "--out", "dog.safetensors"], "dog.png"),
        (["generate", TARGET, "--tau", "0.9,0.1"], "tau"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else value,
)
def test_bad_input_shows_before_the_model_is_loaded(place, unloaded, capsys, arguments, part):
    check_refused(capsys, arguments, 1, part)
    assert files(place) == {"cat.png"}


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([*EDIT, "--amplify", "bird=2"], "bird"),
        ([*EDIT, "--blend", "bird"], "bird"),
        ([*EDIT, "--size", "60x60"], "size"),
        (["edit", "cat.png", "--source", " ", "--target", TARGET], "empty"),
        (["generate", ""], "empty"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else value,
)
def test_bad_input_that_only_the_model_can_tell(place, loaded, capsys, arguments, part):
    check_refused(capsys, arguments, 1, part)
    assert files(place) == {"cat.png"}


def test_a_model_that_is_not_there(place, capsys):
    check_refused(capsys, [*EDIT, "--model", "nowhere"], 1, "nowhere")


def test_an_unknown_runner(place, capsys, small_bundle):
    check_refused(capsys, [*EDIT, "--model", str(small_bundle), "--runner", "fast"], 1, "fast")


def test_an_output_that_cannot_be_written(place, loaded, capsys):
    assert main([*EDIT, "--quiet", "--out", "cat.png/edited.png"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("icd: error: cannot write") and err.count("\n") == 1
    check_refused(
        capsys,
        ["invert", "cat.png", "--source", SOURCE, "--out", "cat.png/x.safetensors"],
        1,
        "cannot write",
    )
    assert files(place) == {"cat.png"}


@pytest.mark.parametrize("name", ["edit", "invert", "generate"])
def test_an_interrupt_leaves_nothing(place, loaded, capsys, monkeypatch, name):
    def interrupted(*arguments, progress, **options):
        progress(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, name, interrupted)
    rest = {
        "edit": EDIT[1:],
        "invert": [*EDIT[1:4], "--out", "x.safetensors"],
        "generate": [TARGET],
    }[name]
    check_refused(capsys, [name, *rest], 130, "interrupted")
    assert files(place) == {"cat.png"}


# --- convert --------------------------------------------------------------------------------------


def convert_arguments(forward: str = "iCD-SD15-forward.safetensors") -> list[str]:
    parts = {
        "base": "base",
        "teacher": "sd15_cfg_distill.pt",
        "forward": forward,
        "reverse": "iCD-SD15-reverse.safetensors",
    }
    return [
        "convert",
        *(text for key, name in parts.items() for text in (f"--{key}", str(PUBLISHED / name))),
    ]


def test_convert_writes_a_bundle_and_reports(tmp_path, capsys):
    out = tmp_path / "made"
    steps = ["--decode-steps", "249,499,699,999", "--encode-steps", "19,249,499,699"]
    assert main([*convert_arguments(), "--out", str(out), *steps, "--precision", "fp16"]) == 0
    printed, report = capsys.readouterr()
    assert printed == f"{out}\n"
    assert json.loads((out / "icd.json").read_text())["decode_times"] == [249, 499, 699, 999]
    for part in (
        "sd15",
        "19 -> 249 -> 499 -> 699 -> 999",
        "999 -> 699 -> 499 -> 249 -> 0",
        "F16",
        "MB",
    ):
        assert part in report
    assert main(["doctor", str(out)]) in (0, 1)  # 1 where the installation itself is broken
    assert "as recorded" in capsys.readouterr().out
    check_refused(capsys, [*convert_arguments(), "--out", str(out)], 1, "not empty")


def test_convert_takes_both_directions_from_one_place(tmp_path, capsys):
    (tmp_path / "lora").mkdir()
    for role in ("forward", "reverse"):
        name = f"iCD-SD15-{role}.safetensors"
        (tmp_path / "lora" / name).write_bytes((PUBLISHED / name).read_bytes())
    base = [
        "convert",
        "--base",
        str(PUBLISHED / "base"),
        "--teacher",
        str(PUBLISHED / "sd15_cfg_distill.pt"),
    ]
    assert main([*base, "--lora", str(tmp_path / "lora"), "--out", str(tmp_path / "made")]) == 0
    assert (
        capsys.readouterr().out == f"{tmp_path / 'made'}\n"
        and (tmp_path / "made" / "icd.json").is_file()
    )
    check_refused(capsys, [*base, "--out", str(tmp_path / "x")], 2, "--lora")


def test_convert_reports_both_text_encoders_of_sdxl(tmp_path, capsys):
    files = {"base": "base", "teacher": "sdxl_cfg_distill.pt"}
    files |= {role: f"iCD-SDXL-{role}.safetensors" for role in ("forward", "reverse")}
    parts = [
        text
        for key, name in files.items()
        for text in (f"--{key}", str(PUBLISHED.parent / "sdxl" / name))
    ]
    assert main(["convert", *parts, "--out", str(tmp_path / "made")]) == 0
    names = [line.split()[0] for line in capsys.readouterr().err.splitlines()]
    assert "text_encoder" in names and "text_encoder_2" in names


def test_convert_refuses_what_does_not_fit(tmp_path, capsys):
    check_refused(
        capsys,
        [*convert_arguments("generate.safetensors"), "--out", str(tmp_path / "x")],
        1,
        "generate",
    )
    assert list(tmp_path.iterdir()) == []


# --- doctor ---------------------------------------------------------------------------------------


@pytest.fixture
def sound(monkeypatch) -> dict[str, str | None]:
    """Versions that doctor finds, none of them in conflict."""
    versions: dict[str, str | None] = dict.fromkeys((*doctor.NEEDED, *doctor.FOR_WEIGHTS), "1.0")
    monkeypatch.setattr(doctor, "_version", versions.get)
    return versions


def test_doctor_tells_what_a_model_is(small_bundle, sound, capsys):
    assert main(["doctor", str(small_bundle)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for part in (
        "python",
        "torch",
        "cpu",
        "sd15",
        "64x64",
        "F32",
        "of random weights",
        "files are as recorded",
        "MB",
    ):
        assert part in out
    for part in (
        "in float32",
        "in bfloat16",
        "eager on",
        "an edit at 64x64: 8 network calls",
        "dB between the picture",
    ):
        assert part in out


def test_doctors_self_check_can_be_left_out(small_bundle, sound, capsys, monkeypatch):
    assert main(["doctor", str(small_bundle), "--no-self-check"]) == 0
    assert "network calls" not in capsys.readouterr().out
    monkeypatch.setattr(doctor, "CHECKED_BELOW", 1000)  # as of a large model
    assert main(["doctor", str(small_bundle)]) == 0
    assert "--self-check runs it" in capsys.readouterr().out
    assert main(["doctor", str(small_bundle), "--self-check"]) == 0
    assert "8 network calls" in capsys.readouterr().out


def test_doctor_edits_with_the_model(place, small_bundle, sound, capsys):
    """Files that are whole, digests that agree, and a network that cannot work."""
    shutil.copytree(small_bundle, "model")
    weights = load_file("model/unet/diffusion_pytorch_model.safetensors")
    weights["conv_out.weight"] = weights["conv_out.weight"] * 3e38
    save_file(weights, "model/unet/diffusion_pytorch_model.safetensors")
    record = json.loads(Path("model/icd.json").read_text())
    Path("model/icd.json").write_text(json.dumps(record | {"sha256": {}}))
    assert main(["doctor", "model"]) == 1
    err = capsys.readouterr().err
    assert "self-check" in err and err.count("\n") == 1


def test_doctor_finds_a_changed_file(place, small_bundle, sound, capsys):
    shutil.copytree(small_bundle, "model")
    Path("model/vae/config.json").write_text(Path("model/vae/config.json").read_text() + "\n")
    assert main(["doctor", "model"]) == 1
    out, err = capsys.readouterr()
    assert "BROKEN" in out
    assert err.startswith("icd: error: ") and "vae/config.json" in err and err.count("\n") == 1


def test_doctor_finds_missing_and_conflicting_packages(small_bundle, sound, capsys):
    sound.update({"tokenizers": None, "onnxruntime": "1.28", "onnxruntime-gpu": "1.28"})
    assert main(["doctor", str(small_bundle)]) == 1
    err = capsys.readouterr().err
    assert "tokenizers" in err and "overwrite each other" in err and err.count("\n") == 2


def test_doctor_wants_no_torch_for_an_exported_folder(exported, sound, capsys):
    sound.update(dict.fromkeys(doctor.FOR_WEIGHTS) | {"onnxruntime": "1.28"})
    assert main(["doctor", str(exported)]) == 0
    out, err = capsys.readouterr()
    assert (
        err == ""
        and "CPUExecutionProvider" in out
        and "decode_hop" in out
        and "files are as recorded" in out
    )
    sound["onnxruntime"] = None
    assert main(["doctor", str(exported)]) == 1
    assert "onnxruntime: not installed" in capsys.readouterr().err


# --- the program ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["edit", "generate", "invert", "batch", "serve", "ui", "convert", "doctor"],
)
def test_every_command_has_help_with_an_example(name, capsys):
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert (
        f"Usage: icd {name}" in out
        and "Example:" in out
        and f"icd {name} " in out.split("Example:")[1]
    )


@pytest.mark.parametrize("name", ["bench", "eval", "export"])
def test_programs_of_their_own_have_help_with_an_example(name, capfd):
    """In a child process."""
    assert main([name, "--help"]) == 0
    out = capfd.readouterr().out
    assert f"sage: icd {name}" in out and f"icd {name} " in out.split("Example:")[1]


def test_icd_alone_is_help(capsys):
    assert main([]) == 0
    assert "Commands:" in capsys.readouterr().out


def test_help_and_mistakes_load_no_torch():
    program = (
        "import sys; from icd_engine.cli import main; main(['--help']); main(['edit', 'x.png', '--tau', 'x'])\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(run.stdout.splitlines()[-1].split())
    assert loaded.isdisjoint({"torch", "transformers", "diffusers", "safetensors"})
