"""Distillation of an own Stable Diffusion model into an iCD bundle; runs from the repository only."""
