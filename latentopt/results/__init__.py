"""What is kept of an image: its folder, its record, and figures of likeness."""
