"""Training targets of FCOS for each location (arXiv:1904.01355, sections 3.1 and 3.2)."""

import torch

# Larger than any area or distance in an image.
INF = 1e8


def level_locations(height, width, stride, device):
    """List the image positions at the centres of a level's cells, row by row.

    Args:
        height (int): rows of the level.
        width (int): columns of the level.
        stride (int): pixels per cell.
        device (torch.device): where the result goes.

    Returns:
        Tensor: (height * width, 2), x and y in pixels.
    """
    x = torch.arange(width, dtype=torch.float32, device=device) * stride + stride // 2
    y = torch.arange(height, dtype=torch.float32, device=device) * stride + stride // 2
    return torch.stack([x.repeat(height), y.repeat_interleave(width)], dim=1)


class FCOSTargets:
    """Assigns at most one ground-truth box to each location.

    A location is positive for a box if it lies in the box and its level covers the distance to the
    box's farthest edge. With ``center_sample`` it must also lie within ``radius`` strides of the
    box's centre. If several boxes qualify, the smallest wins.

    Args:
        num_classes (int): foreground classes; this number is also the background's label.
        strides (list[int]): pixels per cell of each level.
        sizes_of_interest (list[int]): bounds between levels, in pixels.
        center_sample (bool): use only locations near a box's centre as positives.
        radius (float): largest distance from the centre, in strides.
    """

    def __init__(self, num_classes, strides, sizes_of_interest, center_sample, radius):
        self.num_classes = num_classes
        self.strides = strides
        bounds = [-1, *sizes_of_interest, INF]
        self.size_ranges = list(zip(bounds[:-1], bounds[1:], strict=True))
        self.center_sample = center_sample
        self.radius = radius

    def __call__(self, locations, gt_instances):
        """Compute the targets of a batch.

        Args:
            locations (list[Tensor]): (K_l, 2) per level.
            gt_instances (list[Instances]): one per image, with ``gt_boxes`` and ``gt_classes``.

        Returns:
            dict[str, Tensor]: rows ordered by level, then image, then location: ``labels``;
            ``gt_inds``, indices into the boxes of the whole batch; ``im_inds``;
            ``fpn_levels``; ``reg_targets`` (n, 4), in strides; ``locations`` (n, 2), in pixels.
        """
        counts = [len(level) for level in locations]
        points = torch.cat(locations)
        per_level = torch.tensor(counts, device=points.device)
        strides = points.new_tensor(self.strides[: len(counts)]).repeat_interleave(per_level)
        ranges = points.new_tensor(self.size_ranges[: len(counts)])
        ranges = ranges.repeat_interleave(per_level, dim=0)

        labels, gt_inds, distances = [], [], []
        seen = 0
        for instances in gt_instances:
            found = self._assign(points, strides, ranges, instances)
            labels.append(found[0])
            gt_inds.append(found[1] + seen)
            distances.append(found[2] / strides[:, None])
            seen += len(instances)

        images = len(gt_instances)
        levels = torch.arange(len(counts), device=points.device).repeat_interleave(per_level)
        image_ids = torch.arange(images, device=points.device)
        fields = {
            "labels": torch.stack(labels),
            "gt_inds": torch.stack(gt_inds),
            "im_inds": image_ids[:, None].expand(images, len(points)),
            "fpn_levels": levels[None].expand(images, len(points)),
            "reg_targets": torch.stack(distances),
            "locations": points[None].expand(images, len(points), 2),
        }
        return {name: _level_first(value, counts) for name, value in fields.items()}

    def _assign(self, points, strides, ranges, instances):
        boxes = instances.gt_boxes.tensor
        classes = instances.gt_classes
        if len(boxes) == 0:
            background = classes.new_full((len(points),), self.num_classes)
            return background, torch.full_like(background, -1), points.new_zeros(len(points), 4)

        # K locations by G boxes; left, top, right, bottom.
        distances = _distances(points, boxes[None])
        if self.center_sample:
            centres = _centres(instances)
            reach = (strides * self.radius)[:, None, None]
            low = torch.maximum(centres[None] - reach, boxes[None, :, :2])
            high = torch.minimum(centres[None] + reach, boxes[None, :, 2:])
            inside = _distances(points, torch.cat([low, high], dim=2)).amin(dim=2) > 0
        else:
            inside = distances.amin(dim=2) > 0
        farthest = distances.amax(dim=2)
        in_charge = (farthest >= ranges[:, :1]) & (farthest <= ranges[:, 1:])

        areas = instances.gt_boxes.area()[None].expand(len(points), -1)
        smallest, winner = areas.masked_fill(~(inside & in_charge), INF).min(dim=1)
        labels = classes[winner].masked_fill(smallest == INF, self.num_classes)
        winner_distances = distances[torch.arange(len(points), device=points.device), winner]
        return labels, winner, winner_distances


def _distances(points, boxes):
    # From each of K points to the edges of its G boxes; negative outside. Boxes may broadcast.
    points = points[:, None]
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def _centres(instances):
    # The centre of mass if there are full-image masks, otherwise the middle of the box.
    if not instances.has("gt_bitmasks_full"):
        boxes = instances.gt_boxes.tensor
        return (boxes[:, :2] + boxes[:, 2:]) * 0.5
    masks = instances.gt_bitmasks_full.to(dtype=torch.float32)
    rows = torch.arange(masks.shape[1], dtype=torch.float32, device=masks.device)
    columns = torch.arange(masks.shape[2], dtype=torch.float32, device=masks.device)
    mass = masks.sum(dim=(1, 2)).clamp(min=1e-6)
    x = (masks.sum(dim=1) * columns).sum(dim=1) / mass
    y = (masks.sum(dim=2) * rows).sum(dim=1) / mass
    return torch.stack([x, y], dim=1)


def _level_first(value, counts):
    return torch.cat([level.flatten(0, 1) for level in value.split(counts, dim=1)])
