# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#
# ./run lint and ./run format. Sourced after lib.sh and setup.sh.

cxx_files() { project_files '*.h' '*.cc'; }

format_all() {
  cxx_files | xargs -r clang-format-14 -i
}

# One line for each place; clang-format's own message repeats the source.
check_format() {
  local places
  places=$(cxx_files | xargs -r -P "$(nproc)" -n 16 clang-format-14 --dry-run 2>&1 |
    sed -n 's/: warning: .*/: not formatted/p')
  [[ -z $places ]] || { printf '%s\n' "$places" "'./run format' reformats"; return 1; }
}

# Each check counts as one test.
QUICK_CHECKS=(
  "check_format"
  "python3 scripts/check_files.py"
  "python3 scripts/check_layers.py"
  "python3 scripts/check_includes.py"
  "python3 scripts/check_shape.py"
  "python3 -m unittest discover --quiet --start-directory scripts --pattern *_test.py"
)

# quick_checks COUNTS_FILE: what ./run test repeats; seconds in all.
quick_checks() {
  local check passed=0 failed=0
  set -f
  for check in "${QUICK_CHECKS[@]}"; do
    if $check; then
      passed=$((passed + 1))
    else
      failed=$((failed + 1))
      echo "FAILED: $check"
    fi
  done
  set +f
  printf 'checks %d %d 0\n' "$passed" "$failed" >>"$1"
  [[ $failed == 0 ]]
}

# check_fuzz_targets COUNTS_FILE [--all]: clang's view of what gcc alone builds in ./run test; one
# test.
check_fuzz_targets() {
  if python3 scripts/check_fuzz.py "${@:2}"; then
    printf 'fuzz 1 0 0\n' >>"$1"
  else
    printf 'fuzz 0 1 0\n' >>"$1"
    return 1
  fi
}

# Sources that differ from the upstream branch (or, without one, from the last commit); for a header
# the source beside it.
changed_sources() {
  local base file
  base=$(git merge-base HEAD '@{upstream}' 2>/dev/null || git rev-parse HEAD)
  { git diff --name-only "$base"; git ls-files --others --exclude-standard; } |
    sed -n 's/\.h$/.cc/p; /\.cc$/p' | sort -u | while IFS= read -r file; do
      [[ -f $file ]] && printf '%s\n' "$file"
    done
}

# clang-tidy reads the compile commands of the daily configuration. Not on tests: it takes half a
# minute for the macros of each.
tidy() {
  local files
  files=$(if [[ ${1:-} == --all ]]; then project_files '*.cc'; else changed_sources; fi |
    grep -v '^tests/' || true)
  [[ -z $files ]] && return
  bazel build "${BAZEL_QUIET[@]}" --ui_event_filters=-info --show_result=0 //... ||
    die "the build failed" "clang-tidy needs a tree that compiles: see the messages above"
  python3 scripts/compile_commands.py >compile_commands.json ||
    die "Bazel could not list the compile commands" "see its message above"
  # The compile commands name files below Bazel's execution root: no .clang-tidy above, long paths.
  xargs -P "$(nproc)" -n 1 clang-tidy-14 --quiet --config-file=.clang-tidy -p . <<<"$files" \
    2> >(grep -v ' warnings\? generated\|^Suppressed ' >&2) | sed 's|^/.*/execroot/libtdp/||'
}

# lint --shape: what check_shape.py measures, beside limits and goals; else all checks.
lint() {
  local counts status=0
  if [[ ${1:-} == --shape ]]; then
    python3 scripts/check_shape.py --print
    return
  fi
  counts=$(mktemp)
  phase "set-up" require "${BUILD_PACKAGES[@]}" "${FORMAT_PACKAGES[@]}" "${TIDY_PACKAGES[@]}"
  phase "format, files, layers" quick_checks "$counts" || status=1
  fetch_sources
  phase "fuzz targets by clang" check_fuzz_targets "$counts" --all || status=1
  rm -f "$counts"
  phase "clang-tidy" tidy "$@" || status=1
  print_phases
  return "$status"
}
