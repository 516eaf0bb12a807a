#!/bin/sh
# Move a hand-patched fork over: its checkpoints have a pickled module as "struct".
#
#   sh from_fork.sh fork/model_pruned.pth configs/own_blendmask.yaml output/from_fork
#
# Unpickling executes code from the file, so `convert` wants to be told that you trust it. The
# fork's classes need not be importable. Afterwards no file needs that trust again, and the fork's
# changes to detectron2 and AdelaiDet can go: `blendprune.apply()` in the script replaces them.
set -eu
FORK=$1 CONFIG=$2 OUTPUT=$3
shift 3

mkdir -p "$OUTPUT"
blendprune convert --allow-pickle "$FORK" "$OUTPUT/model_pruned.pth"

# MODEL.FINETUNE True: the model takes its widths from the file, as in the fork.
python train_net.py --config-file "$CONFIG" \
    MODEL.FINETUNE True MODEL.WEIGHTS "$OUTPUT/model_pruned.pth" OUTPUT_DIR "$OUTPUT/finetune" "$@"

# The result carries its widths and its config, as plain data.
blendprune info "$OUTPUT/finetune/model_final.pth"
