#!/usr/bin/env bash
# Measures this machine and packs what came out into one file to share.
#
#   bash benches/run.sh [--suite quick|standard|full] [--adapter NAME|INDEX]
#
# Builds, checks every kernel against the reference, measures, measures PyTorch where it is installed, and writes the
# report. Needs Rust and a GPU driver; uploads nothing. On Windows: benches/run.ps1.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

suite=quick
adapter=()
while (($#)); do
  case $1:${2:-} in
    --suite:?*) suite=$2 ;;
    --adapter:?*) adapter=(--adapter "$2") ;;
    *)
      echo 'usage: bash benches/run.sh [--suite quick|standard|full] [--adapter NAME|INDEX]' >&2
      exit 2
      ;;
  esac
  shift 2
done
command -v cargo >/dev/null || {
  echo 'error: Rust is needed; https://rustup.rs installs it' >&2
  exit 1
}

name=diffattn-$(date -u +%Y-%m-%d-%H%M%S)
results=target/results/$name
mkdir -p "$results"
step() { printf '\n== %s\n' "$*"; }
# bash 3 of macOS takes an empty list for an unset one.
diffattn() { command target/release/diffattn "$@" ${adapter[@]+"${adapter[@]}"}; }

step 'building (some minutes the first time)'
# The record names the commit and the compiler.
DIFFATTN_COMMIT=$(git describe --always --dirty --exclude '*' 2>/dev/null) && export DIFFATTN_COMMIT
DIFFATTN_RUSTC=$(rustc --version) && export DIFFATTN_RUSTC
cargo build --release --locked --quiet --bin diffattn

# The quick suite is of f16, and a software driver compiles the kernels of one type for minutes.
types=()
[[ $suite != quick ]] || types=(--dtype f16)
step "checking every kernel against the reference ${types[*]-}"
diffattn check ${types[@]+"${types[@]}"} >"$results/check.txt" || echo 'Not all is right here: see check.txt. What is wrong will not be timed.'
tail -n 1 "$results/check.txt"

step "measuring: suite $suite"
# Ends with 1 when a kernel was wrong; what was right is in the record all the same.
diffattn bench --suite "$suite" -o "$results" >"$results/bench.md" || true
records=("$results"/*/*.jsonl)
[[ -f ${records[0]} ]] || exit 1

step 'the same through PyTorch'
python=$(command -v python3 || command -v python || true)
seconds=20
[[ $suite != quick ]] || seconds=4
if [[ -n $python ]]; then
  # Where there is no PyTorch it says so.
  "$python" benches/compare_torch.py --cases "${records[0]}" --seconds "$seconds" -o "$results/torch.jsonl" || true
else
  echo 'skipped: there is no Python here'
fi
[[ ! -f $results/torch.jsonl ]] || records+=("$results/torch.jsonl")

step 'report'
target/release/diffattn report "${records[@]}" -o "$results/report.html"
target/release/diffattn report "${records[@]}" -o "$results/report.md" --format md
tar czf "$results.tar.gz" -C target/results "$name"
cat <<END

Done. To read it, open $results/report.html.
To share it, attach this one file to an issue:

  $results.tar.gz

It names the device and its driver, but neither you nor this machine. To add the record to the project, see
benches/record/README.md.
END
