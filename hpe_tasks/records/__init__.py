"""What steps produce: the records that are stored in the workspace and cross every boundary."""
