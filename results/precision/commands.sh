#!/usr/bin/env bash
# bf16 against float32 training on the same seeds, on handwritten digits: what results/precision/ was measured with.
#   results/precision/commands.sh OUT
set -euo pipefail
cd "$(dirname "$0")/../.."
data=(--dataset digits --holdout 200 --epsilon 0.12 --eval-steps 10)
train=(--width 16 --batch-size 125 --lr 0.1 --epochs 22)
python=${PYTHON:-.venv/bin/python}

"$python" train_standard.py "${data[@]}" "${train[@]}" --precision fp32 --seed 1 --model-dir "$1/standard-fp32-1"
"$python" train_MI_estimator.py "${data[@]}" --pre-target "$1/standard-fp32-1/best_model.pth" --n-units 256 --epochs 5 --batch-size 125 \
  --precision fp32 --model-dir "$1/estimators"
for seed in 1 2 3; do
  for precision in fp32 bf16; do
    "$python" train_standard.py "${data[@]}" "${train[@]}" --precision $precision --seed $seed --model-dir "$1/standard-$precision-$seed"
    "$python" train_MIAT.py "${data[@]}" "${train[@]}" --precision $precision --seed $seed --alpha 0.1 --estimator-dir "$1/estimators" \
      --model-dir "$1/namid-$precision-$seed"
    for run in standard namid; do
      "$python" test_comparison.py --model-dir "$1/$run-$precision-$seed" --epsilon 0.12 --attacks none,pgd-40
    done
  done
done
