"""Whether a quantized model may be published: its limits, its floor, and published figures beside a run's own."""
