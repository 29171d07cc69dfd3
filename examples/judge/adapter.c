/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
 *
 * small_ept before the judge: its host calls lead to the judge, and its contract says what it may
 * be asked. docs/judge.md walks through this file.
 */
#include "small_ept.h"
#include "tdp_judge.h"

void *host_alloc_frame(void) { return tdpj_alloc(); }
void host_free_frame(void *frame) { tdpj_free(frame); }
uint64_t host_phys(const void *p) { return tdpj_phys(p); }
void *host_virt(uint64_t phys) { return tdpj_virt(phys); }
int host_invept(int type, uint64_t eptp) { return tdpj_invept(type, eptp); }
int host_invvpid(int type, unsigned vpid, uint64_t address) {
  return tdpj_invvpid(type, vpid, address);
}
void host_panic(const char *what) { tdpj_fatal(what); }

/* Without it, as where the tables' sources are compiled by others, the judge looks after operations
 * only. */
#ifdef NOT_INSTRUMENTED
#define INSTRUMENTED 0
#else
#define INSTRUMENTED TDPJ_INSTRUMENTED
#endif

static const struct tdpj_subject subject = {
    .name = "small_ept",
    .contract = {.range = TDPJ_RANGE_ANY,
                 .map_over = TDPJ_OVER_REPLACES,
                 .flush = TDPJ_FLUSH_BY_RETURN,
                 .claims = TDPJ_NO_HOLES | TDPJ_ALL_OR_NOTHING | TDPJ_FREES_ALL | TDPJ_PRUNES |
                           INSTRUMENTED,
                 .unmap_hole = 1,
                 .unmap_part = 1,
                 .protect_hole = 1,
                 .protect_part = 1,
                 .max_order = 12,
                 .rights_count = 4,
                 .rights = {TDPJ_R, TDPJ_R | TDPJ_W, TDPJ_R | TDPJ_X, TDPJ_R | TDPJ_W | TDPJ_X},
                 .type_count = 2,
                 .types = {6, 0},
                 .gpa_limit = 1ull << 48,
                 .hpa_limit = 1ull << 45},
    .create = ept_create,
    .destroy = ept_destroy,
    .eptp = ept_pointer,
    .map = ept_map,
    .unmap = ept_unmap,
    .protect = ept_protect,
    .lookup = ept_lookup,
    .dirty_start = ept_log_start,
    .dirty_stop = ept_log_stop,
    .dirty_harvest = ept_log_harvest,
    .fault = ept_fault,
    .split = ept_split,
    .merge = ept_merge,
};

const struct tdpj_subject *tdpj_get_subject(void) { return &subject; }
