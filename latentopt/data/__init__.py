"""Image sources: the procedural portraits, out-of-domain drawings and folders of pictures."""
