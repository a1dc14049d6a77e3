"""The planners of accelerate and transformers: the installed ones are run and watched, none is reproduced."""
