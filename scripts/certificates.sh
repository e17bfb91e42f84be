#!/usr/bin/env bash
# Makes the server's certificates; see the help below.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

case "${1:-}" in
-h | --help | "")
  cat <<'HELP'
Usage: ./scripts/certificates.sh FOLDER NAME [NAME ...]

Makes an authority of your own and the certificate of the server, for the host names and IP
addresses that nodes will dial (localhost and 127.0.0.1 are always in). For the operator.

  ./scripts/certificates.sh operator plurallm.example.org 10.0.0.5

FOLDER gets ca.crt (for every data holder), ca.key, server.crt and server.key; keys are readable by
you alone. Nothing is written over: to renew the server's certificate after its 398 days, move
server.crt and server.key away and call this again; nodes need nothing new. The authority is good
for five years.
HELP
  exit 0
  ;;
esac

# shellcheck source=scripts/setup.sh
source "$repository/scripts/setup.sh"
exec "$repository/.venv/bin/plurallm" certificates "$@"
