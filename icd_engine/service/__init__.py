"""The engine for many: manifests of pictures edited by workers on one machine or a cluster."""
