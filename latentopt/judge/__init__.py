"""The judge, which reads attributes and identity: for evaluation only."""
