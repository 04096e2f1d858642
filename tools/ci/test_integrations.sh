#!/usr/bin/env bash
# The adapters against Olive and Optimum, in an environment of their own: Optimum wants an older transformers than the dev extra.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PIP_DISABLE_PIP_VERSION_CHECK=1 ONNXSQUEEZE_STRICT=1 OMP_NUM_THREADS=1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
# shellcheck source=/dev/null
source "$folder/venv/bin/activate"
pip install --quiet -e '.[integrations]' torch==2.13.0 pytest pytest-xdist hypothesis  # the torch of the dev extra
python -m pytest -n 0 -q -p no:cacheprovider tests/integrations
