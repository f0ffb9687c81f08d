"""The small bundle as a site."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.export.web.browser import HAS_RUNTIME


@pytest.fixture(scope="session")
def small_site(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by the session: copy it before changing files. With the runtime where that is at hand."""
    pytest.importorskip("onnxscript")
    from export.web_site import export_site
    from icd_engine.bundles.bundle import read_bundle

    out = tmp_path_factory.mktemp("sites") / "small"
    export_site(read_bundle(small_bundle), out, with_runtime=HAS_RUNTIME)
    return out
