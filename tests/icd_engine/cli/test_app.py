"""The program `icd`: every mistake is one line and an exit code, and help is quick."""

import signal
import subprocess
import sys

import pytest

from icd_engine.cli import main
from icd_engine.engine import Engine
from tests.icd_engine.cli.written import ROOT, SOURCE, TARGET, check_refused, files


@pytest.fixture
def unloaded(monkeypatch) -> None:
    """No command may come as far as to load a model."""

    def fail(*arguments: str) -> Engine:
        raise AssertionError("the model was loaded before the input was checked")

    monkeypatch.setattr(Engine, "load", fail)


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


@pytest.mark.parametrize(
    ("ending", "code", "told"),
    [
        (None, 130, "interrupted"),
        ("SIGINT", 130, "interrupted"),
        ("SIGTERM", 143, "ended by SIGTERM"),
        ("SIGHUP", 129, "ended by SIGHUP"),
    ],
)
@pytest.mark.parametrize("name", ["edit", "invert", "generate"])
def test_an_interrupt_leaves_nothing(place, loaded, capsys, monkeypatch, name, ending, code, told):
    def interrupted(*arguments, progress, **options):
        progress(1)
        if ending:
            signal.raise_signal(getattr(signal, ending))
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, name, interrupted)
    rest = {
        "edit": EDIT[1:],
        "invert": [*EDIT[1:4], "--out", "x.safetensors"],
        "generate": [TARGET],
    }[name]
    check_refused(capsys, [name, *rest], code, told)
    assert files(place) == {"cat.png"}


# --- the program ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["edit", "generate", "invert", "batch", "serve", "ui", "web", "convert", "doctor"],
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
