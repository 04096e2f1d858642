#!/usr/bin/env bash
# The dependencies at their lowest and at their newest, each in an environment of its own, for each Python that is here.
#
#   tools/ci/test_bounds.sh                     # both bounds, every python3.10 to python3.14 that is found
#   PYTHONS="python3.11" BOUNDS="lowest" tools/ci/test_bounds.sh
#
# Lowest: what pyproject.toml names after >=. A quick part of the suite runs in each; a line at the end says what passed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PIP_DISABLE_PIP_VERSION_CHECK=1 ONNXSQUEEZE_STRICT=1 OMP_NUM_THREADS=1
TESTS="tests/processes tests/pipeline tests/verification tests/model/test_saving.py tests/model/test_mapped.py"
said=()
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

lowest() { # the requirements of the package with == for >=
    sed -n '/^dependencies = \[/,/^\]/s/^ *"\([A-Za-z0-9_-]*\)>=\([0-9.]*\).*/\1==\2/p' pyproject.toml
}

for python in ${PYTHONS:-python3.10 python3.11 python3.12 python3.13 python3.14}; do
    command -v "$python" >/dev/null || { said+=("$python: not here"); continue; }
    for bound in ${BOUNDS:-lowest newest}; do
        name="$python, $bound"
        "$python" -m venv --clear "$folder/venv" && source "$folder/venv/bin/activate" || { said+=("$name: no venv"); continue; }
        if [ "$bound" = lowest ]; then
            lowest >"$folder/bounds" && pip install --quiet -c "$folder/bounds" -e . pytest pytest-xdist hypothesis
        else
            pip install --quiet --upgrade -e . pytest pytest-xdist hypothesis
        fi || { said+=("$name: cannot be installed"); deactivate; continue; }
        # shellcheck disable=SC2086
        if python -m pytest -q -n 2 -p no:cacheprovider $TESTS >"$folder/log" 2>&1; then
            said+=("$name: $(tail -1 "$folder/log")")
        else
            tail -20 "$folder/log"
            said+=("$name: FAILED, $(tail -1 "$folder/log")")
        fi
        deactivate
    done
done
printf '%s\n' "${said[@]}"
[[ "${said[*]}" != *FAILED* ]]
