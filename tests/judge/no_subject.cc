// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A program that judges none has to have a subject, too.

#include "tdp/judge/tdp_judge.h"

const tdpj_subject* tdpj_get_subject(void) { return nullptr; }
