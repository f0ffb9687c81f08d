"""The page's modules are checked by TypeScript's compiler, from their JSDoc types."""

import shutil
import subprocess
from pathlib import Path

import pytest

TSC = shutil.which("tsc")


@pytest.mark.long
@pytest.mark.skipif(TSC is None, reason="no tsc is installed (npm install --global typescript)")
def test_types():
    assert TSC is not None
    config = Path(__file__).with_name("tsconfig.json")
    done = subprocess.run([TSC, "-p", str(config)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
