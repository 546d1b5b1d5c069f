#!/usr/bin/env bash
# The four stages on 5,000 CIFAR-10 images with a ResNet-18 of width 16: what results/cifar10-small/ was measured with.
#   results/cifar10-small/commands.sh DATA_DIR OUT      DATA_DIR holds the four .npy arrays
set -euo pipefail
cd "$(dirname "$0")/../.."
data=(--dataset cifar10 --data-dir "$1" --holdout 500)
train=(--width 16 --batch-size 125 --lr 0.1)
python=${PYTHON:-.venv/bin/python}

"$python" train_standard.py "${data[@]}" "${train[@]}" --epochs 12 --model-dir "$2/standard"
"$python" train_MI_estimator.py "${data[@]}" --pre-target "$2/standard/best_model.pth" --epochs 4 --batch-size 125 --n-units 256 \
  --model-dir "$2/estimators"
for alpha in 5 0.1; do
  "$python" train_MIAT.py "${data[@]}" "${train[@]}" --estimator-dir "$2/estimators" --epochs 12 --alpha $alpha --model-dir "$2/namid-alpha$alpha"
done
for run in standard namid-alpha5 namid-alpha0.1; do
  "$python" test_comparison.py --model-dir "$2/$run" --attacks none,fgsm,pgd-40
done
