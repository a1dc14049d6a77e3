"""safetensors headers."""
