#!/usr/bin/env bash
# Submits a run to the server; see the help below.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

case "${1:-}" in
-h | --help | "")
  cat <<'HELP'
Usage: ./scripts/submit.sh FOLDER [key=value ...]

Submits a run to the server of FOLDER (./scripts/server.sh), on the same machine, and follows it.
The nodes bring the data; how many are expected must be said.

  ./scripts/submit.sh operator federation.nodes=4 federation.rounds=50
  ./scripts/submit.sh operator federation.nodes=4 "data.held_out_groups=[South]"
  ./scripts/submit.sh operator resume=operator/runs/2026-01-31_12-00-00

Results go to FOLDER/runs/<date and time>, or output_dir=FOLDER. Ctrl-C stops the run; when the
connection to this terminal is lost, it goes on. Exit status: 0 the run finished, 1 it failed, 2 the
configuration was refused, 130 stopped by Ctrl-C, 143 this script was ended by TERM: the run goes on.
HELP
  exit 0
  ;;
esac

# shellcheck source=scripts/setup.sh
source "$repository/scripts/setup.sh"
exec "$repository/.venv/bin/plurallm" submit "$@"
