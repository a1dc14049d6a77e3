"""Declarations of a live model of transformers, and its building; private names of transformers stand here."""
