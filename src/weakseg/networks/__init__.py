"""Nets on timm's models: backbones at any output stride, segmentation networks, their weights and learning rates."""
