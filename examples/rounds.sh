#!/bin/sh
# Prune and fine-tune in turns: each round keeps 0.7 of the FLOPs that are left, so three keep 0.34.
#
#   sh rounds.sh output/dense output/rounds 3 0.7
#
# The first folder has the dense model's config.yaml and model_final.pth. What follows the fraction
# goes to `blendprune prune`: --import MODULE, --level X, KEY VALUE pairs of the config.
set -eu
CONFIG=$1/config.yaml WEIGHTS=$1/model_final.pth
OUTPUT=$2 ROUNDS=$3 KEPT=$4
shift 4

for ROUND in $(seq "$ROUNDS"); do
    blendprune prune --config-file "$CONFIG" --max-flops "$KEPT" --output "$OUTPUT/$ROUND" \
        --import own_data --import own_backbone "$@" MODEL.WEIGHTS "$WEIGHTS"
    python train_net.py --config-file "$OUTPUT/$ROUND/config.yaml"
    # The next round prunes what this one has fine-tuned. All have the schedule of the first.
    CONFIG=$OUTPUT/$ROUND/config.yaml WEIGHTS=$OUTPUT/$ROUND/finetune/model_final.pth
done

blendprune info "$WEIGHTS"
