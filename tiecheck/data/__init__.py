"""Package data: the tie table and the JSON schema, and what makes them."""
