"""Pixel normalization as an object that can be pickled and deep-copied."""

import torch


class Normalizer:
    """Subtract a mean and divide by a standard deviation, per channel.

    Upstream uses a lambda, with which a model cannot be pickled.

    Args:
        pixel_mean (sequence of float): one value per image channel, any number of channels.
        pixel_std (sequence of float): one value per image channel.
        device (torch.device or str): device of the images.
    """

    def __init__(self, pixel_mean, pixel_std, device="cpu"):
        self.mean = torch.tensor(pixel_mean, dtype=torch.float32, device=device).view(-1, 1, 1)
        self.std = torch.tensor(pixel_std, dtype=torch.float32, device=device).view(-1, 1, 1)

    def __call__(self, x):
        """Normalize an image of shape (C, H, W) or (N, C, H, W), in the units of the mean."""
        return (x - self.mean) / self.std

    def __repr__(self):
        return f"Normalizer(mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()})"
