"""The one optimiser loop; it knows no files."""
