"""Making the embedded model: a procedural world and the stages trained on it; runs from the
repository only."""
