"""refine room."""
