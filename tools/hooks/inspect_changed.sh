#!/usr/bin/env bash
# Says of ONNX files what their masks are worth; fails where one is no valid model. For pre-commit, which gives the files,
# and for the action, which gives the commit to compare with: inspect_changed.sh [--since COMMIT] [FILE.onnx ...]
set -euo pipefail
files=()
if [ "${1:-}" = --since ]; then
    while IFS= read -r -d '' file; do files+=("$file"); done < <(git diff -z --name-only --diff-filter=AM "$2" -- '*.onnx')
else
    files=("$@")
fi
if [ "${#files[@]}" = 0 ]; then
    echo "no ONNX file was changed"
    exit 0
fi
for file in "${files[@]}"; do
    echo "$file"
    onnxsqueeze inspect "$file"
done
