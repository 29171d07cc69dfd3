#!/bin/bash -eu
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#
# OSS-Fuzz calls this with CC, CXX, CFLAGS, CXXFLAGS, LIB_FUZZING_ENGINE, SRC, WORK and OUT set. The
# subject alone has its stores traced; the judge is plain. The compiler of AFL++ drops the option
# that traces stores, so there those of the thread sanitizer are taken, which goes with no other.

python3 scripts/amalgamate.py "$WORK/judge"
cp examples/judge/*.[ch] "$WORK/judge/"
cd "$WORK/judge"
stores=-fsanitize-coverage=func,trace-stores
subject_flags=$CFLAGS
if [[ ${FUZZING_ENGINE:-libfuzzer} == afl ]]; then
  stores=-fsanitize=thread
  subject_flags=$(sed -E 's/-fsanitize(-address-[a-z-]+)?=[^ ]*//g' <<<"$CFLAGS")
fi
$CC $subject_flags -std=c99 $stores -c small_ept.c -o small_ept.o
$CC $CFLAGS -std=c99 -c adapter.c -o adapter.o
$CXX $CXXFLAGS -std=c++20 -DTDPJ_FUZZ -c tdp_judge.cc -o tdp_judge.o
$CXX $CXXFLAGS small_ept.o adapter.o tdp_judge.o $LIB_FUZZING_ENGINE -o "$OUT/small_ept_fuzzer"
