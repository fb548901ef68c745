"""The `hpe` command."""
