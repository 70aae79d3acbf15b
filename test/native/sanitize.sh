#!/bin/sh
# Builds everything native under AddressSanitizer and UndefinedBehaviorSanitizer and runs the tests that exercise it:
# the C++ ones with leaks looked for, the others with the addon in Node, whose own leaks are nobody's business here.
# Arguments: test files instead of the usual ones.
set -eu
cd "$(dirname "$0")/../.."
PATH="$PWD/node_modules/.bin:$PATH"
export PATH

log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! npm_config_nodedir="$(./setup --nodedir)" node-gyp configure build --debug --jobs=max >"$log" 2>&1; then
  grep -v '^gyp info' "$log" | tail -n 60 >&2
  exit 1
fi

if [ $# -eq 0 ]; then
  cd test/native
  # attack.test.ts compares times, which mean nothing under the sanitizers.
  set -- unit.test.ts ahead.test.ts change.test.ts foreign*.test.ts kernel*.test.ts drift*.test.ts safety*.test.ts \
    rollback*.test.ts concurrency*.test.ts
  cd ../..
  for file; do
    set -- "$@" "test/native/$file"
    shift
  done
fi
IPNC_SANITIZER_RUNTIME=$(g++ -print-file-name=libasan.so)
export IPNC_SANITIZER_RUNTIME
IPNC_BUILD=Debug ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 node test/run.ts "$@"
