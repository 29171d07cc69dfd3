// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// ThreadSanitizer reports a race that is none: Abseil maps the memory of a thread's identity inside
// `Mutex`, where the sanitizer is told not to look, so it misses that the thread that wakes it up
// got the identity's address through that same mutex.

extern "C" const char* __tsan_default_suppressions();

const char* __tsan_default_suppressions() { return "race:AbslInternalPerThreadSemPost\n"; }
