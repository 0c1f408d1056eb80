"""Many images through a recipe, resumable at any moment."""
