"""Faces in photographs: found, aligned as FFHQ's, and put back where they were."""
