"""Recipes: the checked record of a method, which knows no plug-in by name."""
