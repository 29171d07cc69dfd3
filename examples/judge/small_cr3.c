/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
 *
 * A kernel's own page tables (the format CR3) before the judge, subject and adapter in one file:
 * 4 KiB pages, INVLPG for each page that loses something, tables freed after it.
 */
#include "tdp_judge.h"

/* As in small_ept.c: mistakes by number, none without one. */
#ifndef PLANTED
#define PLANTED 0
#endif
#define BUG(n) (PLANTED == (n))

#define ENTRIES 512u
#define PAGE 0x1000ull
#define PRESENT 1ull
#define WRITE 2ull
#define GLOBAL (1ull << 8)
#define NO_EXECUTE (1ull << 63)
#define ADDRESS 0x000ffffffffff000ull

static uint64_t *root;

static void put(uint64_t *place, uint64_t entry) {
  __atomic_store_n(place, entry, __ATOMIC_RELEASE);
}

static void clear(uint64_t *table) {
  unsigned i;
  for (i = 0; i < ENTRIES; ++i) put(&table[i], 0);
}

static uint64_t *new_table(void) {
  uint64_t *table = tdpj_alloc();
  if (table != 0 && !BUG(107) && !BUG(108)) clear(table);
  return table;
}

static uint64_t *entry_of(uint64_t *table, uint64_t address, int level) {
  return &table[address >> (12 + 9 * (level - 1)) & (ENTRIES - 1)];
}

/* The place of the leaf; null if there is no table, or no memory for one that `make` asks for. */
static uint64_t *leaf_of(uint64_t address, int make) {
  uint64_t *table = root;
  int level;
  for (level = 4; level > 1; --level) {
    uint64_t *place = entry_of(table, address, level);
    if ((*place & PRESENT) == 0) {
      uint64_t *next = make ? new_table() : 0;
      if (next == 0) return 0;
      put(place, tdpj_phys(next) | PRESENT | (BUG(105) ? 0 : WRITE));
      if (BUG(107)) clear(next);
    }
    table = tdpj_virt(*place & ADDRESS);
  }
  return entry_of(table, address, 1);
}

static uint64_t bits_of(unsigned rights) {
  return PRESENT | (BUG(114) ? GLOBAL : 0) | ((rights & TDPJ_W) != 0 ? WRITE : 0) |
         ((rights & TDPJ_X) != 0 || BUG(104) ? 0 : NO_EXECUTE);
}

/* No CPU keeps the translation of `address` from here on, nor any upper entry. */
static void forget(uint64_t address) {
  if (BUG(114)) {
    tdpj_mov_cr3();
  } else {
    tdpj_invlpg(address);
  }
}

/* Frees the tables above `address` that are empty, from the leaf's up. */
static void prune(uint64_t *table, uint64_t address, int level) {
  uint64_t *place = entry_of(table, address, level);
  uint64_t *below;
  unsigned i;
  if (level == 1 || (*place & PRESENT) == 0) return;
  below = tdpj_virt(*place & ADDRESS);
  prune(below, address, level - 1);
  for (i = 0; i < ENTRIES; ++i) {
    if (below[i] != 0) return;
  }
  put(place, 0);
  if (BUG(103)) tdpj_free(below);
  forget(address);
  if (!BUG(103)) tdpj_free(below);
}

static int unmap(uint64_t begin, uint64_t size) {
  uint64_t at;
  for (at = begin; at < begin + size; at += PAGE) {
    uint64_t *leaf = leaf_of(at, 0);
    if (leaf == 0 || *leaf == 0) continue;
    put(leaf, 0);
    if (!BUG(101) && (!BUG(102) || at == begin)) forget(at);
    prune(root, at, 4);
  }
  return 0;
}

static int map(uint64_t begin, uint64_t physical, uint64_t size, unsigned rights, unsigned type) {
  const uint64_t beyond = BUG(109) ? 1ull << 50 : 0;
  uint64_t at;
  (void)type;
  for (at = begin; at < begin + size; at += PAGE) {
    const uint64_t *leaf = leaf_of(at, 0);
    if (leaf == 0 || *leaf == 0) continue;
    if (BUG(106)) return 0;
    if (!BUG(115)) return -1;
  }
  for (at = begin; at < begin + size; at += PAGE) {
    uint64_t *leaf = leaf_of(at, 1);
    if (leaf == 0) {
      prune(root, at, 4);
      if (!BUG(113)) unmap(begin, at - begin);
      return -1;
    }
    put(leaf, (physical + (BUG(112) ? 0 : at - begin)) | beyond | bits_of(rights));
  }
  return 0;
}

static int protect(uint64_t begin, uint64_t size, unsigned rights) {
  uint64_t at;
  for (at = begin; at < begin + size; at += PAGE) {
    uint64_t *leaf = leaf_of(at, 0);
    if (leaf == 0 || *leaf == 0) continue;
    put(leaf, (*leaf & ADDRESS) | bits_of(rights));
    if (!BUG(102) || at == begin) forget(at);
  }
  return 0;
}

static int lookup(uint64_t address, uint64_t *physical) {
  const uint64_t *leaf = leaf_of(address, 0);
  if (leaf == 0 || *leaf == 0) return 0;
  *physical = (*leaf & ADDRESS) + (BUG(110) ? PAGE : 0) + (address & (PAGE - 1));
  return 1;
}

static int create(void) {
  root = new_table();
  return root == 0 ? -1 : 0;
}

static void free_below(uint64_t *table, int level) {
  unsigned i;
  for (i = 0; level > (BUG(111) ? 2 : 1) && i < ENTRIES; ++i) {
    if ((table[i] & PRESENT) != 0) free_below(tdpj_virt(table[i] & ADDRESS), level - 1);
  }
  if (level < 4) tdpj_free(table);
}

static void destroy(void) {
  uint64_t *old = root;
  unsigned i;
  for (i = 0; i < ENTRIES; ++i) {
    const uint64_t entry = old[i];
    put(&old[i], 0);
    tdpj_mov_cr3();
    if ((entry & PRESENT) != 0) free_below(tdpj_virt(entry & ADDRESS), 3);
  }
  tdpj_free(old);
}

static uint64_t cr3(void) { return tdpj_phys(root); }

static const struct tdpj_subject subject = {
    .name = "small_cr3",
    .contract = {.range = TDPJ_RANGE_ANY,
                 .map_over = TDPJ_OVER_ERROR,
                 .claims = TDPJ_NO_HOLES | TDPJ_ALL_OR_NOTHING | TDPJ_FREES_ALL | TDPJ_PRUNES,
                 .unmap_hole = 1,
                 .unmap_part = 1,
                 .protect_hole = 1,
                 .protect_part = 1,
                 .max_order = 7,
                 .rights_count = 4,
                 .rights = {TDPJ_R, TDPJ_R | TDPJ_W, TDPJ_R | TDPJ_X, TDPJ_R | TDPJ_W | TDPJ_X},
                 .gpa_limit = 1ull << 47,
                 .hpa_limit = 1ull << 45,
                 .format = TDPJ_FORMAT_CR3},
    .create = create,
    .destroy = destroy,
    .eptp = cr3,
    .map = map,
    .unmap = unmap,
    .protect = protect,
    .lookup = lookup,
};

const struct tdpj_subject *tdpj_get_subject(void) { return &subject; }
