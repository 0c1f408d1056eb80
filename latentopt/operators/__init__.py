"""Operators: what is measured of an image. One file each."""
