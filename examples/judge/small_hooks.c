/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
 *
 * A thin hypervisor's EPT before the judge, subject and adapter in one file: guest memory is mapped
 * to itself from the start, by large leaves, in static arrays; single pages are hooked (another
 * frame, other rights) and released. No table is ever freed, no fault ever fixed.
 */
#include "tdp_judge.h"

/* As in small_ept.c: mistakes by number, none without one. */
#ifndef PLANTED
#define PLANTED 0
#endif
#define BUG(n) (PLANTED == (n))

#define ENTRIES 512u
#define PAGE 0x1000ull
#define RIGHTS 7ull
#define WRITE_BACK (6ull << 3)
#define LARGE (1ull << 7)
#define ADDRESS 0x000ffffffffff000ull
#define GIB 4u    /* of guest memory */
#define SPLITS 4 /* large leaves that can be split */

#define ALIGNED __attribute__((aligned(4096)))
static ALIGNED uint64_t level4[ENTRIES], level3[ENTRIES];
static ALIGNED uint64_t level2[GIB][ENTRIES], level1[SPLITS][ENTRIES];
static unsigned splits;

static void put(uint64_t *place, uint64_t entry) {
  __atomic_store_n(place, entry, __ATOMIC_RELEASE);
}

static uint64_t root(void) { return tdpj_phys(level4) | 3 << 3 | 6; }

static void flush(void) {
  if (!BUG(121)) tdpj_invept(2, 0);
}

static void start(void) {
  unsigned i, j;
  splits = 0;
  for (i = 0; i < ENTRIES; ++i) level4[i] = level3[i] = 0;
  for (i = 0; i < GIB; ++i) {
    for (j = 0; j < ENTRIES; ++j) {
      const uint64_t frame = (uint64_t)(i * ENTRIES + j) << 21;
      level2[i][j] = (BUG(122) && i == 1 ? 0 : frame) | RIGHTS | WRITE_BACK | LARGE;
    }
    level3[i] = tdpj_phys(level2[i]) | RIGHTS;
  }
  level4[0] = tdpj_phys(level3) | RIGHTS;
}

/* The level-1 entry of the page, for which its large leaf is split; null: no table is left. */
static uint64_t *page_entry(uint64_t gpa) {
  uint64_t *place = &level2[gpa >> 30][gpa >> 21 & (ENTRIES - 1)];
  const uint64_t leaf = *place;
  if ((leaf & LARGE) != 0) {
    uint64_t *table = level1[splits];
    unsigned i;
    if (splits == SPLITS) return 0;
    ++splits;
    for (i = 0; i < ENTRIES; ++i) put(&table[i], (leaf & ~LARGE) + (BUG(123) ? 0 : i * PAGE));
    put(place, tdpj_phys(table) | RIGHTS);
    return &table[gpa / PAGE % ENTRIES];
  }
  return (uint64_t *)tdpj_virt(leaf & ADDRESS) + gpa / PAGE % ENTRIES;
}

/* Shows the guest another frame, or the page itself again. */
static int hook(uint64_t gpa, uint64_t hpa, uint64_t size, unsigned rights, unsigned memory_type) {
  uint64_t *place = page_entry(gpa);
  (void)size;
  (void)memory_type;
  if (place == 0) return BUG(124) ? -1 : TDPJ_NO_MEMORY;
  put(place, hpa | rights | WRITE_BACK);
  flush();
  return 0;
}

static int set_rights(uint64_t gpa, uint64_t size, unsigned rights) {
  uint64_t *place = page_entry(gpa);
  (void)size;
  if (place == 0) return TDPJ_NO_MEMORY;
  put(place, (*place & ~RIGHTS) | rights);
  flush();
  return 0;
}

static int create(void) {
  if (tdpj_adopt(level4, sizeof level4) == 0 || tdpj_adopt(level3, sizeof level3) == 0 ||
      tdpj_adopt(level2, sizeof level2) == 0 || tdpj_adopt(level1, sizeof level1) == 0) {
    return -1;
  }
  start();
  return 0;
}

static void destroy(void) {}

static const struct tdpj_subject subject = {
    .name = "small_hooks",
    .contract = {.range = TDPJ_RANGE_PAGE,
                 .map_over = TDPJ_OVER_ONLY,
                 .claims = TDPJ_NO_HOLES | TDPJ_ALL_OR_NOTHING | TDPJ_FREES_ALL |
                           TDPJ_INSTRUMENTED,
                 .protect_part = 1,
                 .rights_count = 4,
                 .rights = {TDPJ_R | TDPJ_W | TDPJ_X, TDPJ_R | TDPJ_X, TDPJ_R, TDPJ_X},
                 .gpa_limit = GIB * (1ull << 30),
                 .hpa_limit = 1ull << 45,
                 .initial_size = GIB * (1ull << 30)},
    .create = create,
    .destroy = destroy,
    .eptp = root,
    .map = hook,
    .protect = set_rights,
};

const struct tdpj_subject *tdpj_get_subject(void) { return &subject; }
