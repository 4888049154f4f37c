#!/usr/bin/env bash
# Builds the page and serves it on this machine: bash web/serve.sh [PORT]
# Browsers have WebGPU only on https and on localhost.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

bash build.sh
port=${1:-8000}
echo "http://localhost:$port"
exec python3 -m http.server --bind 127.0.0.1 --directory page "$port"
