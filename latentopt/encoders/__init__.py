"""Encoders: pictures to latent codes without optimisation."""

KINDS = ("psp", "e4e", "restyle-psp", "restyle-e4e", "w")
