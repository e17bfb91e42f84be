#!/usr/bin/env bash
# Runs the main job; see the help below.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

case "${1:-}" in
-h | --help)
  cat <<'HELP'
Usage: ./scripts/run.sh [key=value ...]

Trains one preference model over all groups, each group a node of its own, with Flower's
simulation engine on this machine: on its GPUs where it has some, else on its processors.
The first call installs the project into .venv (see scripts/setup.sh); later calls need no network.

  ./scripts/run.sh                                    the default: a generated survey, 100 rounds
  ./scripts/run.sh experiment=quick                   a look at everything, 20 rounds
  ./scripts/run.sh data=custom data.path=survey.csv   your own survey
  ./scripts/run.sh resume=outputs/2026-01-31_09-05-00 continue a stopped run

Any key of conf/ can be set. Relative paths start at the current directory, and the run's folder is
outputs/<date and time> there, or output_dir=FOLDER: results in summary.json, rounds in
metrics.jsonl, the model in model/, and what Flower said in flower.log.

Ctrl-C ends the run and everything it started. Exit status: 0 the run finished, 1 it failed,
2 the configuration was refused, 130 stopped by Ctrl-C, 143 by TERM.
HELP
  exit 0
  ;;
esac

# shellcheck source=scripts/setup.sh
source "$repository/scripts/setup.sh"
exec "$repository/.venv/bin/python" "$repository/scripts/run.py" "$@"
