"""The scalar-decay state-space scan of Mamba-2 (state-space duality, arXiv 2405.21060)."""
