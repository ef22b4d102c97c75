#!/usr/bin/env bash
# What to run first on a machine with a GPU, the most important first, each step bounded in time.
#
#   profiling/gpu_suite.sh FOLDER [PYTHON]
#
# Every step writes FOLDER/NN-NAME.txt, its exit code stands in FOLDER/steps.txt (124: out of time),
# and a step that fails stops no other. Measured rows are appended to profiling/results, which is
# copied to FOLDER/results after each step. fastanf need not be installed; without a simulator only
# the last step fails. STEPS="kernels update" runs only steps whose names begin so.
set -u
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: $0 FOLDER [PYTHON]" >&2
    exit 2
fi
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
python=$(command -v "${2:-python3}") || { echo "$0: no such program: ${2:-python3}" >&2; exit 2; }
case $python in /*) ;; *) python=$PWD/$python ;; esac
number=0
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
unset TRITON_INTERPRET
cd "$root" || exit 2
: >"$out/steps.txt"

# step NAME SECONDS COMMAND...
step() {
    local name=$1 limit=$2 wanted code start
    shift 2
    number=$((number + 1))
    if [ -n "${STEPS:-}" ]; then
        local is_wanted=no
        for wanted in $STEPS; do
            case $name in "$wanted"*) is_wanted=yes ;; esac
        done
        if [ "$is_wanted" = no ]; then return; fi
    fi
    start=$SECONDS
    timeout --kill-after=10 "$limit" "$@" >"$out/$(printf %02d $number)-$name.txt" 2>&1
    code=$?
    mkdir -p "$out/results" && cp "$root"/profiling/results/*.csv "$out/results"
    echo "$name: exit code $code after $((SECONDS - start)) s of $limit" | tee -a "$out/steps.txt"
}

gpu=(--device cuda --backend stand_in)
cheetah=(--policy ANF-SAC --env HalfCheetah-v3 --fake_features 0.9)

step machine 60 bash -c "nvidia-smi; $python -c '
import torch, triton
print(torch.__version__, triton.__version__, torch.cuda.get_device_name())'"
# Without these the figures below mean nothing.
step tests-kernels 300 "$python" -m pytest -x tests/kernels/gpu
step tests-graphs 300 "$python" -m pytest tests/gpu/test_cuda_graphs.py tests/gpu/test_cuda_kernels.py
# How many updates a second, by lanes: the question that the GPU path is for.
step update 240 "$python" profiling/bench_update.py "${gpu[@]}" "${cheetah[@]}" \
    --lanes 1 8 64 256 --rounds 5 --round_s 1 --record
# Where an update's time goes, and how long the GPU waits between its kernels.
step profile-64 150 "$python" profiling/profile_update.py "${gpu[@]}" "${cheetah[@]}" \
    --lanes 64 --seconds 2 --record --trace "$out/steps-64.json.gz"
step profile-1 150 "$python" profiling/profile_update.py "${gpu[@]}" "${cheetah[@]}" \
    --lanes 1 --seconds 2 --record
# Each kernel alone against the peaks of this machine.
step kernels 240 "$python" profiling/bench_kernels.py --device cuda --record \
    --impl triton triton-float32 --noise_fraction 0.9 --sparsity 0.8 --lanes 1 64 256 \
    --rounds 3 --round_s 0.1
step kernels-products 150 "$python" profiling/bench_kernels.py --device cuda --record \
    --op hidden_linear hidden_linear_weight_grad hidden_linear_input_grad \
    --impl triton triton-float32 reference reference-tf32 --sparsity 0 --lanes 1 64 256 \
    --batch_size 100 256 --rounds 3 --round_s 0.1
step update-batch 240 "$python" profiling/bench_update.py "${gpu[@]}" "${cheetah[@]}" \
    --batch_size 256 --lanes 1 8 64 256 --rounds 5 --round_s 1 --record
step update-float32 240 "$python" profiling/bench_update.py "${gpu[@]}" "${cheetah[@]}" \
    --matmul_precision float32 --lanes 1 8 64 256 --rounds 3 --round_s 1 --record
step update-humanoid 240 "$python" profiling/bench_update.py "${gpu[@]}" --policy ANF-SAC \
    --env Humanoid-v3 --fake_features 0.9 --lanes 1 8 64 --rounds 3 --round_s 1 --record
step update-td3 240 "$python" profiling/bench_update.py "${gpu[@]}" --policy ANF-TD3 \
    --env HalfCheetah-v3 --fake_features 0.9 --lanes 1 64 --rounds 3 --round_s 1 --record
step update-dense 240 "$python" profiling/bench_update.py "${gpu[@]}" --policy SAC \
    --env HalfCheetah-v3 --fake_features 0.9 --lanes 1 64 --rounds 3 --round_s 1 --record
step kernels-reference 240 "$python" profiling/bench_kernels.py --device cuda --record \
    --impl reference --noise_fraction 0.9 --sparsity 0.8 --lanes 1 64 --rounds 3 --round_s 0.1
step tests-gpu 300 "$python" -m pytest tests/gpu
# A whole training needs the simulator.
step train 300 "$python" profiling/bench_train.py --device cuda --lanes 8 64 --rounds 1 --record \
    --fake_features 0.9
