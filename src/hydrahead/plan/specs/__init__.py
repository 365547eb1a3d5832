"""One file per mixer: its settings and what it costs. Plain data, no torch."""
