#!/usr/bin/env bash
# Everything that is to be known of dtr on an NVIDIA GPU, in one go; figures go into the directory named, or `gpu/`.
#     benches/gpu.sh results/
# Needs CUDA's runtime libraries; for the peers, Python with torch and flash-linear-attention (DTR_PYTHON, or python3), else they are left out and said so.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:-gpu}" && cd "${1:-gpu}" && pwd)
python=${DTR_PYTHON:-python3}
failed=0
part() {
    local name=$1
    shift
    printf '\n== %s: %s\n' "$name" "$*"
    "$@" 2>&1 | tee "$out/$name.txt"
    [ "${PIPESTATUS[0]}" -eq 0 ] || { echo "FAILED: $name" | tee -a "$out/failed.txt"; failed=1; }
}
rm -f "$out/failed.txt"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$out/card.txt"
# The most memory that was taken meanwhile, by the second.
nvidia-smi --query-gpu=timestamp,memory.used --format=csv,noheader -l 1 > "$out/memory.csv" &
watch=$!
trap 'kill $watch 2>/dev/null' EXIT

throughput=(cargo xtask bench --bench throughput --no-default-features --features cuda,autotune -- --device cuda)
part suite cargo xtask portability --devices cuda,cuda:bf16,cuda:f16 --output "$out/portability.json"
part kernels cargo test --package dtr-attention --test cubecl --features flex,cuda
part quickstart cargo xtask run configs/quickstart.toml --device cuda --runs "$out/runs"
part mixers "${throughput[@]}" --dtype bf16 --shapes tiny --recurrence 8192,32768 --output "$out/mixers.json"
if "$python" -c 'import torch, fla; assert torch.cuda.is_available()' 2>/dev/null; then
    part peers "$python" benches/pytorch/throughput.py --json "$out/peers.json"
else
    echo "NOT RUN: peers, $python has no torch with CUDA and flash-linear-attention" | tee -a "$out/failed.txt"
    failed=1
fi
for shape in qwen2.5-1.5b llama-3.2-3b; do
    part "$shape" "${throughput[@]}" --dtype bf16 --shapes $shape --length 1024 --contexts 2048,8192,32768,131072 --output "$out/$shape.json"
done
exit $failed
