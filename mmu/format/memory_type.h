// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// x86 memory types, where the formats of entries look for them.

#ifndef TDP_MMU_FORMAT_MEMORY_TYPE_H_
#define TDP_MMU_FORMAT_MEMORY_TYPE_H_

#include "tdp/base/access.h"

#endif  // TDP_MMU_FORMAT_MEMORY_TYPE_H_
