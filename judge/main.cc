// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The ready main(). A program with one of its own, a test for instance, defines TDPJ_NO_MAIN in the
// amalgamated file's compilation.

#include "tdp/judge/tdp_judge.h"

#if !defined(TDPJ_NO_MAIN) && !defined(TDPJ_FUZZ)
int main(int argc, char** argv) { return tdpj_main(argc, argv); }
#endif
