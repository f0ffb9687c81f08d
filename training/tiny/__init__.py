"""The embedded model, from nothing to the bundle that the package ships; runs from the repository
only."""
