"""The scores that people are shown. Imports nothing, so that a terminal can name them at once."""

SCORES = {"seen": "S", "unseen": "U", "harmonic_mean": "HM", "zsl": "ZSL"}
"""By field, what tables call them."""
