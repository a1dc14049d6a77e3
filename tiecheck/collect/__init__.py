"""Collectors: they know formats and libraries, make facts, and never judge."""
