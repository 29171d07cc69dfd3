#!/bin/bash -eu
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#
# OSS-Fuzz calls this with CC, CXX, CFLAGS, CXXFLAGS, LIB_FUZZING_ENGINE, SRC, WORK and OUT set. The
# subject alone has its stores traced; the judge is plain.

python3 scripts/amalgamate.py "$WORK/judge"
cp examples/judge/*.[ch] "$WORK/judge/"
cd "$WORK/judge"
$CC $CFLAGS -std=c99 -fsanitize-coverage=func,trace-stores -c small_ept.c -o small_ept.o
$CC $CFLAGS -std=c99 -c adapter.c -o adapter.o
$CXX $CXXFLAGS -std=c++20 -DTDPJ_FUZZ -c tdp_judge.cc -o tdp_judge.o
$CXX $CXXFLAGS small_ept.o adapter.o tdp_judge.o $LIB_FUZZING_ENGINE -o "$OUT/small_ept_fuzzer"
