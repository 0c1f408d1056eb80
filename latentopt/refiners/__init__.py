"""Refiners: residuals of features that the latents could not hold, drawn anew for every edit."""

KINDS = ("styleres", "warpres")
FORMS = ("plain", "gated")
READERS = ("stem", "ir-se-50")
