"""What needs two rooms that do not know each other: whole runs from a checkpoint to a report."""
