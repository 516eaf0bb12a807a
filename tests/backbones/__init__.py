"""Backbones of torchvision and timm as detectron2 backbones, pruned and put to use."""
