"""weakseg."""
