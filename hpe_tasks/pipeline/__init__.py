"""The pipeline: its steps, and the rules of a run that they share."""
