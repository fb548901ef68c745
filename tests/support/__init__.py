"""What the tests of several folders share: makers of inputs, networks and records, servers, other processors."""
