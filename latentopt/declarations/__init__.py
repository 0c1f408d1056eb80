"""What a plug-in says of itself in its source text, read without importing it (or torch)."""
