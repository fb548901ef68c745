"""What a run is asked to do, and what this machine is told: settings, their values as people write them, their help."""
