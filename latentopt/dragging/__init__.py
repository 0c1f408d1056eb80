"""Dragging points of a picture to where they shall be, live and as files."""
