"""Dataset mapper for BlendMask: detectron2's, plus labels for the basis module's loss."""

import copy

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

# Largest rotation in degrees, in both directions, if INPUT.IS_ROTATE is True.
ROTATION = 30


class MapperOfAnyImage(DatasetMapper):
    """detectron2's mapper; images without instances work, too.

    Args:
        cfg (CfgNode): a detectron2 config.
        is_train (bool): whether to augment images and to return labels.
    """

    def _transform_annotations(self, dataset_dict, transforms, image_shape):
        if any(a.get("iscrowd", 0) == 0 for a in dataset_dict["annotations"]):
            super()._transform_annotations(dataset_dict, transforms, image_shape)
            return
        # detectron2 recomputes boxes from masks, and fails if there are no instances.
        dataset_dict.pop("annotations")
        dataset_dict["instances"] = utils.annotations_to_instances([], image_shape)


class DatasetMapperWithBasis(MapperOfAnyImage):
    """Map a dataset dict to the model's input; adds ``basis_sem`` in training.

    Besides detectron2's keys it reads ``INPUT.HFLIP_TRAIN``, ``INPUT.CROP.CROP_INSTANCE``,
    ``INPUT.IS_ROTATE`` and ``MODEL.BOXINST.ENABLED``. With ``MODEL.BASIS_MODULE.LOSS_ON`` it draws
    the semantic labels of the things from the instance annotations, so no label files are needed.

    Args:
        cfg (CfgNode): a config with the keys of ``add_blendmask_config``.
        is_train (bool): whether to augment images and to return labels.
    """

    def __init__(self, cfg, is_train=True):
        super().__init__(cfg, is_train)
        self.basis_loss_on = cfg.MODEL.BASIS_MODULE.LOSS_ON

    @classmethod
    def from_config(cls, cfg, is_train=True):
        """Translate the config into detectron2's arguments."""
        settings = super().from_config(cfg, is_train)
        if not is_train:
            return settings
        augmentations = settings["augmentations"]
        if not cfg.INPUT.HFLIP_TRAIN:
            augmentations[:] = [a for a in augmentations if not _mirrors(a)]
        if cfg.INPUT.IS_ROTATE:
            after_crop = 1 if cfg.INPUT.CROP.ENABLED else 0
            rotation = T.RandomRotation([-ROTATION, ROTATION], sample_style="range")
            augmentations.insert(after_crop, rotation)
        if cfg.INPUT.CROP.ENABLED:
            crop = cfg.INPUT.CROP
            augmentations[0] = RandomCropWithInstance(crop.TYPE, crop.SIZE, crop.CROP_INSTANCE)
        if cfg.MODEL.BOXINST.ENABLED:
            settings["use_instance_mask"] = False
            settings["recompute_boxes"] = False
        return settings

    def __call__(self, dataset_dict):
        """Read one image and transform it with its annotations.

        Args:
            dataset_dict (dict): one image in detectron2's format; it is not modified.

        Returns:
            dict: ``image`` (C, H, W). In training also ``instances`` and, with LOSS_ON,
            ``basis_sem`` (H, W), int64: 0 for background, class index + 1 elsewhere. With a
            semantic annotation also ``sem_seg`` (H, W).
        """
        dataset_dict = copy.deepcopy(dataset_dict)
        image = utils.read_image(dataset_dict["file_name"], format=self.image_format)
        utils.check_image_size(dataset_dict, image)
        original_size = image.shape[:2]
        annotations = dataset_dict.get("annotations", [])

        sem_seg = None
        if "sem_seg_file_name" in dataset_dict:
            sem_seg = utils.read_image(dataset_dict.pop("sem_seg_file_name"), "L").squeeze(2)
        aug_input = T.AugInput(image, boxes=_boxes(annotations), sem_seg=sem_seg)
        transforms = self.augmentations(aug_input)
        image, sem_seg = aug_input.image, aug_input.sem_seg

        dataset_dict["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if sem_seg is not None:
            dataset_dict["sem_seg"] = torch.as_tensor(sem_seg.astype("int64"))
        if self.proposal_topk is not None:
            utils.transform_proposals(
                dataset_dict, image.shape[:2], transforms, proposal_topk=self.proposal_topk
            )
        if not self.is_train:
            dataset_dict.pop("annotations", None)
            return dataset_dict

        if self.basis_loss_on:
            # Must come first: transforming the annotations consumes them and drops crowds.
            painted = paint_classes(annotations, original_size)
            dataset_dict["basis_sem"] = torch.as_tensor(_transform_labels(painted, transforms))
        if "annotations" in dataset_dict:
            self._transform_annotations(dataset_dict, transforms, image.shape[:2])
        return dataset_dict


class RandomCropWithInstance(T.RandomCrop):
    """A random crop that contains the centre of a randomly chosen instance.

    Args:
        crop_type (str): as for detectron2's ``RandomCrop``.
        crop_size (tuple[float, float]): as for detectron2's ``RandomCrop``.
        crop_instance (bool): whether the crop may cut through instances; if not, it grows
            until it cuts none.
    """

    def __init__(self, crop_type, crop_size, crop_instance=True):
        super().__init__(crop_type, crop_size)
        self.crop_instance = crop_instance
        self.input_args = ("image", "boxes")

    def get_transform(self, image, boxes):
        """Draw a crop.

        Args:
            image (ndarray): (H, W, C).
            boxes (ndarray): (n, 4), corners in pixels; if n = 0, the crop is anywhere.

        Returns:
            CropTransform: the crop, inside the image.
        """
        if len(boxes) == 0:
            return super().get_transform(image)
        limit = np.array([image.shape[1], image.shape[0]])
        boxes = np.clip(np.asarray(boxes, dtype=float).reshape(-1, 2, 2), 0, limit)
        size = np.array(self.get_crop_size(image.shape[:2]))[::-1]

        centre = boxes[np.random.randint(len(boxes))].mean(axis=0)
        lowest = np.maximum(np.ceil(centre).astype(int) - size, 0)
        highest = np.minimum(np.floor(centre).astype(int), limit - size)
        start = np.random.randint(lowest, np.maximum(highest, lowest) + 1)
        end = start + size
        if not self.crop_instance:
            start, end = _grow(start, end, boxes)
        (x, y), (width, height) = start, end - start
        return T.CropTransform(int(x), int(y), int(width), int(height))


def _grow(start, end, boxes):
    # Growing over one box may touch the next one, so go on until nothing changes.
    while True:
        touched = boxes[((boxes[:, 0] < end) & (boxes[:, 1] > start)).all(axis=1)]
        if len(touched) == 0:
            return start, end
        low = np.minimum(start, np.floor(touched[:, 0].min(axis=0)).astype(int))
        high = np.maximum(end, np.ceil(touched[:, 1].max(axis=0)).astype(int))
        if (low == start).all() and (high == end).all():
            return start, end
        start, end = low, high


def paint_classes(annotations, size):
    """Draw the masks of an image's annotations, crowds included, into one label map.

    Later annotations cover earlier ones.

    Args:
        annotations (list[dict]): in detectron2's format, with polygons or RLE in
            ``segmentation``; an annotation without it is skipped.
        size (tuple[int, int]): height and width of the untransformed image.

    Returns:
        ndarray: (H, W), 0 for background, ``category_id`` + 1 elsewhere; uint8 if the labels fit,
        otherwise uint16.
    """
    highest = max((a["category_id"] for a in annotations), default=0) + 1
    painted = np.zeros(size, dtype=np.uint8 if highest <= 255 else np.uint16)
    for annotation in annotations:
        if annotation.get("segmentation"):
            mask = _mask(annotation["segmentation"], size)
            painted[mask] = annotation["category_id"] + 1
    return painted


def _mask(segmentation, size):
    if isinstance(segmentation, list):
        rle = mask_util.merge(mask_util.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        rle = mask_util.frPyObjects(segmentation, *size)
    else:
        rle = segmentation
    return mask_util.decode(rle).astype(bool)


def _transform_labels(labels, transforms):
    # Byte by byte: transforms interpolate labels of every type but uint8.
    result = transforms.apply_segmentation((labels & 255).astype(np.uint8)).astype(np.int64)
    if labels.dtype != np.uint8:
        high = transforms.apply_segmentation((labels >> 8).astype(np.uint8))
        result = result + 256 * high.astype(np.int64)
    return result


def _boxes(annotations):
    corners = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    return np.asarray(corners, dtype=float).reshape(-1, 4)


def _mirrors(augmentation):
    return isinstance(augmentation, T.RandomFlip) and augmentation.horizontal
