"""The `converge` command."""
