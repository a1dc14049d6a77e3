"""Rules on what operations do to ties: what a guard saw, and what the operations of a life showed."""
