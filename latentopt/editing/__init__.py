"""Editing: directions in the latent space, style mixing and interpolation."""
