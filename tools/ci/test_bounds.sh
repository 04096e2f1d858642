#!/usr/bin/env bash
# The dependencies at their lowest and at their newest, each in an environment of its own, for each Python that is here.
#
#   tools/ci/test_bounds.sh                     # both bounds, every python3.10 to python3.14 that runs
#   PYTHONS="python3.11" BOUNDS="lowest" JOBS=0 tools/ci/test_bounds.sh
#
# Lowest: what pyproject.toml names after >=, or the first version above that has a wheel for that Python (numpy 1.24 has
# none for 3.12); uv finds them. A quick part of the suite runs in each; a line for each at the end says what passed.
# With pyenv, name what is to be found: PYENV_VERSION=3.10.13:3.12.1 tools/ci/test_bounds.sh
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PIP_DISABLE_PIP_VERSION_CHECK=1 ONNXSQUEEZE_STRICT=1 OMP_NUM_THREADS=1
unset PYTHONPATH  # each environment has the package by itself
TESTS="${TESTS:-tests/processes tests/pipeline tests/verification tests/model/test_saving.py tests/model/test_mapped.py}"
TOOLS=(pytest pytest-xdist hypothesis)
said=()
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

installed() { # install the package and what its tests need, at a bound
    if [ "$1" = newest ]; then
        pip install --quiet --upgrade -e . "${TOOLS[@]}"
        return
    fi
    pip install --quiet uv &&
        uv pip compile --quiet --resolution lowest-direct --only-binary :all: --python "$VIRTUAL_ENV/bin/python" \
            --output-file "$folder/lowest.txt" pyproject.toml &&
        pip install --quiet -r "$folder/lowest.txt" -e . "${TOOLS[@]}"
}

for python in ${PYTHONS:-python3.10 python3.11 python3.12 python3.13 python3.14}; do
    "$python" -c "" 2>/dev/null || { said+=("$python: not here"); continue; }
    for bound in ${BOUNDS:-lowest newest}; do
        name="$python, $bound"
        rm -rf "$folder/venv" "$folder/lowest.txt"  # uv would keep what an earlier file says
        "$python" -m venv "$folder/venv" && source "$folder/venv/bin/activate" || { said+=("$name: no venv, FAILED"); continue; }
        if ! installed "$bound" >"$folder/log" 2>&1; then
            tail -5 "$folder/log"
            said+=("$name: cannot be installed, FAILED")
        elif python -m pytest -q -n "${JOBS:-2}" -p no:cacheprovider $TESTS >"$folder/log" 2>&1; then
            said+=("$name: $(tail -1 "$folder/log") ($(pip list 2>/dev/null | awk '$1 ~ /^(numpy|onnx|onnxruntime|protobuf)$/ { printf "%s%s %s", comma, $1, $2; comma = ", " }'))")
        else
            tail -40 "$folder/log"
            said+=("$name: $(tail -1 "$folder/log"), FAILED")
        fi
        echo "${said[-1]}"
        deactivate
    done
done
echo
printf '%s\n' "${said[@]}"
[[ "${said[*]}" != *FAILED* ]]
