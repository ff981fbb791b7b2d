"""How weak labels teach: one localisation method a file, behind the interface ``Method``."""
