"""onnxruntime: sessions, what it runs in int8, what its kernels compute, and the proof that none can clip."""
