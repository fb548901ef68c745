"""What is asked of a version before a channel points to it: golden images and the smoke test."""
