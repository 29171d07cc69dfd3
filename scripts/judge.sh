# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#
# The judge without Bazel and without Abseil: writing its two files, and its own test in a bare
# folder. Sourced after lib.sh and setup.sh.

readonly JUDGE_PACKAGES=(binutils clang-14 gcc g++ make)

# amalgamate [FOLDER]: writes tdp_judge.h and tdp_judge.cc.
amalgamate() {
  local folder=${1:-judge-dist}
  require python3
  python3 scripts/amalgamate.py "$folder" ||
    die "the judge could not be written to $folder" "see the message above"
  say "wrote $folder/tdp_judge.h and $folder/tdp_judge.cc"
}

# A folder with what a stranger has: the two files, and the example.
judge_folder() {
  python3 scripts/amalgamate.py "$1" && cp examples/judge/* "$1/"
}

# Both compilers take the file without a word, and the Makefile makes a judge of it.
judge_builds() {
  local compiler
  for compiler in clang++-14 g++; do
    (cd "$1" && "$compiler" -std=c++20 -O2 -g -Wall -Wextra -Werror -c tdp_judge.cc) || return 1
  done
  (cd "$1" && make -s judge)
}

judge_clean() { "$1/judge" --operations "${2:-20000}" --seconds 1200; }

# judge_planted FOLDER NUMBER [FLAG]…: the signature that a planted mistake is found by.
judge_planted() {
  local folder=$1 number=$2 source=small_ept.c objects=(adapter.o)
  shift 2
  ((number < 101)) || { source=small_cr3.c objects=(); }
  ((number < 121)) || source=small_hooks.c
  ((number < 131)) || source=small_npt.c
  (cd "$folder" && gcc -std=c99 -O1 -g "-DPLANTED=$number" "$@" -c "$source" -o planted.o &&
    g++ planted.o "${objects[@]}" tdp_judge.o -o judge_planted &&
    ./judge_planted --first --seconds 120 --json 2>/dev/null) |
    sed -n 's/^ *{"signature": "\([^"]*\)".*/\1/p'
}

# Each planted mistake is found, and the finding is of its class.
judge_finds() {
  local number class rest found missed=0
  (cd "$1" && make -s judge) || return 1
  while read -r number class rest; do
    [[ $number == [0-9]* ]] || continue
    found=$(judge_planted "$1" "$number" -fsanitize=thread)
    [[ $found =~ $class ]] || { echo "planted $number ($rest): found '$found'"; missed=1; }
  done <"$1/planted.txt"
  return "$missed"
}

# Without instrumentation the same mistakes are found by what the tables are at the end.
judge_finds_uninstrumented() {
  local found missed=0 number class
  (cd "$1" && make -s judge && cp adapter.o instrumented.o &&
    gcc -std=c99 -DNOT_INSTRUMENTED -c adapter.c) || return 1
  while read -r number class; do
    found=$(judge_planted "$1" "$number")
    [[ $found =~ $class ]] || { echo "planted $number uninstrumented: found '$found'"; missed=1; }
  done <<'CLASSES'
16 ^rights-wider
20 ^rights-narrower
23 ^wrong-frame
27 ^stale
40 ^mapping-lost
52 ^freed-linked
56 ^maps-unasked
CLASSES
  mv "$1/instrumented.o" "$1/adapter.o"
  return "$missed"
}

# Other correct ways: writes found by D bits, under a guest that writes between a load and a store
# of the subject; splits that are not flushed.
judge_variants() {
  local variant
  for variant in DIRTY_BITS LAZY_SPLITS; do
    (cd "$1" && gcc -std=c99 -O1 -g -Wall -Wextra -fsanitize=thread "-D$variant=1" -c small_ept.c \
        -o variant.o && g++ variant.o adapter.o tdp_judge.o -o judge_variant &&
      ./judge_variant --operations 20000 --seconds 600) || return 1
  done
}

# Tables that are there from the start, in static arrays.
judge_hooks() {
  (cd "$1" && gcc -std=c99 -O1 -g -Wall -Wextra -fsanitize=thread -c small_hooks.c &&
    g++ small_hooks.o tdp_judge.o -o judge_hooks && ./judge_hooks --operations 5000 --seconds 600)
}

