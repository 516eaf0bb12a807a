"""A small ViTDet with Mask R-CNN heads on your own data (own_data.py), as a LazyConfig."""

import own_data  # noqa: F401  (registers the data of $OWN_DATA)
from detectron2 import model_zoo

SIZE = 512  # of the images, in pixels
CLASSES = 10  # of your data

model = model_zoo.get_config("common/models/mask_rcnn_vitdet.py").model
model.backbone.square_pad = SIZE
model.backbone.net.update(img_size=SIZE, embed_dim=192, depth=6, num_heads=3)
model.backbone.net.update(window_size=8, window_block_indexes=[0, 1, 3, 4], drop_path_rate=0.0)
model.roi_heads.num_classes = CLASSES

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
dataloader.train.dataset.names = "own_train"
dataloader.train.total_batch_size = 8
dataloader.train.mapper.image_format = "RGB"
dataloader.train.mapper.instance_mask_format = "bitmask"
dataloader.train.mapper.augmentations[0].update(short_edge_length=(SIZE // 2, SIZE), max_size=SIZE)
dataloader.test.dataset.names = "own_test"
dataloader.test.mapper.augmentations[0].update(short_edge_length=SIZE, max_size=SIZE)

optimizer = model_zoo.get_config("common/optim.py").AdamW
train = model_zoo.get_config("common/train.py").train
train.update(max_iter=9000, output_dir="output/own_vitdet")
