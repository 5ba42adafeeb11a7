#!/bin/sh
# What needs a GPU, in about eight minutes: the tests, the benchmark, and MNIST. Stops at an error.
#     PYTHON=.venv/bin/python PPL_VAE_DATA=FOLDER sh tests/benchmarks/gpu.sh OUTPUT_FOLDER [--quick]
# With --quick everything runs at toy size, on a CPU too, to see that it works.
set -eu
: "${PYTHON:=python3}" "${PPL_VAE_DATA:=$HOME/.cache/ppl_vae}"
output=$1
quick=${2:-}
here=$(dirname "$0")
mkdir -p "$output"

"$PYTHON" -m pytest -q "$here/../test_cuda.py" > "$output/test_cuda.txt"
"$PYTHON" "$here/bench.py" gpu --output "$output" $quick > "$output/bench.txt"

device=cuda
data=mnist
seeds="0 1 2"
settings="training.num_epochs=60"
if [ -n "$quick" ]; then
    device=cpu
    data=digits
    seeds=0
    settings="training.num_epochs=1 --set evaluation.num_particles=20"
fi
for seed in $seeds; do
    for particles in 1 5 50; do
        run=$output/iwae_${particles}_$seed
        # the settings are several words
        "$PYTHON" -m ppl_vae fit "$here/../../examples/mnist.toml" --quiet --device $device \
            --data $data --data-dir "$PPL_VAE_DATA" --objective IWAE --seed "$seed" \
            --set objective.num_particles=$particles --set training.compile='"cudagraphs"' \
            --set $settings --output "$run" > "$run.txt"
    done
done
tail -n 12 "$output"/*.txt
