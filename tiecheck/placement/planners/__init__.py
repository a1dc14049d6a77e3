"""The planners of accelerate and transformers."""
