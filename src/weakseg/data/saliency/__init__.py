"""Saliency maps: where an image catches the eye, whatever it is that does."""
