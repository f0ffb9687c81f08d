"""Pictures through pipes, and standard streams that are closed, full, or cannot show a name."""

import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icd_engine.cli import main
from tests.icd_engine.cli.written import (
    EDITED,
    GENERATED,
    OTHER,
    ROOT,
    SOURCE,
    TARGET,
    check_refused,
    files,
    pixels_of,
)

PROMPTS = ["--source", SOURCE, "--target", TARGET]
EDIT = ["edit", "cat.png", *PROMPTS]
posix = pytest.mark.skipif(os.name != "posix", reason="pipes and devices of POSIX")


@contextmanager
def pipe_of(data: bytes) -> Iterator[str]:
    """The path of a pipe that these bytes come through, once."""
    ours, theirs = os.pipe()

    def write() -> None:
        with open(theirs, "wb") as pipe:
            pipe.write(data)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield f"/dev/fd/{ours}"
    finally:
        os.close(ours)
        writer.join()


def pass_in(monkeypatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def stdout_of(monkeypatch, encoding: str = "utf-8") -> io.BytesIO:
    """What is written to a standard output of this encoding, as bytes."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding, errors="strict"))
    return raw


# --- pictures in ----------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("command", ["edit", "invert"])
def test_a_picture_through_a_pipe(place, loaded, capsys, command):
    end = {
        "edit": [*PROMPTS, "--out", "new.png"],
        "invert": [*PROMPTS[:2], "--out", "n.safetensors"],
    }
    with pipe_of(Path("cat.png").read_bytes()) as pipe:
        assert main([command, pipe, *end[command]]) == 0
    assert files(place) == {"cat.png", end[command][-1]}
    if command == "edit":
        expected = loaded.edit("cat.png", SOURCE, TARGET).image
        assert np.array_equal(pixels_of("new.png"), np.asarray(expected))


def test_standard_input_is_a_picture(place, loaded, monkeypatch, capsys):
    pass_in(monkeypatch, Path("cat.png").read_bytes())
    assert main(["edit", "-", *PROMPTS, "--out", "new.png"]) == 0
    expected = loaded.edit("cat.png", SOURCE, TARGET).image
    assert np.array_equal(pixels_of("new.png"), np.asarray(expected))


@posix
@pytest.mark.parametrize("by", ["pipe", "standard input"])
def test_a_mask_through_a_pipe(place, loaded, monkeypatch, by):
    """It is looked at before the model is loaded, and again by the edit; a pipe gives it once."""
    Image.fromarray(np.arange(60 * 80, dtype=np.uint16).reshape(60, 80) % 2 * 65535).save("m.png")
    data = Path("m.png").read_bytes()
    pass_in(monkeypatch, data)
    with pipe_of(data) as pipe:
        given = "-" if by == "standard input" else pipe
        assert main([*EDIT, "--mask", given, "--out", "new.png"]) == 0
    expected = loaded.edit("cat.png", SOURCE, TARGET, mask="m.png").image
    assert np.array_equal(pixels_of("new.png"), np.asarray(expected))


def test_one_standard_input_is_one_file(place, capsys, monkeypatch):
    pass_in(monkeypatch, b"")
    arguments = ["edit", "-", *PROMPTS, "--mask", "-", "--out", "new.png"]
    check_refused(capsys, arguments, 2, "PICTURE or --mask")


@posix
def test_what_has_no_name_needs_one_for_its_edit(place, capsys):
    check_refused(capsys, ["edit", "-", *PROMPTS], 2, "--out")
    with pipe_of(b"") as pipe:
        check_refused(capsys, ["edit", pipe, *PROMPTS], 2, "--out")


@pytest.mark.parametrize("state", ["closed", "a terminal", "empty"])
def test_standard_input_without_a_picture(place, capsys, monkeypatch, state):
    pass_in(monkeypatch, b"")
    if state == "closed":
        monkeypatch.setattr(sys, "stdin", None)
    elif state == "a terminal":
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    check_refused(capsys, ["edit", "-", *PROMPTS, "--out", "new.png"], 1, state)


@pytest.mark.parametrize("given", ["picture", "mask", "invert", "kept"])
def test_a_folder_is_called_one(place, loaded, capsys, given):
    Path("folder.safetensors").mkdir()
    arguments = {
        "picture": ["edit", ".", *PROMPTS, "--out", "new.png"],
        "mask": [*EDIT, "--mask", "."],
        "invert": ["invert", ".", *PROMPTS[:2], "--out", "x.safetensors"],
        "kept": ["edit", "folder.safetensors", "--target", TARGET],
    }
    check_refused(capsys, arguments[given], 1, "is a folder")


# --- pictures out ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["edit", "generate"])
def test_standard_output_takes_the_picture_alone(place, loaded, capsysbinary, command):
    line = {"edit": EDIT, "generate": ["generate", TARGET]}[command]
    assert main([*line, "--out", "new.png"]) == 0
    capsysbinary.readouterr()
    assert main([*line, "--out", "-"]) == 0
    out, err = capsysbinary.readouterr()
    assert out == Path("new.png").read_bytes() and b"new.png" not in err
    assert {"edit": EDITED, "generate": GENERATED}[command] in out
    assert files(place) == {"cat.png", "new.png"}


def test_a_sheet_beside_it_is_told_on_standard_error(place, loaded, capsysbinary):
    assert main([*EDIT, "--edits", "2", "--sheet", "sheet.png", "--out", "-", "-q"]) == 0
    out, err = capsysbinary.readouterr()
    assert Image.open(io.BytesIO(out)).size == (80, 60) and err == b"sheet.png\n"
    assert Image.open("sheet.png").size == (2 * 128, 128)


def test_a_picture_that_came_through_a_pipe_is_the_signed_ones_parent(
    place, loaded, monkeypatch, capsysbinary, make_credentials
):
    c2pa = pytest.importorskip("c2pa")
    certificate, key = make_credentials()
    Path("chain.pem").write_bytes(certificate)
    Path("key.pem").write_bytes(key)
    pass_in(monkeypatch, Path("cat.png").read_bytes())
    marks = ["--c2pa-cert", "chain.pem", "--c2pa-key", "key.pem"]
    assert main(["edit", "-", *PROMPTS, *marks, "--out", "-"]) == 0
    with c2pa.Reader("image/png", io.BytesIO(capsysbinary.readouterr().out)) as reader:
        assert "parentOf" in reader.json()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([*EDIT, "--target", OTHER, "--out", "-"], "one picture"),
        (["generate", TARGET, OTHER, "--out", "-"], "one picture"),
        ([*EDIT, "--sheet", "new.png", "--out", "./new.png"], "--sheet"),
        (["invert", "cat.png", *PROMPTS[:2], "--out", "-"], "--out"),
    ],
)
def test_outputs_that_cannot_be(place, capsys, arguments, part):
    check_refused(capsys, arguments, 2, part)


def test_a_terminal_is_no_place_for_a_picture(place, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    check_refused(capsys, [*EDIT, "--out", "-"], 2, "terminal")


# --- names ----------------------------------------------------------------------------------------

NAMES = {"accent": "café", "cat": "猫", "emoji": "🐶", "no text": "caf\udce9", "both": "猫\udce9"}


@posix
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii", "latin-1", "shift_jis"])
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_any_name_is_printed_in_any_terminal(place, loaded, monkeypatch, encoding, name):
    """As it is where the terminal has the characters or the name is no text, escaped elsewhere."""
    os.rename("cat.png", f"{name}.png")
    out = stdout_of(monkeypatch, encoding)
    assert main(["edit", f"{name}.png", *PROMPTS]) == 0
    assert os.path.isfile(f"{name}_edited.png")
    printed = out.getvalue()
    assert printed.endswith(b"_edited.png\n") and printed.count(b"\n") == 1
    if encoding == "utf-8":
        assert printed == os.fsencode(f"{name}_edited.png") + b"\n"
    elif name == "猫" and encoding != "shift_jis":
        assert printed == b"\\u732b_edited.png\n"


def test_brackets_in_a_models_name_are_no_markup(place, capsys, monkeypatch):
    """A terminal is told what is loaded."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main([*EDIT, "--model", "no[/such]model"]) == 1
    assert "no[/such]model" in capsys.readouterr().err


# --- full and closed ------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("out", [[], ["--out", "-"]], ids=["path", "picture"])
@pytest.mark.parametrize("state", ["full", "closed", "without a reader"])
def test_a_standard_output_that_takes_nothing(place, loaded, capsys, monkeypatch, out, state):
    ours, theirs = os.pipe()
    os.close(ours)
    if state == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), theirs)
    stream = None if state == "closed" else os.fdopen(theirs, "w")
    monkeypatch.setattr(sys, "stdout", stream)
    code = main([*EDIT, *out, "-q"])
    monkeypatch.undo()
    if stream is not None:
        stream.close()  # nothing is left that could fail once more
    told = capsys.readouterr().err
    reasons = {"full": "No space left", "closed": "is closed", "without a reader": "Broken pipe"}
    assert code == 1 and told.startswith("icd: error: ") and told.count("\n") == 1
    assert "standard output" in told and reasons[state] in told


