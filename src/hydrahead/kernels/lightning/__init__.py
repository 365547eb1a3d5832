"""Linear attention with a fixed decay per head (arXiv 2401.04658)."""
