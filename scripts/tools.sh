# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#
# The commands of ./run that build one program and run it. Sourced after lib.sh and setup.sh.

demo() {
  setup_build
  build_opt //tools:tdp
  bazel-bin/tools/tdp demo "$@"
}

# bench --instructions [--write | --lines ROW]: what operations execute, beside their budgets.
bench_instructions() {
  setup_build "${COUNT_PACKAGES[@]}"
  build_opt //benchmarks:instructions
  python3 scripts/instructions.py bazel-bin/benchmarks/instructions benchmarks/budgets.tsv "$@"
}

# bench [FILTER] [--earlier FILE]… [--docs]: a table at the end, bench.html and bench.json in the
# caller's folder. --docs also writes the table into docs/performance.md.
bench() {
  local labels label file filter=. runs
  local report=(--kvm benchmarks/kvm.tsv)
  if [[ ${1:-} == --instructions ]]; then
    bench_instructions "${@:2}"
    return
  fi
  while [[ $# -gt 0 ]]; do
    case $1 in
      --docs) report+=(--docs docs/performance.md) ;;
      --earlier)
        [[ $# -ge 2 ]] || die "--earlier needs a file" "give it the bench.json of a run before"
        file=$(cd "$CALLER_FOLDER" && realpath -- "$2")
        [[ -r $file ]] || die "$2 cannot be read" "give it the bench.json of a run before"
        report+=(--earlier "$file")
        shift
        ;;
      -*) die "bench has no option $1" "see ./run help" ;;
      *) filter=$1 ;;
    esac
    shift
  done
  setup_build
  labels=$(bazel query --noshow_progress --ui_event_filters=-info \
    'kind("cc_binary", //benchmarks/...) except //benchmarks:instructions') ||
    die "the benchmarks could not be listed" "see Bazel's message above"
  # shellcheck disable=SC2086
  build_opt $labels
  runs=$(mktemp -d)
  for label in $labels; do
    label=${label#//}
    file=$runs/${label##*:}.json
    "bazel-bin/${label/://}" --benchmark_filter="$filter" --benchmark_out="$file"
    # A program of which nothing matches writes nothing.
    grep -qs ns_per_item "$file" || rm -f "$file"
  done
  report_runs "$runs" "${report[@]}"
  rm -rf "$runs"
}

# report_runs FOLDER OPTION…: of the results in FOLDER.
report_runs() {
  local files=("$1"/*.json)
  if [[ ! -e ${files[0]} ]]; then
    echo "No benchmark that was run counts items: there is no table."
    return
  fi
  echo
  python3 scripts/bench_report.py "${@:2}" --merged "$CALLER_FOLDER/bench.json" \
    --page "$CALLER_FOLDER/bench.html" "${files[@]}"
  echo
  echo "bench.html has a picture of each; bench.json is for --earlier of a later run."
}

# record [-o FILE] -- CMD…: in the caller's folder. scripts/record.py says how.
record() {
  local tdp
  local arguments=("$@")
  # What is wrong with the command is told before anything is installed or built.
  if [[ ${1:-} == -o ]]; then
    shift "$(($# < 2 ? $# : 2))"
  fi
  [[ ${1:-} == -- && $# -ge 2 ]] ||
    die "record needs a command" "try './run record -o ls.trace.zst -- ls -l'"
  (cd "$CALLER_FOLDER" && command -v "$2" >/dev/null) ||
    die "there is no command '$2'" "check its name or give its path"
  setup_build "${RECORD_PACKAGES[@]}"
  build_opt //tools:tdp
  tdp=$PWD/bazel-bin/tools/tdp
  local script=$PWD/scripts/record.py
  # In place of this shell: a signal for it is one for the recorder.
  cd "$CALLER_FOLDER"
  exec python3 "$script" --tdp "$tdp" "${arguments[@]}"
}

# man_page [FILE]: the help of tdp and of each of its commands, as a manual page.
man_page() {
  local out=${1:-tdp.1} extra command
  [[ $out == /* ]] || out=$CALLER_FOLDER/$out
  setup_build "${MAN_PACKAGES[@]}"
  build_opt //tools:tdp
  extra=$(mktemp)
  bazel-bin/tools/tdp --help | sed -n 's/^  \([a-z]\+\)  .*/\1/p' | while read -r command; do
    printf '[tdp %s]\n.nf\n' "$command"
    # A line that begins with a dot or a quote would be one of the formatter's.
    bazel-bin/tools/tdp "$command" --help | sed "s/\\\\/\\\\e/g; s/^[.']/\\\\\&&/"
    printf '.fi\n'
  done >"$extra"
  help2man --no-info --section=1 --name="two-dimensional paging on a software CPU" \
    --include="$extra" --output="$out" bazel-bin/tools/tdp ||
    die "help2man could not write $out" "see its message above"
  rm -f "$extra"
  say "wrote $out; read it with 'man -l $out'"
}

readonly VTX_DEMO=examples/hypervisor

vtx() {
  setup_build "${VTX_PACKAGES[@]}"
  build_opt "//$VTX_DEMO"
  "bazel-bin/$VTX_DEMO/${VTX_DEMO##*/}" "$@"
}

fuzz_targets() {
  bazel query --noshow_progress --ui_event_filters=-info \
    'attr("tags", "fuzz", kind("cc_binary", //tests/...))'
}

# fuzz_configuration NAME: threads need a build in which each shared access asks the scheduler.
fuzz_configuration() {
  [[ $1 == threads ]] && echo explore_fuzz || echo fuzz
}

# seed_corpus NAME FOLDER: what the tests replay, and long inputs: from short ones libFuzzer tries a
# few operations a run for minutes. The inputs are the same each time.
seed_corpus() {
  local seed
  [[ -z $(ls -A "$2") ]] || return 0
  cp "tests/fuzz/corpus/$1"/* "$2"
  for seed in 1 2 3 4; do
    python3 -c 'import random, sys
random.seed(int(sys.argv[1]))
sys.stdout.buffer.write(random.randbytes(4096))' "$seed" >"$2/seed$seed"
  done
}

# fuzz NAME SECONDS: NAME is the label's last part without _fuzz. What it learns is kept in .fuzz/.
fuzz() {
  local label seconds=${2:-60}
  setup_build "${FUZZ_PACKAGES[@]}"
  if [[ $# == 0 ]]; then
    fuzz_targets | sed 's/.*:\(.*\)_fuzz$/\1/'
    return
  fi
  label=$(fuzz_targets | grep ":$1_fuzz\$") ||
    die "there is no fuzz target '$1'" "'./run fuzz' lists them"
  build_as "$(fuzz_configuration "$1")" "$label"
  mkdir -p ".fuzz/$1"
  seed_corpus "$1" ".fuzz/$1"
  label=${label#//}
  "bazel-bin/${label/://}" -max_total_time="$seconds" -artifact_prefix=".fuzz/$1-" -timeout=20 \
    -len_control=0 -max_len=4096 \
    ".fuzz/$1"
}

# explore [SCENARIO [SECONDS [BOUND]]]: without arguments the kinds of machines and operations.
explore() {
  setup_build
  build_as explore //tests/explore:explore
  bazel-bin/tests/explore/explore "$@"
}

# mutate [OPTION…] [WHICH…]: takes hours in all; lowers its own priority after the build.
mutate() {
  setup_build
  python3 scripts/mutate.py "$@"
}
