"""segment room."""
