"""Python functions that return a complete, validated run configuration."""
