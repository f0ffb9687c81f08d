"""What a command of `icd` wrote: files, pixels, one line of refusal."""

from pathlib import Path

import numpy as np
from PIL import Image

from icd_engine.cli import main

ROOT = Path(__file__).resolve().parents[3]
SOURCE, TARGET, OTHER = "a cat sits on the mat", "a dog sits on the mat", "a cat sits on the sofa"
GENERATED, EDITED = (
    b"digitalsourcetype/trainedAlgorithmicMedia",
    b"digitalsourcetype/compositeWithTrainedAlgorithmicMedia",
)


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
