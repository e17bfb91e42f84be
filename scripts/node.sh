#!/usr/bin/env bash
# Runs a data holder's node; see the help below.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

case "${1:-}" in
-h | --help | "")
  cat <<'HELP'
Usage: ./scripts/node.sh FOLDER key
       ./scripts/node.sh FOLDER check --survey FILE --group NAME [--group NAME ...]
       ./scripts/node.sh FOLDER start --survey FILE --group NAME --superlink HOST:PORT --ca ca.crt

A data holder's node: your answers stay on this machine, and a run can ask only for what is set
here. FOLDER keeps the node's key and the cache of embeddings. One after the other:

  ./scripts/node.sh north key                         then send north/key.pub to the operator
  ./scripts/node.sh north check --survey answers.csv --group North
  ./scripts/node.sh north start --survey answers.csv --group North \
    --superlink plurallm.example.org:8443 --ca ca.crt

--role score lets your groups be scored only. When the server or the link goes away the node tries
again, with growing pauses up to a minute. Ctrl-C and TERM end it.
Exit status: 0 ended by TERM, 130 by Ctrl-C, 2 refused before it connected.
HELP
  exit 0
  ;;
esac

# shellcheck source=scripts/setup.sh
source "$repository/scripts/setup.sh"
exec "$repository/.venv/bin/plurallm" node "$@"
