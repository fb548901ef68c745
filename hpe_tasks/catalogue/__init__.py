"""What there is: models with their versions and channels, runs, and what two of them differ in."""
