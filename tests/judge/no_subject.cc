// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The subject of a program that judges none.

#include "tdp/judge/tdp_judge.h"

const tdpj_subject* tdpj_get_subject(void) { return nullptr; }
