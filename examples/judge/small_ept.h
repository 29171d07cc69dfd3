/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
 *
 * A small EPT of four levels, as a small hypervisor has one: any ranges, leaves of 4K and 2M,
 * tables freed after the flush, dirty logging by write-protection. One guest, one thread.
 */
#ifndef TDP_EXAMPLES_JUDGE_SMALL_EPT_H_
#define TDP_EXAMPLES_JUDGE_SMALL_EPT_H_

#include <stdint.h>

/* What the hypervisor around it gives. */
void* host_alloc_frame(void);
void host_free_frame(void* frame);
uint64_t host_phys(const void* p);
void* host_virt(uint64_t phys);
int host_invept(int type, uint64_t eptp);
int host_invvpid(int type, unsigned vpid, uint64_t address);
void host_panic(const char* what) __attribute__((noreturn));

enum { EPT_READ = 1, EPT_WRITE = 2, EPT_EXECUTE = 4 };

/* Each returns 0, or -1 with nothing changed if there is no memory. */
int ept_create(void);
void ept_destroy(void);
uint64_t ept_pointer(void);
int ept_map(uint64_t gpa, uint64_t hpa, uint64_t size, unsigned rights, unsigned memory_type);
int ept_unmap(uint64_t gpa, uint64_t size);
int ept_protect(uint64_t gpa, uint64_t size, unsigned rights);
int ept_lookup(uint64_t gpa, uint64_t* hpa);
int ept_log_start(uint64_t gpa, uint64_t size);
int ept_log_stop(uint64_t gpa, uint64_t size);
int ept_log_harvest(uint64_t gpa, uint64_t size, void (*page)(uint64_t gpa));
/* 1 if the access may be tried again. */
int ept_fault(uint64_t gpa, uint64_t qualification);
int ept_split(uint64_t gpa, uint64_t size);
int ept_merge(uint64_t gpa, uint64_t size);

#endif /* TDP_EXAMPLES_JUDGE_SMALL_EPT_H_ */
