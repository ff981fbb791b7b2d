"""Masks to a network: the segmenter that is left in the end, and the losses that train it."""
