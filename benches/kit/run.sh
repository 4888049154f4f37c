#!/usr/bin/env bash
# Measures this machine's GPU with the binary beside this script, and packs the records.
#
#   bash run.sh [--adapter NAME|INDEX] [--seconds N] [--suite NAME] [-o DIR]
#
# --seconds (570 by default) is the time for everything: each step gets what is left of its share, and a step that fails
# or runs out of time is written down and does not stop the rest. DIR (diffattn-results-DATE) and DIR.tar.gz hold the
# output of every step, the records, and summary.txt. The exit status is 1 when a kernel gave a wrong result.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
adapter=() seconds=570 suite=standard results=diffattn-results-$(date +%Y-%m-%d-%H%M%S)
while (($#)); do
  case $1 in
    --adapter) adapter=(--adapter "$2") && shift 2 ;;
    --seconds) seconds=$2 && shift 2 ;;
    --suite) suite=$2 && shift 2 ;;
    -o) results=$2 && shift 2 ;;
    *) echo "unknown: $1 (see the head of this script)" >&2 && exit 2 ;;
  esac
done
mkdir -p "$results" || exit 1
results=$(cd "$results" && pwd)
summary=$results/summary.txt
begin=$SECONDS wrong=0
diffattn=$here/diffattn
# What is tuned here must not decide over the measurements, nor stay on the machine.
export XDG_CACHE_HOME=$results/cache
# Mesa's layer for choosing among GPUs complains where there is no desktop.
export NODEVICE_SELECT=1

say() { printf '%s\n' "$*" | tee -a "$summary"; }

# step NAME SHARE COMMAND...: runs it for at most SHARE percent of the time, and no longer than what is left.
step() {
  local name=$1 share=$2 status=0 start=$SECONDS
  shift 2
  local left=$((seconds - (SECONDS - begin))) most=$((seconds * share / 100))
  ((most < left)) || most=$left
  if ((most < 1)); then
    say "$(printf '%-24s not run: no time left' "$name")"
    return
  fi
  timeout --signal=INT --kill-after=20 "$most" "$@" >"$results/$name.txt" 2>"$results/$name.err" || status=$?
  case $status in
    0) say "$(printf '%-24s done in %d s' "$name" $((SECONDS - start)))" ;;
    124 | 137) say "$(printf '%-24s stopped after its %d s; what it had printed is kept' "$name" "$most")" ;;
    *)
      if [[ $name == sweep-matrix ]] && grep -q EXPERIMENTAL_COOPERATIVE_MATRIX "$results/$name.err"; then
        say "$(printf '%-24s not run: this device or driver offers no matrix units' "$name")"
        return
      fi
      say "$(printf '%-24s FAILED with status %d: %s' "$name" "$status" "$(tail -n 1 "$results/$name.err")")"
      [[ $name == check* || $name == bench* ]] && wrong=1
      ;;
  esac
}

date -u +'%Y-%m-%dT%H:%M:%SZ' >"$summary"
command -v nvidia-smi >/dev/null && step nvidia-smi 2 nvidia-smi -q -d CLOCK,POWER,PERFORMANCE
step info 3 "$diffattn" info
step info-json 3 "$diffattn" info --json
chosen=("${adapter[@]}")
((${#chosen[@]})) || chosen=(--adapter "$(sed -n 's/.*--engine auto takes adapter \([0-9]*\).*/\1/p' "$results/info.txt")")
[[ ${chosen[1]} ]] || chosen=(--adapter 0)
say "adapter                  ${chosen[1]}"
# First contact: whatever is wrong here is the first thing to mend.
step check 12 "$diffattn" check "${chosen[@]}"
step check-runtime-checks 12 "$diffattn" check --runtime-checks "${chosen[@]}"
# The shape that the goals are stated for, before anything that may run out of time.
for len in 4096 16384; do
  shape=b1q${len}kv${len}h16/8d128
  step "bench-goal-$len" 6 "$diffattn" bench "${chosen[@]}" --shape "$shape" --path auto,matrix,subgroup,portable -o "$results"
done
step bench-decode-goal 6 "$diffattn" bench "${chosen[@]}" --shape b8q1kv32768h16/8d128 --form fused,baseline -o "$results"
goal=b1q4096kv4096h16/8d128
step bench-module 6 "$diffattn" bench "${chosen[@]}" --op module,train --form fused,baseline,v1,matmul --shape "$goal" -o "$results"
step bench-product 3 "$diffattn" bench "${chosen[@]}" --op module,train --form matmul --shape b1q1024kv1024h8/8d128 \
  --dtype f32,f16 --path portable,auto -o "$results"
step bench-backward 6 "$diffattn" bench "${chosen[@]}" --op backward --shape "$goal" --path auto,subgroup -o "$results"
sweep=("$diffattn" tune "${chosen[@]}" --sweep all --seconds 1 -o "$results")
step sweep-matrix 14 "${sweep[@]}" --shape "$goal"
step sweep-portable 8 "${sweep[@]}" --shape "$goal" --path portable
step sweep-decode 8 "${sweep[@]}" --shape b8q1kv32768h16/8d128 --op decode
step tune 10 "$diffattn" tune "${chosen[@]}" --seconds 2 --count 9 -o "$results"
torch=$(command -v python3 || command -v python || true)
if [[ -f $here/compare_torch.py && $torch ]] && "$torch" -c 'import torch' 2>/dev/null; then
  step compare-torch 15 "$torch" "$here/compare_torch.py" -o "$results"
else
  say 'compare-torch            not run: python with torch is not there'
fi
step "bench-$suite" 100 "$diffattn" bench "${chosen[@]}" --suite "$suite" -o "$results"

rm -rf "$results/cache"
find "$results" -name '*.err' -empty -delete
say "wall time                $((SECONDS - begin)) s"
tar -C "$(dirname "$results")" -czf "$results.tar.gz" "$(basename "$results")"
echo
cat "$summary"
grep -hE '^\| *(forward|decode|backward|module|train)' "$results"/bench-*.txt 2>/dev/null || true
echo "send $results.tar.gz"
exit $wrong