@posix
@pytest.mark.parametrize(
    "arguments", ["--help", "--version", "edit --help", "doctor --no-self-check"]
)
@pytest.mark.parametrize("out", [">/dev/full", ">&-"], ids=["full", "closed"])
def test_a_program_that_cannot_say_anything(arguments, out):
    """The whole program: what is left in its buffers must not fail once more at its end."""
    program = "import sys; from icd_engine.cli import main; sys.exit(main())"
    command = f'exec "$0" -c "$1" {arguments} {out}'
    run = subprocess.run(
        ["sh", "-c", command, sys.executable, program], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 1 and run.stderr.startswith("icd: error: ")
    assert run.stderr.count("\n") == 1


@posix
@pytest.mark.parametrize("state", ["full", "closed"])
def test_a_standard_error_that_takes_nothing(place, loaded, monkeypatch, state):
    """There is nowhere to say so: the command does its work, and only that is on standard output."""
    out = stdout_of(monkeypatch)
    full = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    monkeypatch.setattr(sys, "stderr", None if state == "closed" else full)
    assert main(EDIT) == 0
    assert out.getvalue() == b"cat_edited.png\n"
    assert main(["edit", "dog.png", *PROMPTS]) == 1
    monkeypatch.undo()


# --- warnings -------------------------------------------------------------------------------------


def test_warnings_are_lines_of_their_own_and_quiet_is_quiet(place, loaded, capsys):
    long = ["--source", SOURCE, "--target", "a dog " * 200]
    assert main(["edit", "cat.png", *long]) == 0
    told = capsys.readouterr().err.splitlines()
    warned = [line for line in told if line.startswith("icd: warning: ")]
    assert len(warned) == 1 and "tokens" in warned[0]
    assert not any(".py" in line or "warn(" in line for line in told)
    for quiet in ("-q", "--quiet"):
        assert main(["edit", "cat.png", *long, quiet]) == 0
        assert capsys.readouterr() == ("cat_edited.png\n", "")
