"""Networks whose features measure how alike two images look."""
