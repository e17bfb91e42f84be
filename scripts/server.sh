#!/usr/bin/env bash
# Runs the operator's server; see the help below.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

case "${1:-}" in
-h | --help | "")
  cat <<'HELP'
Usage: ./scripts/server.sh FOLDER start [--host ADDRESS] [--port PORT] [--behind-proxy PORT]
       ./scripts/server.sh FOLDER register KEY.pub GROUP... | --any-group
       ./scripts/server.sh FOLDER bind NODE GROUP... | --any-group
       ./scripts/server.sh FOLDER nodes
       ./scripts/server.sh FOLDER unregister NODE

The server of a deployment: Flower's SuperLink with TLS, and only nodes whose key you registered.
FOLDER holds the certificates (./scripts/certificates.sh), and keeps the state and the runs.

  ./scripts/server.sh operator start                  listens on port 8443 of every address
  ./scripts/server.sh operator register north.pub North
  ./scripts/server.sh operator nodes

The port lets registered nodes through and nobody else (docs/deployment.md, What protects what).
Ctrl-C and TERM end the server. Exit status: 0 ended by TERM, 130 by Ctrl-C, 1 it failed, 2 refused.
HELP
  exit 0
  ;;
esac

# shellcheck source=scripts/setup.sh
source "$repository/scripts/setup.sh"
exec "$repository/.venv/bin/plurallm" server "$@"
