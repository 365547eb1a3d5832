"""The gated delta rule (arXiv 2412.06464)."""
