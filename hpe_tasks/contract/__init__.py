"""What the publisher of a version and the Lambda function must agree on; it ships in the function."""
