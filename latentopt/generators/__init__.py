"""Generator networks and the discriminator, without any file format."""
