#!/usr/bin/env bash
# Formatting, lint, types and tests; see the help below.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

case "${1:-}" in
-h | --help)
  cat <<'HELP'
Usage: ./scripts/test.sh [pytest arguments]

Without arguments: formatting (ruff format), lint (ruff check), types (mypy) and all quick tests.
With arguments: formatting, lint, and pytest with these arguments; types, the slowest check, are
left out. All checks run, also after one that fails. Exit status: 0 all passed, 1 some failed.

  ./scripts/test.sh                          before every commit
  ./scripts/test.sh -m slow                  the slow tests: whole runs
  ./scripts/test.sh tests/test_config.py     one file
  ./scripts/test.sh -k quoting -x            by name, up to the first failure
HELP
  exit 0
  ;;
esac

# shellcheck source=scripts/setup.sh
source "$repository/scripts/setup.sh"
cd "$repository"

failed=()
check() {
  local name=$1
  shift
  echo "== $name" >&2
  ".venv/bin/$1" "${@:2}" || failed+=("$name")
}

check formatting ruff format --check .
check lint ruff check .
(($# > 0)) || check types mypy
check tests pytest "$@"

if ((${#failed[@]} > 0)); then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
echo "all passed" >&2
