"""Warnings before the work: pictures that do not suit the generator."""
