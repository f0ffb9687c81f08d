"""Model folders: reading, checking and writing them, and making one from published checkpoints."""

from icd_engine.bundles.bundle import Bundle, read_bundle, write_bundle
from icd_engine.bundles.files import read_weights

__all__ = ["Bundle", "read_bundle", "read_weights", "write_bundle"]
