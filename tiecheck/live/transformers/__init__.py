"""What a live model of transformers declares and how it is built; private names of transformers stand here."""
