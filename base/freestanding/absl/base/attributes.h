// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A stand-in for Abseil's header of this name: docs/embedding.md, "Freestanding".

#ifndef TDP_BASE_FREESTANDING_ABSL_BASE_ATTRIBUTES_H_
#define TDP_BASE_FREESTANDING_ABSL_BASE_ATTRIBUTES_H_

#define ABSL_ATTRIBUTE_ALWAYS_INLINE __attribute__((always_inline))
#define ABSL_ATTRIBUTE_NOINLINE __attribute__((noinline))
#define ABSL_ATTRIBUTE_NO_SANITIZE_THREAD __attribute__((no_sanitize("thread")))

#endif  // TDP_BASE_FREESTANDING_ABSL_BASE_ATTRIBUTES_H_
