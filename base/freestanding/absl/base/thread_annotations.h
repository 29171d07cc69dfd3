// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A stand-in for Abseil's header of this name: docs/embedding.md, "Freestanding". The annotations
// are checked in the builds with Abseil; here they say nothing.

#ifndef TDP_BASE_FREESTANDING_ABSL_BASE_THREAD_ANNOTATIONS_H_
#define TDP_BASE_FREESTANDING_ABSL_BASE_THREAD_ANNOTATIONS_H_

#define ABSL_ACQUIRED_AFTER(...)
#define ABSL_ACQUIRED_BEFORE(...)
#define ABSL_ASSERT_EXCLUSIVE_LOCK(...)
#define ABSL_ASSERT_SHARED_LOCK(...)
#define ABSL_EXCLUSIVE_LOCKS_REQUIRED(...)
#define ABSL_EXCLUSIVE_LOCK_FUNCTION(...)
#define ABSL_EXCLUSIVE_TRYLOCK_FUNCTION(...)
#define ABSL_GUARDED_BY(...)
#define ABSL_LOCKABLE
#define ABSL_LOCKS_EXCLUDED(...)
#define ABSL_LOCK_RETURNED(...)
#define ABSL_NO_THREAD_SAFETY_ANALYSIS
#define ABSL_PT_GUARDED_BY(...)
#define ABSL_SCOPED_LOCKABLE
#define ABSL_SHARED_LOCKS_REQUIRED(...)
#define ABSL_SHARED_LOCK_FUNCTION(...)
#define ABSL_SHARED_TRYLOCK_FUNCTION(...)
#define ABSL_UNLOCK_FUNCTION(...)

#endif  // TDP_BASE_FREESTANDING_ABSL_BASE_THREAD_ANNOTATIONS_H_
