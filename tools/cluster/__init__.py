"""The cluster that docker/cluster.yaml describes: as a compose file, and as processes of this machine."""
