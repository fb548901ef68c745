"""The S3 registry that published models are served from: immutable versions, and channels that point to them."""
