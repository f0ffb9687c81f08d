"""Model folders: reading, checking and writing them, and making one from published checkpoints."""

from icd_engine.bundles.bundle import Bundle, read_bundle, read_weights, write_bundle

__all__ = ["Bundle", "read_bundle", "read_weights", "write_bundle"]
