/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
 *
 * AMD's nested tables before the judge, subject and adapter in one file: pages of 4 KiB and 2 MiB,
 * flushes that wait for the next VMRUN and are a new ASID as long as there is one, a new root in
 * place of unmapping everything. The guest has left its CPU while tables change.
 */
#include "tdp_judge.h"

/* As in small_ept.c: mistakes by number, none without one. */
#ifndef PLANTED
#define PLANTED 0
#endif
#define BUG(n) (PLANTED == (n))

#define ENTRIES 512u
#define PAGE 0x1000ull
#define LARGE 0x200000ull
#define PRESENT 1ull
#define WRITE 2ull
#define USER 4ull
#define LARGE_PAGE (1ull << 7)
#define NO_EXECUTE (1ull << 63)
#define ADDRESS 0x000ffffffffff000ull
#define FLAGS (PRESENT | WRITE | USER | NO_EXECUTE)
#define ASIDS 4u /* of the CPU: from 1 to this */
#define PENDING 4096u

static uint64_t *root;
static uint64_t mapped; /* pages */
static unsigned asid;
static int owes_flush;
static uint64_t *pending[PENDING]; /* tables that are freed after the flush */
static unsigned pending_count;

static void put(uint64_t *place, uint64_t entry) {
  __atomic_store_n(place, entry, __ATOMIC_RELEASE);
}

static uint64_t *new_table(void) {
  uint64_t *table = tdpj_alloc();
  unsigned i;
  for (i = 0; table != 0 && i < ENTRIES; ++i) put(&table[i], 0);
  return table;
}

static void free_later(uint64_t *table) {
  if (pending_count == PENDING) {
    tdpj_free(table);
  } else {
    pending[pending_count++] = table;
  }
}

static uint64_t *entry_of(uint64_t *table, uint64_t gpa, int level) {
  return &table[gpa >> (12 + 9 * (level - 1)) & (ENTRIES - 1)];
}

static uint64_t *below(uint64_t entry) { return tdpj_virt(entry & ADDRESS); }

static uint64_t link(const uint64_t *table) {
  return tdpj_phys(table) | PRESENT | WRITE | (BUG(131) ? 0 : USER);
}

/* A table of pages in place of a large one. 0 is success. */
static int split(uint64_t *place) {
  uint64_t *table = new_table();
  unsigned i;
  if (table == 0) return -1;
  for (i = 0; i < ENTRIES; ++i) {
    put(&table[i], (*place & FLAGS) | ((*place & ADDRESS) + (BUG(140) ? 0 : i * PAGE)));
  }
  put(place, link(table));
  owes_flush = 1;
  return 0;
}

/* The place of the entry of `level` for `gpa`, or of a large page above it. Null: there is no table,
 * or no memory for one that `make` asks for. */
static uint64_t *place_of(uint64_t gpa, int level, int make) {
  uint64_t *table = root;
  int at;
  for (at = 4; at > level; --at) {
    uint64_t *place = entry_of(table, gpa, at);
    if ((*place & LARGE_PAGE) != 0 && at == 2) return place;
    if ((*place & PRESENT) == 0) {
      uint64_t *next = make ? new_table() : 0;
      if (next == 0) return 0;
      put(place, link(next));
    }
    table = below(*place);
  }
  return entry_of(table, gpa, level);
}

static uint64_t leaf_bits(unsigned rights) {
  return PRESENT | (BUG(132) ? 0 : USER) | ((rights & TDPJ_W) != 0 ? WRITE : 0) |
         ((rights & TDPJ_X) != 0 || BUG(138) ? 0 : NO_EXECUTE);
}

static int is_large(const uint64_t *place) { return (*place & LARGE_PAGE) != 0; }

static void free_below(uint64_t *table, int level) {
  unsigned i;
  for (i = 0; level > 1 && i < ENTRIES; ++i) {
    const int is_table = (table[i] & PRESENT) != 0 && (level > 2 || (table[i] & LARGE_PAGE) == 0);
    if (is_table) free_below(below(table[i]), level - 1);
  }
  free_later(table);
}

/* Everything goes at once: the guest is entered on another root. */
static int replace_root(void) {
  uint64_t *old = root;
  uint64_t *next = new_table();
  if (next == 0) return -1;
  root = next;
  mapped = 0;
  if (!BUG(139)) free_below(old, 4);
  owes_flush = !BUG(135) && !BUG(139);
  return 0;
}

/* Whether [begin, begin + size) cuts no large page any more; 0: it does not. */
static int split_ends(uint64_t begin, uint64_t size) {
  const uint64_t ends[2] = {begin, begin + size};
  int i;
  for (i = 0; i < 2; ++i) {
    uint64_t *place = ends[i] % LARGE == 0 ? 0 : place_of(ends[i], 2, 0);
    if (place != 0 && is_large(place) && split(place) != 0) return -1;
  }
  return 0;
}

