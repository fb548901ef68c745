"""Where artifacts are kept: local folders and S3."""
