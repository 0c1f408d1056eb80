"""What is measured once per generator, and found again by its fingerprint."""
