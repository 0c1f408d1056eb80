"""Moves of pictures: turned, shifted, enlarged."""
