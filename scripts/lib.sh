# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#
# What the scripts share. Sourced by ./run, with the root of the checkout as working directory.

say() { printf '%s\n' "== $*" >&2; }

# die WHAT NEXT: what failed and, on the same line, what to do about it.
die() {
  printf './run: %s; %s\n' "$1" "$2" >&2
  exit 1
}

# phase NAME COMMAND…: runs the command and notes the seconds it took for print_phases.
PHASES=()
phase() {
  local name=$1 start=$SECONDS status=0
  shift
  say "$name"
  "$@" || status=$?
  PHASES+=("$(printf '%5d s  %s' $((SECONDS - start)) "$name")")
  return "$status"
}

print_phases() {
  printf 'Where the time went:\n'
  printf '%s\n' "${PHASES[@]}"
}

# Bazel's progress lines are for people at a terminal.
BAZEL_QUIET=()
[[ -t 2 ]] || BAZEL_QUIET=(--noshow_progress --color=no)

# build_opt LABEL…: builds what ships, the benchmarks and the demo, quietly unless it takes long.
build_opt() { build_as opt "$@"; }

# build_as CONFIG TARGET…
build_as() {
  local config=$1
  shift
  bazel build --config="$config" --ui_event_filters=-info --show_result=0 "${BAZEL_QUIET[@]}" \
    "$@" ||
    die "the build of $* failed" "see the compiler's messages above"
}

# Files under version control or about to be, one per line, that match the given patterns.
project_files() {
  git ls-files --cached --others --exclude-standard -- "$@" | while IFS= read -r file; do
    [[ -f $file ]] && printf '%s\n' "$file"
  done
}

# count_each GROUP COUNTS_FILE WORK NAME…: runs GROUP_NAME WORK for every NAME, each as one test,
# and appends a line of counts to the file, if there is one.
count_each() {
  local group=$1 counts=$2 work=$3 passed=0 failed=0 name
  for name in "${@:4}"; do
    say "$group $name"
    if "${group}_$name" "$work"; then
      passed=$((passed + 1))
    else
      failed=$((failed + 1))
      echo "FAILED: $group $name"
    fi
  done
  [[ -z $counts ]] || printf '%s %d %d 0\n' "$group" "$passed" "$failed" >>"$counts"
  [[ $failed == 0 ]]
}
