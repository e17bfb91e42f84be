#!/usr/bin/env bash
# Installs the lowest versions that pyproject.toml allows, and runs the tests with them; see below.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

case "${1:-}" in
-h | --help)
  cat <<'HELP'
Usage: ./scripts/check_lowest.sh [pytest arguments]

Makes an environment of its own with the lowest version of every direct dependency that
pyproject.toml allows (uv's lowest-direct), torch at the version and build of .venv, and runs the
quick tests there, or what the arguments name. Warnings are no errors there: old versions deprecate
what new ones have removed. It takes about as long as all quick tests, and a download of 300 MB.

  LOWEST=FOLDER   keeps the environment in FOLDER and uses it again
  UV_FIND_LINKS, UV_INDEX_URL, ...   where torch's build is found, if not in the usual index
HELP
  exit 0
  ;;
esac

cd "$repository"
folder=${LOWEST:-$(mktemp -d)}
mkdir -p "$folder"
python=$repository/.venv/bin/python
uv=$repository/.venv/bin/uv
echo "torch==$("$python" -c 'import torch; print(torch.__version__)')" >"$folder/pins.txt"
"$uv" pip compile --quiet --resolution lowest-direct --all-extras --python "$python" \
  --constraint "$folder/pins.txt" --output-file "$folder/lowest.txt" pyproject.toml
[[ -x $folder/venv/bin/python ]] || "$uv" venv --quiet --seed --python "$python" "$folder/venv"
"$uv" pip sync --quiet --python "$folder/venv" "$folder/lowest.txt"
"$uv" pip install --quiet --python "$folder/venv" --no-deps --editable .
PATH=$folder/venv/bin:$PATH "$folder/venv/bin/python" -m pytest -o filterwarnings=default \
  --ignore tests/test_architecture.py "$@"
