"""Samples in: data sets and their labels, read, checked by the audit, and varied for training; the demo's scenes."""
