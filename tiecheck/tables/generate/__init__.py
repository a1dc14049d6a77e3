"""Make the tables: the tie table from transformers itself, the engine tables from their source."""
