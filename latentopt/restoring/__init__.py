"""Restoration: pictures of which only a measurement is known."""
