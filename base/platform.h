/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
 *
 * What the freestanding core (TDP_FREESTANDING, docs/embedding.md) asks of the machine that it runs
 * on: aligned memory, a mutex with a condition, a way to give the CPU away, and a way to stop.
 * Nothing else: whatever else it does it does through `tdp::Backend`.
 *
 * The embedder defines these ten functions, in C or in C++; this header is both. They are called
 * from every thread that calls the library and only from inside of its calls. None of them may call
 * the library. The hosted core does not use them: it has operator new, absl::Mutex and stderr.
 *
 * Besides these the core needs memcpy, memmove, memset and memcmp, as every compiler's output does.
 */

#ifndef TDP_BASE_PLATFORM_H_
#define TDP_BASE_PLATFORM_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* At least `bytes` (1 or more) of memory, aligned to `alignment`: a power of two, 16 to 4096. Its
 * content does not matter. Null if there is none: a call whose documentation names
 * ResourceExhausted for it then answers with that, any other ends in `tdp_platform_panic`.
 *
 * Never called while a fault is answered from the tables that a vCPU has in stock; otherwise called
 * with locks of the library held, so it must not wait for anything that another call of the library
 * would do. Table memory does not come from here but from `Backend::AllocateTableBlock`. */
void* tdp_platform_allocate(size_t bytes, size_t alignment);

/* Takes back what `tdp_platform_allocate` returned; never null. */
void tdp_platform_free(void* memory);

/* Room for a mutex with a condition, in whatever form the platform has them: in place, or as a
 * pointer to something of its own. */
struct TdpPlatformMutex {
  uintptr_t words[8];
};

/* Called once each, before the first and after the last use of `*mutex`, whose words are 0 before.
 * A platform that allocates here and cannot has to stop: there is no answer for "no memory". */
void tdp_platform_mutex_init(struct TdpPlatformMutex* mutex);
void tdp_platform_mutex_destroy(struct TdpPlatformMutex* mutex);

/* Mutual exclusion, with acquire and release ordering. Not reentrant. Most are held for a few dozen
 * instructions, but not all: one by which changes of slots and of logs come one after another is
 * held over `Backend::Kick` and until vCPUs have left the guest, with calls of
 * `tdp_platform_yield`. So whoever waits here lets other threads run meanwhile: it sleeps, or calls
 * what `tdp_platform_yield` does. Spinning alone will do where each thread has a CPU of its own. */
void tdp_platform_mutex_lock(struct TdpPlatformMutex* mutex);
void tdp_platform_mutex_unlock(struct TdpPlatformMutex* mutex);

/* Called with `*mutex` held: releases it, waits for a call of `tdp_platform_mutex_wake` that comes
 * after the release, and takes it again. May return earlier, even at once: the caller looks again
 * at what it waits for. */
void tdp_platform_mutex_wait(struct TdpPlatformMutex* mutex);

/* Called with `*mutex` held: ends the wait of all that wait now. */
void tdp_platform_mutex_wake(struct TdpPlatformMutex* mutex);

/* The caller has looked some 64 times (a microsecond) for what another thread is about to do: lets
 * that thread run. On a machine without threads, a pause instruction. */
void tdp_platform_yield(void);

/* Says `text` and stops; does not return. A check has failed (a mistake in the embedder's calls or
 * in the library, named in `text`), or memory has run out where no error can be returned. `text`
 * ends with a 0 and lives for the call. */
__attribute__((noreturn)) void tdp_platform_panic(const char* text);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* TDP_BASE_PLATFORM_H_ */
