#!/usr/bin/env bash
# The test suite on another torch, in an environment of its own: scripts/oldest-torch.sh torch==2.6.0
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
wanted=${1:?name the requirement, as in torch==2.6.0}
venv=${OLDEST_VENV:-.venv-oldest}
read -r -a torch_args <<<"${TORCH_ARGS:-}"

[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet ${torch_args[@]+"${torch_args[@]}"} "$wanted"
# The constraint is the torch just installed, so that no extra can lift it.
"$venv/bin/python" -m pip install --quiet -c <(echo "$wanted") -e '.[test]'
"$venv/bin/python" -c 'import torch; print("torch", torch.__version__)'
OMP_NUM_THREADS=1 "$venv/bin/python" -m pytest -n "${WORKERS:-2}" -p no:cacheprovider
