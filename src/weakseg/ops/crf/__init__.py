"""crf room."""
