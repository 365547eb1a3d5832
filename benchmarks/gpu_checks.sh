#!/usr/bin/env bash
# Everything that needs a GPU, in the order of what it shows; results land in the folder given.
#
#   benchmarks/gpu_checks.sh OUT        on a machine with CUDA, hydrahead and its extra `gpu` importable
#
# Compiling takes most of the time: gated_delta's kernels about three minutes on 16 cores, those of lightning and the
# scan longer (docs/lab-notebook.md); keep TRITON_CACHE_DIR and TILELANG_CACHE_DIR between runs.
set -uo pipefail
out=$(realpath -m "${1:?usage: gpu_checks.sh OUT}")
mkdir -p "$out"
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root/benchmarks/kernels" || exit
python3 verify.py --workers "$(nproc)" --out "$out/verify.json" > "$out/verify.log" 2>&1 &
# The references stand in for fla here: these tests are about the softmax routes and the scorers.
(cd "$root" && HYDRAHEAD_KERNELS=reference HYDRAHEAD_NO_TYPECHECK=1 python3 -m pytest -q -m gpu -p no:randomly \
  tests/conformance/test_gpu.py tests/unit/scoring/test_scoring_run.py > "$out/tests.log" 2>&1) &
wait
tail -n 1 "$out/verify.log" "$out/tests.log"
python3 speed.py --verified "$out/verify.json" --out "$out/speed.json"
cd "$root/benchmarks/long_context" || exit
python3 prefill.py --out "$out/long_context.json"
python3 decode_profile.py > "$out/decode_profile.txt"
cd "$root" || exit
python3 -m hydrahead.cli demo --device cuda --out "$out/demo"
