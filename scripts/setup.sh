#!/usr/bin/env bash
# Makes .venv with the project and its development tools, or does nothing where that stands already.
# Sourced by run.sh and test.sh; called on its own it does the same.
#
#   ./scripts/setup.sh              uses the first Python >= 3.11 that it finds
#   PYTHON=python3.12 ./scripts/setup.sh
#
# Only the first call, and one after a change of pyproject.toml or constraints.txt, needs a network.
set -euo pipefail

# Everything stands in functions, with names of their own, for the scripts that source this file.
plurallm_setup() {
  local repository=$1 venv=$1/.venv stamp=$1/.venv/plurallm-setup wanted
  if [[ $repository =~ [[:space:]] ]]; then
    echo "setup: Ray cannot start from a path with a space: move the checkout from $repository" >&2
    return 1
  fi
  wanted=$(setup_stamp "$repository")
  setup_is_current "$stamp" "$wanted" && return

  # One at a time: a second caller waits here, and then finds everything done.
  exec 9>>"$repository/constraints.txt"
  if command -v flock >/dev/null; then
    flock --nonblock 9 || { echo "setup: another one is at work, waiting for it" >&2 && flock 9; }
  fi
  if ! setup_is_current "$stamp" "$wanted"; then
    setup_install "$repository" "$venv"
    # Only now: what an interrupted call leaves behind has no stamp, and is not taken for good.
    echo "$wanted" >"$stamp"
    echo "setup: done" >&2
  fi
  exec 9>&-
}

# What the environment was made from. It holds absolute paths, so a moved checkout needs a new one.
setup_stamp() {
  { echo "$1" && cat "$1/pyproject.toml" "$1/constraints.txt"; } | cksum
}

setup_is_current() {
  [[ -f $1 && $(<"$1") == "$2" ]]
}

setup_install() {
  local repository=$1 venv=$2 python
  # The scripts in bin name their interpreter: those of a checkout that has moved name the old place.
  if ! setup_python_works "$venv/bin/python" || ! "$venv/bin/python" -m pip --version &>/dev/null ||
    ! grep -qF "$venv/bin/python" "$venv/bin/pip"; then
    python=$(setup_find_python)
    echo "setup: making $venv with $("$python" --version)" >&2
    setup_wait "$python" -m venv --clear "$venv"
  fi
  echo "setup: installing into $venv; the first time this takes some minutes" \
    "(PyTorch is 200 MB to download, or several GB where it comes with CUDA)" >&2
  if ! setup_wait "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    -c "$repository/constraints.txt" -e "${repository}[dev]"; then
    echo "setup: the installation failed, see above; the next call tries again" >&2
    return 1
  fi
}

# Runs a command so that Ctrl-C and TERM end it too, and not only this shell.
setup_wait() {
  "$@" &
  # shellcheck disable=SC2064  # the child of now is meant
  trap "kill $! 2>/dev/null; exit 130" INT
  # shellcheck disable=SC2064
  trap "kill $! 2>/dev/null; exit 143" TERM HUP
  local status=0
  wait $! || status=$?
  trap - INT TERM HUP
  return "$status"
}

setup_find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.11 python3.12 python3.13; do
    if setup_python_works "$candidate"; then
      echo "$candidate"
      return
    fi
    if [[ -n ${PYTHON:-} ]]; then
      echo "setup: PYTHON=$PYTHON is no Python of version 3.11 or later" >&2
      return 1
    fi
  done
  echo "setup: no Python of version 3.11 or later found; name one with PYTHON=/path/to/python" >&2
  return 1
}

setup_python_works() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' &>/dev/null
}

plurallm_setup "$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
