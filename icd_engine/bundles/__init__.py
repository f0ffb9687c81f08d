"""Model folders: reading, checking and writing them, and making one from published checkpoints."""
