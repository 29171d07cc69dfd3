// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A stand-in for Abseil's header of this name: docs/embedding.md, "Freestanding".

#ifndef TDP_BASE_FREESTANDING_ABSL_BASE_OPTIMIZATION_H_
#define TDP_BASE_FREESTANDING_ABSL_BASE_OPTIMIZATION_H_

#define ABSL_PREDICT_TRUE(condition) (__builtin_expect(false || (condition), true))
#define ABSL_PREDICT_FALSE(condition) (__builtin_expect(false || (condition), false))

#endif  // TDP_BASE_FREESTANDING_ABSL_BASE_OPTIMIZATION_H_
