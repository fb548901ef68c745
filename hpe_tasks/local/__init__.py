"""What stands in for AWS on this machine: an S3 server, the Lambda emulator, the function's Python."""