/* Unmaps, or with `rights` not 0 changes what is mapped. */
static int change(uint64_t begin, uint64_t size, unsigned rights) {
  uint64_t at;
  if (split_ends(begin, size) != 0) return -1;
  for (at = begin; at < begin + size;) {
    uint64_t *place = place_of(at, 1, 0);
    const int large = place != 0 && is_large(place);
    if (place != 0 && *place != 0) {
      const uint64_t kept = *place & (ADDRESS | LARGE_PAGE);
      if (rights == 0) mapped -= large ? LARGE / PAGE : 1;
      put(place, rights == 0 ? 0 : kept | leaf_bits(rights));
      owes_flush = 1;
    }
    at += large ? LARGE - at % LARGE : PAGE;
  }
  return 0;
}

static uint64_t pages_in(uint64_t begin, uint64_t size) {
  uint64_t at;
  uint64_t count = 0;
  for (at = begin; at < begin + size; at += PAGE) {
    const uint64_t *place = place_of(at, 1, 0);
    count += place != 0 && *place != 0;
  }
  return count;
}

static int unmap(uint64_t begin, uint64_t size) {
  if (mapped != 0 && pages_in(begin, size) == mapped && replace_root() == 0) return 0;
  return change(begin, size, 0);
}

static int protect(uint64_t begin, uint64_t size, unsigned rights) {
  return change(begin, size, rights);
}

static int map_one(uint64_t gpa, uint64_t hpa, uint64_t size, unsigned rights) {
  const int level = size == LARGE ? 2 : 1;
  uint64_t *place = place_of(gpa, level, 1);
  if (place == 0) return -1;
  /* Where a table of pages is, a large page is not put in its place. */
  if (level == 2 && *place != 0) {
    uint64_t at;
    for (at = 0; at < LARGE; at += PAGE) map_one(gpa + at, hpa + at, PAGE, rights);
    return 0;
  }
  put(place, hpa | leaf_bits(rights) | (level == 2 ? LARGE_PAGE | (BUG(141) ? 1u << 13 : 0) : 0));
  mapped += size / PAGE;
  return 0;
}

static int map(uint64_t begin, uint64_t hpa, uint64_t size, unsigned rights, unsigned type) {
  uint64_t at = 0;
  (void)type;
  if (pages_in(begin, size) != 0) return -1;
  while (at < size) {
    const int fits = (begin + at) % LARGE == 0 && (hpa + at) % LARGE == 0 && size - at >= LARGE;
    const uint64_t step = fits ? LARGE : PAGE;
    if (map_one(begin + at, hpa + at, step, rights) != 0) {
      change(begin, at, 0);
      return -1;
    }
    at += step;
  }
  return 0;
}

static int lookup(uint64_t gpa, uint64_t *hpa) {
  const uint64_t *place = place_of(gpa, 1, 0);
  if (place == 0 || *place == 0) return 0;
  *hpa = is_large(place) ? (*place & ADDRESS & ~(LARGE - 1)) + gpa % LARGE
                         : (*place & ADDRESS) + gpa % PAGE;
  return 1;
}

/* What the run loop does before VMRUN. */
static void before_entry(void) {
  if (!owes_flush) return;
  if (BUG(133)) return;
  if (BUG(137)) {
    tdpj_invlpga(0, asid);
  } else if (asid < ASIDS) {
    ++asid;
  } else if (BUG(136)) {
    tdpj_vmrun(2, asid);
  } else {
    /* All of them are used up: they begin again. */
    asid = 1;
    if (!BUG(134)) tdpj_vmrun(1, asid);
  }
  owes_flush = 0;
}

static void free_pending(void) {
  while (pending_count != 0) tdpj_free(pending[--pending_count]);
}

static uint64_t vmcb_root(void) { return tdpj_phys(root) | asid; }

/* Tables are freed at the entry after the one that flushed: by then VMRUN has done so. */
static void enter(void) {
  const int flushed = owes_flush;
  before_entry();
  if (!flushed) free_pending();
}

static int create(void) {
  root = new_table();
  mapped = 0;
  asid = 1;
  owes_flush = 0;
  return root == 0 ? -1 : 0;
}

static void destroy(void) {
  free_below(root, 4);
  free_pending();
}

static const struct tdpj_subject subject = {
    .name = "small_npt",
    .contract = {.range = TDPJ_RANGE_ANY,
                 .map_over = TDPJ_OVER_ERROR,
                 .flush = TDPJ_FLUSH_BY_ENTRY,
                 .claims = TDPJ_NO_HOLES | TDPJ_FREES_ALL | TDPJ_GUEST_LEAVES | TDPJ_INSTRUMENTED,
                 .unmap_hole = 1,
                 .unmap_part = 1,
                 .protect_hole = 1,
                 .protect_part = 1,
                 .max_order = 10,
                 .rights_count = 4,
                 .rights = {TDPJ_R, TDPJ_R | TDPJ_W, TDPJ_R | TDPJ_X, TDPJ_R | TDPJ_W | TDPJ_X},
                 .gpa_limit = 1ull << 48,
                 .hpa_limit = 1ull << 45,
                 .format = TDPJ_FORMAT_NPT},
    .create = create,
    .destroy = destroy,
    .eptp = vmcb_root,
    .map = map,
    .unmap = unmap,
    .protect = protect,
    .lookup = lookup,
    .before_entry = enter,
};

const struct tdpj_subject *tdpj_get_subject(void) { return &subject; }
