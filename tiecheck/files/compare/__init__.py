"""Tensors held against each other, and how far they lie apart: byte by byte, by `pread`, in bounded memory."""
