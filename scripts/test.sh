# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#
# ./run test: the checks, then the tests as shipped; with --sanitizers also under ASan+UBSan and
# under TSan. Sourced after lib.sh, setup.sh and lint.sh.

# bazel_test CONFIG COUNTS_FILE [BAZEL OPTION…]: runs the tests of $TEST_TARGETS, or all where that
# is not set, and appends a line of counts.
bazel_test() {
  local config=$1 counts=$2 events status=0
  shift 2
  events=$(mktemp)
  bazel test --config="$config" --keep_going --build_event_json_file="$events" \
    --test_summary=terse --show_result=0 --ui_event_filters=-info "${BAZEL_QUIET[@]}" \
    "$@" ${TEST_TARGETS:-//...} || status=$?
  python3 scripts/test_counts.py "$config" "$status" "$events" >>"$counts" || status=1
  rm -f "$events"
  return "$status"
}

# explore_tests COUNTS_FILE: the engine's own code under the scheduler of tests/explore: the
# scheduler's tests, the schedules of old failures, every schedule of small scenarios up to a bound,
# and a fixed number of runs of every scenario.
explore_tests() {
  local targets=(//tests/explore:scheduler_test //tests/explore:vm_programs_test
    //tests/explore:replays_test //tests/explore:steps_test
    //tests/explore:bounded_test //tests/explore:campaign_test //tests/fuzz:threads_corpus_test)
  TEST_TARGETS="${targets[*]}" bazel_test explore "$1" || return
  cat bazel-testlogs/tests/explore/campaign_test/shard_*/test.log |
    awk '$1 == "explored:" { scenarios += $2; runs += $4; steps += $6 }
         END { printf "explored: %d scenarios, %d runs, %d steps\n", scenarios, runs, steps
               exit runs == 0 }' &&
    cat bazel-testlogs/tests/explore/bounded_test/shard_*/test.log |
    awk '$1 == "exhausted:" { scenarios[$3] += $4; schedules[$3] += $6 }
         END { for (bound = 1; bound <= 2; bound++)
                 printf "exhausted: %d scenarios with %d preemptions at most, %d schedules\n",
                   scenarios[bound ","], bound, schedules[bound ","]
               exit schedules["1,"] == 0 || schedules["2,"] == 0 }'
}

# Kernels that randomize more address bits than gcc 12's TSan expects need a fixed layout.
tsan_options() {
  local bits
  bits=$(cat /proc/sys/vm/mmap_rnd_bits 2>/dev/null || echo 28)
  ((bits <= 28)) || echo "--run_under=setarch --addr-no-randomize"
}

# print_totals COUNTS_FILE: a line for each part, and last the plain line that sums them up.
print_totals() {
  awk '{ printf "%-10s %d passed, %d failed, %d skipped\n", $1 ":", $2, $3, $4
         passed += $2; failed += $3; skipped += $4 }
       END { printf "%d passed, %d failed", passed, failed
             if (skipped) printf ", %d skipped", skipped
             print ""; exit failed > 0 }' "$1"
}

# instruction_budgets COUNTS_FILE: one test; the table is shown where an operation takes too much.
instruction_budgets() {
  local table
  if table=$(bench_instructions); then
    printf 'budgets 1 0 0\n' >>"$1"
  else
    printf '%s\n' "$table" "'./run bench --instructions --lines ROW' says where they go"
    printf 'budgets 0 1 0\n' >>"$1"
    return 1
  fi
}

run_tests() {
  local counts failed=0 options guest linux=()
  [[ $# == 0 || ( $# == 1 && $1 == --sanitizers ) ]] ||
    die "unknown option '$*'" "use './run test' or './run test --sanitizers'"
  counts=$(mktemp)
  phase "set-up" setup_build "${FORMAT_PACKAGES[@]}" "${VTX_PACKAGES[@]}" "${MODEL_PACKAGES[@]}" \
    "${COUNT_PACKAGES[@]}" "${BROWSER_PACKAGES[@]}" clang-14
  phase "format, files, layers" quick_checks "$counts" || failed=1
  phase "fuzz targets by clang" check_fuzz_targets "$counts" || failed=1
  if guest=$(fetch_linux_guest "$LINUX_KERNEL"); then
    linux=("--test_env=TDP_BOCHS_OPTIONS=$(linux_options "$guest")")
  else
    say "Debian's Linux cannot be had: its tests are skipped"
  fi
  phase "tests as shipped" bazel_test opt "$counts" "${linux[@]}" || failed=1
  phase "instructions within their budgets" instruction_budgets "$counts" || failed=1
  phase "the engine under chosen schedules" explore_tests "$counts" || failed=1
  TEST_TARGETS="//tests/mmu:section_checks_test //tests/model:option_pairs_test" \
    phase "checks of debug builds" bazel_test checked "$counts" || failed=1
  phase "foreign projects that link the library" consumers "$counts" || failed=1
  phase "the judge in a bare folder" judge_tests "$counts" || failed=1
  if [[ ${1:-} == --sanitizers ]]; then
    phase "tests under ASan and UBSan" bazel_test asan "$counts" \
      --build_tests_only --test_tag_filters=-no-asan || failed=1
    mapfile -t options < <(tsan_options)
    phase "concurrent tests under TSan" bazel_test tsan "$counts" \
      --build_tests_only --test_tag_filters=tsan "${options[@]}" || failed=1
  fi
  print_phases
  print_totals "$counts" || failed=1
  rm -f "$counts"
  return "$failed"
}
