#!/usr/bin/env bash
# Make .venv and install this checkout in it with the extras named as arguments: scripts/bootstrap.sh test lint
#
# Runs once: .venv/.bootstrapped keeps the hash of pyproject.toml and constraints.txt with the extras installed
# under it, so that a second call returns at once and a changed requirement installs again.
#
#   PYTHON      the interpreter to build .venv with (default: the first of python3, python3.13 … that is ≥ 3.11)
#   VENV        where the environment goes (default: .venv)
#   TORCH_ARGS  further pip options for torch alone, such as the index of PyTorch's CPU builds
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${VENV:-.venv}
stamp=$venv/.bootstrapped

fail() { printf 'bootstrap: %s\n' "$1" >&2; exit 1; }

recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
  if [ -n "${PYTHON:-}" ]; then
    recent "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.11 or later: name one that is, as in 'make test PYTHON=python3.12'"
    echo "$PYTHON"
    return
  fi
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11; do
    if recent "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  fail "needs Python 3.11 or later, found $(python3 --version 2>&1 || echo none): install one, or name it, as in 'make test PYTHON=/path/to/python3.12'"
}

has_gpu() { command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1; }

sees_cuda() { "$1" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' >/dev/null 2>&1; }

wanted=("$@")
[ ${#wanted[@]} -gt 0 ] || fail "name the extras to install: demo, test, lint, docs"
hash=$(cat pyproject.toml constraints.txt | { sha256sum 2>/dev/null || shasum -a 256; } | cut -d' ' -f1)

installed=" "
if [ -f "$stamp" ] && [ "$(head -n 1 "$stamp")" = "$hash" ]; then
  installed=" $(tail -n +2 "$stamp" | tr '\n' ' ') "
fi
missing=()
for extra in "${wanted[@]}"; do
  [[ $installed == *" $extra "* ]] || missing+=("$extra")
done
if [ ${#missing[@]} -eq 0 ] && "$venv/bin/python" -c '' 2>/dev/null; then
  exit 0
fi

if ! "$venv/bin/python" -c '' 2>/dev/null; then
  python=$(find_python)
  flags=(--clear)
  # A machine with a GPU often brings its own CUDA build of torch: see it from inside, never replace it.
  if has_gpu && sees_cuda "$python"; then flags+=(--system-site-packages); fi
  echo "bootstrap: making $venv with $("$python" --version)"
  "$python" -m venv "${flags[@]}" "$venv" ||
    fail "could not make $venv with $python: on Debian and Ubuntu, install python3-venv first"
  installed=" "
  missing=("${wanted[@]}")
fi

pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
read -r -a torch_args <<<"${TORCH_ARGS:-}"
list=$(IFS=,; echo "${missing[*]}")
echo "bootstrap: installing surgecollapse[$list] in $venv (the first time takes minutes)"
if has_gpu; then
  "${pip[@]}" ${torch_args[@]+"${torch_args[@]}"} 'torch>=2.6'
  "${pip[@]}" -e ".[$list]"
else
  # Alone and first: with the pinned version settled, nothing below can draw a CUDA build in.
  "${pip[@]}" ${torch_args[@]+"${torch_args[@]}"} -c constraints.txt torch
  "${pip[@]}" -c constraints.txt -e ".[$list]"
fi

{
  echo "$hash"
  # The test extra contains the demo's.
  { tr ' ' '\n' <<<"$installed"; printf '%s\n' "${missing[@]}"; } | sed 's/^test$/test\ndemo/' | sed '/^$/d' | sort -u
} >"$stamp"
