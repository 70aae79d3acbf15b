#!/bin/sh
# Builds the fuzz targets and gives each its share of the time: native/fuzz/run.sh [SECONDS], a minute in all if absent.
# What they find stays in build/fuzz, to be run again with build/fuzz/TARGET FILE. The parsers in TypeScript have targets
# of their own (test/fuzz).
set -eu
cd "$(dirname "$0")/../.."

targets='entry rule table nft_rule nft_message iptables_rule route annotations'
scripts='messages transport api options files'
# shellcheck disable=SC2086 # a word for each target
set -- "${1:-60}" $targets $scripts
seconds=$(($1 / ($# - 1)))
[ "$seconds" -gt 0 ] || seconds=1
mkdir -p build/fuzz

for target in $targets; do
  case $target in
    annotations) sources=native/gate/annotations.cc ;;
    route) sources='native/gate/network.cc native/netlink/message.cc native/route_message.cc' ;;
    iptables_rule) sources=native/istio.cc\ native/netlink/message.cc\ $(printf 'native/nftables/%s.cc ' encode iptables_rule netlink parse validate)$(printf 'native/xtables/%s.cc ' encode decode) ;;
    nft_*) sources=native/netlink/message.cc\ $(printf 'native/nftables/%s.cc ' recreate decode encode netlink parse validate write) ;;
    *) sources=native/budget.cc\ $(printf 'native/xtables/%s.cc ' encode decode layout replay) ;;
  esac
  # shellcheck disable=SC2086
  clang++ -std=c++20 -g -O1 -D_GNU_SOURCE -I. -Wall -Wextra -Werror -Wno-missing-field-initializers \
    -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
    "native/fuzz/$target.cc" $sources -o "build/fuzz/$target"
done

for target in $targets; do
  mkdir -p "build/fuzz/$target.corpus"
  log=build/fuzz/$target.log
  if ! "build/fuzz/$target" -max_total_time="$seconds" -timeout=5 -max_len=4096 -print_final_stats=1 \
    -artifact_prefix="build/fuzz/$target-" "build/fuzz/$target.corpus" >"$log" 2>&1; then
    grep -v -e '^#' -e NEW_FUNC "$log" | tail -n 60
    echo "FAIL $target"
    exit 1
  fi
  count=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  echo "ok   $target: ${count:-0} executions in $seconds s"
  [ "${count:-0}" -gt 0 ]
done

for target in $scripts; do
  node test/fuzz/main.ts "$target" "$seconds"
done
