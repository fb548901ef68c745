"""Steps that turn a pose-estimation checkpoint into a proven int8 ONNX model; usable with and without Airflow."""