# The other formats, and the ways of seeing stores that need another build.
judge_npt() {
  (cd "$1" && gcc -std=c99 -O1 -g -Wall -Wextra -fsanitize=thread -c small_npt.c &&
    g++ small_npt.o tdp_judge.o -o judge_npt && ./judge_npt --operations 20000 --seconds 600)
}
judge_cr3() {
  (cd "$1" && gcc -std=c99 -O1 -g -Wall -Wextra -fsanitize=thread -c small_cr3.c &&
    g++ small_cr3.o tdp_judge.o -o judge_cr3 && ./judge_cr3 --operations 20000 --seconds 600)
}
judge_traced_stores() {
  (cd "$1" && clang-14 -std=c99 -O1 -g -fsanitize-coverage=func,trace-stores -c small_ept.c \
      -o traced.o && clang-14 -std=c99 -c adapter.c -o traced_adapter.o &&
    g++ traced.o traced_adapter.o tdp_judge.o -o judge_traced &&
    ./judge_traced --operations 5000 --seconds 600)
}
judge_steps() {
  (cd "$1" && gcc -std=c99 -O1 -g -c small_ept.c -o plain.o &&
    g++ plain.o adapter.o tdp_judge.o -o judge_plain &&
    ./judge_plain --step --operations 200 --seconds 600)
}
# A subject that says it is instrumented and is not is told so, and exits with 2; so is one whose
# flush is that of another format.
judge_tells_misuse() {
  (cd "$1" && ./judge_plain --operations 200 2>misuse; [[ $? == 2 ]] &&
    grep -q "claims TDPJ_INSTRUMENTED" misuse || exit 1
    sed 's/tdpj_invlpg(address)/tdpj_invept(1, address)/' small_cr3.c >misused.c &&
      gcc -std=c99 -c misused.c && g++ misused.o tdp_judge.o -o judge_misused || exit 1
    ./judge_misused --operations 200 2>misuse; [[ $? == 2 ]] &&
      grep -q "tdpj_invept was called, but contract.format is TDPJ_FORMAT_CR3" misuse)
}
# Exit statuses, a finding's text replayed, and known signatures.
judge_options() {
  (
    cd "$1" || exit 1
    rm -f small_ept.o && make -s judge PLANT=-DPLANTED=47 || exit 1
    ./judge --first --seconds 60 2>finding
    [[ $? == 1 ]] && grep -q '^leak.end$' finding || exit 1
    ./judge --replay finding 2>replayed
    [[ $? == 1 ]] && grep -q '^leak.end$' replayed || exit 1
    echo 'leak.end  # the root' >known
    ./judge --operations 500 --known known --json >json 2>/dev/null || exit 1
    python3 -c 'import json; assert json.load(open("json"))["findings"][0]["known"]' || exit 1
    for bad in '--seconds soon' '--seconds nan' '--seconds -1' '--seconds' '--operations -5' \
      '--seed 0x' '--seed 99999999999999999999' '--no-such'; do
      # shellcheck disable=SC2086  # an option and its value
      ./judge $bad 2>/dev/null
      [[ $? == 2 ]] || exit 1
    done
    ./judge --help | grep -q '^usage: ' || exit 1
    ./judge --explore-contract >/dev/null
    rm -f small_ept.o && make -s judge
  )
}
judge_fuzzes() {
  (cd "$1" && clang-14 -std=c99 -O1 -g -fsanitize=fuzzer-no-link \
      -fsanitize-coverage=func,trace-stores -c small_ept.c -o fuzzed.o &&
    clang++-14 -std=c++20 -O1 -g -DTDPJ_FUZZ -c tdp_judge.cc -o fuzzed_judge.o &&
    clang++-14 -fsanitize=fuzzer fuzzed.o traced_adapter.o fuzzed_judge.o -o judge_fuzzer &&
    ./judge_fuzzer -runs=2000 -seed=1 >fuzz.log 2>&1 || { tail -20 fuzz.log; exit 1; })
}

# AFL++ runs the same entry: it finds nothing in the correct tables, and a planted mistake. Its seed
# input is one step, so that it does not begin with a finding.
judge_fuzzes_with_afl() {
  local planted
  (
    cd "$1" && mkdir -p afl_seeds && head -c 8 /dev/zero >afl_seeds/one_step || exit 1
    export AFL_QUIET=1 AFL_NO_UI=1 AFL_NO_AFFINITY=1 AFL_SKIP_CPUFREQ=1
    export AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES=1 # where the kernel pipes core dumps to a program
    clang++-14 -std=c++20 -O1 -g -DTDPJ_FUZZ -c tdp_judge.cc -o fuzzed_judge.o || exit 1
    for planted in 0 27; do
      afl-clang-fast -std=c99 -O1 -g -fsanitize=thread "-DPLANTED=$planted" -c small_ept.c \
        -o afl.o && afl-clang-fast++ afl.o adapter.o fuzzed_judge.o /usr/lib/afl/libAFLDriver.a \
        -o "afl_$planted" || exit 1
    done
    afl-fuzz -E 3000 -i afl_seeds -o afl_out_0 -- ./afl_0 >afl.log 2>&1 &&
      ! ls afl_out_0/default/crashes/id* >/dev/null 2>&1 &&
      AFL_BENCH_UNTIL_CRASH=1 timeout 300 \
        afl-fuzz -i afl_seeds -o afl_out_27 -- ./afl_27 >>afl.log 2>&1 &&
      ls afl_out_27/default/crashes/id* >/dev/null || { tail -20 afl.log; exit 1; }
  )
}

# judge_tests [COUNTS_FILE]: each as one test.
judge_tests() {
  local work status=0
  require "${JUDGE_PACKAGES[@]}" afl++ libclang-rt-14-dev python3
  work=$(mktemp -d)
  judge_folder "$work"
  count_each judge "${1:-}" "$work" \
    builds clean cr3 npt variants hooks traced_stores steps tells_misuse options fuzzes \
    fuzzes_with_afl finds finds_uninstrumented || status=1
  rm -rf "$work"
  return "$status"
}

# judge_vm [SUBJECT] [OPTION]…: this library's own tables before the judge, built so that it sees
# their stores. Without options ten seconds for each way of using a Vm.
judge_vm() {
  setup_build
  build_as traced //tests/judge:vm_judge
  bazel-bin/tests/judge/vm_judge "$@"
}

# A million operations of the correct example, for a nightly job.
judge_nightly() {
  local work status=0
  require "${JUDGE_PACKAGES[@]}" python3
  work=$(mktemp -d)
  judge_folder "$work" && (cd "$work" && make -s judge) && judge_clean "$work" 1000000 || status=1
  rm -rf "$work"
  return "$status"
}
