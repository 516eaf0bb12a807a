#!/bin/sh
# From a folder with your data in COCO's format to an int8 file that runs, in this folder:
#
#   OWN_DATA=/data/cells sh own_data.sh configs/own_blendmask.yaml output/cells photo.jpg
#   OWN_DATA=/data/cells sh own_data.sh configs/own_mask_rcnn.yaml output/cells photo.jpg
#   OWN_DATA=/data/cells sh own_data.sh configs/own_retinanet.yaml output/cells photo.jpg
#
# own_data.py says how the folder looks. What follows the picture are KEY VALUE pairs of the config.
set -eu
CONFIG=$1 OUTPUT=$2 PICTURE=$3
shift 3

# The dense model.
python train_net.py --config-file "$CONFIG" OUTPUT_DIR "$OUTPUT/dense" "$@"

# Half of its FLOPs, on its own training images.
blendprune prune --import own_data --import own_backbone \
    --config-file "$OUTPUT/dense/config.yaml" --max-flops 0.5 --output "$OUTPUT/pruned" \
    MODEL.WEIGHTS "$OUTPUT/dense/model_final.pth"

# Fine-tune; model_final.pth is the best model that was evaluated.
python train_net.py --config-file "$OUTPUT/pruned/config.yaml"

blendprune export --import own_data --import own_backbone \
    --config-file "$OUTPUT/pruned/config.yaml" \
    --weights "$OUTPUT/pruned/finetune/model_final.pth" --output "$OUTPUT/model.onnx" --int8

# Draws numbers of classes; --names NAME NAME … draws names.
python detect.py "$OUTPUT/model.onnx" "$PICTURE" --output "$OUTPUT/detections.png"
