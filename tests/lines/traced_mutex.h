// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Traced code includes this before everything else. Abseil's archive tells nobody what it stores,
// so the calls by which base/sync.h reaches Abseil's mutex tell it: these overloads are preferred
// to the templates of base/absl_mutex.h.

#ifndef TDP_TESTS_LINES_TRACED_MUTEX_H_
#define TDP_TESTS_LINES_TRACED_MUTEX_H_

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "tdp/base/absl_mutex.h"
#include "tests/lines/access_record.h"

namespace tdp::internal {

inline void Lock(absl::Mutex& mutex) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  lines::NoteStore(&mutex, sizeof(mutex));
  Lock<absl::Mutex>(mutex);
}
inline void Unlock(absl::Mutex& mutex) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  lines::NoteStore(&mutex, sizeof(mutex));
  Unlock<absl::Mutex>(mutex);
}
inline void LockShared(absl::Mutex& mutex) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  lines::NoteStore(&mutex, sizeof(mutex));
  LockShared<absl::Mutex>(mutex);
}
inline void UnlockShared(absl::Mutex& mutex) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  lines::NoteStore(&mutex, sizeof(mutex));
  UnlockShared<absl::Mutex>(mutex);
}

}  // namespace tdp::internal

#endif  // TDP_TESTS_LINES_TRACED_MUTEX_H_
