"""One file per mixer: parameters, state, and how it starts from a teacher head."""
