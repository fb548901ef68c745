"""The pose networks that the project builds: layers only, nothing of runs, files or quantization."""
