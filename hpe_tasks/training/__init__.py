"""Training of pose networks. `config` and this file are light: the DAG and `hpe --help` import them."""
