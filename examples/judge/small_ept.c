/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
 *
 * Compiled with -DPLANTED=n it makes the n-th of the mistakes of planted.txt, each where BUG(n)
 * stands; without, none.
 */
#include "small_ept.h"

#include <stddef.h>
#include <stdlib.h>

#ifndef PLANTED
#define PLANTED 0
#endif
#define BUG(n) (PLANTED == (n))

/* Writes are found by write-protection; with -DDIRTY_BITS=1 by the D bits of the CPU. */
#ifndef DIRTY_BITS
#define DIRTY_BITS (PLANTED >= 90 && PLANTED < 100)
#endif

#ifndef LAZY_SPLITS
#define LAZY_SPLITS 0
#endif

#define ENTRIES 512u
#define PAGE 0x1000ull
#define RIGHTS 7ull
#define LARGE (1ull << 7)
#define ADDRESS 0x000ffffffffff000ull
#define ACCESSED (1ull << 8)
#define DIRTY (1ull << 9)
/* Bits that the CPU ignores: the page is logged, may be made writable, was written and is not
 * writable any more. */
#define LOGGED (1ull << 53)
#define MAY_WRITE (1ull << 54)
#define WRITTEN (1ull << 55)

enum what { MAP, UNMAP, PROTECT, LOG_START, LOG_STOP, HARVEST, SPLIT, MERGE };

struct request {
  enum what what;
  uint64_t begin, end;
  uint64_t hpa; /* of `begin` */
  uint64_t bits;
  void (*page)(uint64_t gpa);
};

static uint64_t *root;
static uint64_t *reserve; /* frames for this operation, linked through their first words */
static uint64_t *retired; /* tables that a CPU may still walk */
/* The tables below an entry that was unlinked. They keep their content until the flush, since a
 * CPU may still be led to them, so that they cannot be chained through it. */
static uint64_t *unlinked[4096];
static unsigned unlinked_count;

static int owes_flush;
static int did_split; /* the operation under way */
static int logs;      /* logging has begun once */

static uint64_t size_of(int level) { return PAGE << (9 * (level - 1)); }
static int is_present(uint64_t entry) { return (entry & RIGHTS) != 0; }
static int is_leaf(uint64_t entry, int level) { return level == 1 || (entry & LARGE) != 0; }
static uint64_t *table_of(uint64_t entry) { return host_virt(entry & ADDRESS); }

/* The CPU reads entries while they are written: each is one store. */
static void put(uint64_t *place, uint64_t entry) {
  __atomic_store_n(place, entry, __ATOMIC_RELEASE);
}

/* The same where the CPU may set flags meanwhile. The entry before. */
static uint64_t put_bits(uint64_t *place, uint64_t clear, uint64_t set) {
  uint64_t old = *place;
  if (BUG(92)) {
    put(place, (old & ~clear) | set);
    return old;
  }
  while (!__atomic_compare_exchange_n(place, &old, (old & ~clear) | set, 0, __ATOMIC_ACQ_REL,
                                      __ATOMIC_ACQUIRE)) {
  }
  return old;
}

static void clear_table(uint64_t *table) {
  unsigned i;
  for (i = 0; i < ENTRIES; ++i) put(&table[i], 0);
}

/* --- frames --- */

static uint64_t *pop(uint64_t **list) {
  uint64_t *frame = *list;
  *list = host_virt(frame[0]) == frame ? NULL : host_virt(frame[0]);
  return frame;
}

static void give_back(uint64_t **list) {
  while (*list != NULL) host_free_frame(pop(list));
}

/* A list ends in a frame that leads to itself. */
static void push(uint64_t **list, uint64_t *frame) {
  frame[0] = host_phys(*list == NULL ? frame : *list);
  *list = frame;
}

static uint64_t *take_reserved(void) {
  if (BUG(74) && unlinked_count != 0) return unlinked[--unlinked_count];
  if (reserve == NULL) host_panic("the reserve is empty");
  return pop(&reserve);
}

static uint64_t tables_in(uint64_t begin, uint64_t end, int level) {
  const uint64_t size = size_of(level + 1);
  return (end - 1) / size - begin / size + 1;
}

/* As many frames as the operation can need, before anything is changed. */
static int fill_reserve(uint64_t begin, uint64_t end) {
  uint64_t n = tables_in(begin, end, 1) + tables_in(begin, end, 2) + tables_in(begin, end, 3);
  if (BUG(1)) n = 1;
  for (; n != 0; --n) {
    uint64_t *frame = host_alloc_frame();
    if (frame == NULL) {
      if (BUG(2)) host_panic("no memory");
      if (BUG(3)) frame[0] = 0;
      if (BUG(62)) exit(3);
      if (BUG(64)) host_phys(frame);
      give_back(&reserve);
      return -1;
    }
    push(&reserve, frame);
  }
  return 0;
}

static void flush(void) {
  if (BUG(4)) return;
  if (BUG(5)) {
    host_invept(1, ept_pointer() & ADDRESS);
  } else if (BUG(6)) {
    host_invept(0, ept_pointer());
  } else if (BUG(7)) {
    host_invept(1, ept_pointer() + PAGE);
  } else if (BUG(60)) {
    host_invvpid(1, 0, 0);
  } else if (BUG(61)) {
    host_invvpid(1, 1, 0);
  } else {
    host_invept(1, ept_pointer());
  }
}

/* Tables that were unlinked may be freed once no CPU keeps them. */
static void finish(void) {
  if (BUG(8)) give_back(&retired);
  if (owes_flush) flush();
  owes_flush = 0;
  if (!BUG(9)) give_back(&retired);
  give_back(&reserve);
}

static void retire(uint64_t entry, int level) {
  uint64_t *table = table_of(entry);
  unsigned i;
  if (level > 1) {
    for (i = 0; i < ENTRIES; ++i) {
      if (is_present(table[i]) && !is_leaf(table[i], level)) retire(table[i], level - 1);
    }
  }
  if (unlinked_count == sizeof unlinked / sizeof unlinked[0]) host_panic("too many tables");
  unlinked[unlinked_count++] = table;
  owes_flush = 1;
}

static void finish_tables(void) {
  unsigned i;
  if (BUG(72) && did_split) owes_flush = 0;
  did_split = 0;
  if (BUG(10) && unlinked_count != 0) host_free_frame(unlinked[0]);
  if (BUG(11)) owes_flush = owes_flush && unlinked_count == 0;
  if (owes_flush && !BUG(8)) flush();
  if (!BUG(8)) owes_flush = 0;
  for (i = 0; i < unlinked_count; ++i) push(&retired, unlinked[i]);
  finish();
  if (BUG(15) && unlinked_count != 0) put(unlinked[0], 0);
  unlinked_count = 0;
}

/* --- one entry --- */

/* A table that translates as the leaf does, linked when it is complete. */
static void split(uint64_t *place, int level) {
  const uint64_t leaf = *place;
  const uint64_t step = size_of(level - 1);
  const uint64_t large = level - 1 > 1 ? LARGE : 0;
  uint64_t *table = take_reserved();
  unsigned i;
  if (BUG(12)) put(place, 0);
  if (BUG(13)) put(place, host_phys(table) | RIGHTS);
  for (i = 0; i < ENTRIES; ++i) {
    uint64_t entry = (leaf & ~LARGE) | large;
    entry += i * step;
    if (BUG(14) && i == ENTRIES - 1) entry -= step;
    if (BUG(16)) entry |= EPT_WRITE;
    put(&table[i], entry);
  }
  put(place, host_phys(table) | RIGHTS);
  /* The translations are the same: with -DLAZY_SPLITS=1 whoever changes one flushes. */
  if (!LAZY_SPLITS) owes_flush = 1;
  did_split = 1;
  if (BUG(17)) put(&table[0], 0);
}

static void link_new_table(uint64_t *place) {
  uint64_t *table = take_reserved();
  if (BUG(18)) put(place, host_phys(table) | RIGHTS);
  if (BUG(53)) put(place, (host_phys(table) + 64 * PAGE) | RIGHTS);
  if (!BUG(19)) clear_table(table);
  put(place, host_phys(table) | (BUG(20) ? EPT_READ | EPT_WRITE : RIGHTS));
}

static int is_empty(const uint64_t *table) {
  unsigned i;
  for (i = 0; i < (BUG(40) ? ENTRIES / 2 : ENTRIES); ++i) {
    if (is_present(table[i])) return 0;
  }
  return 1;
}

static void drop(uint64_t *place, int level) {
  const uint64_t entry = *place;
  if (BUG(52) && !is_leaf(entry, level)) host_free_frame(table_of(entry));
  put(place, 0);
  if (is_leaf(entry, level)) {
    if (!BUG(21)) owes_flush = 1;
  } else if (!BUG(22)) {
    retire(entry, level - 1);
  }
}

static uint64_t bits_of_leaf(const struct request *request, uint64_t gpa, int level) {
  uint64_t hpa = request->hpa + (gpa - request->begin);
  uint64_t bits = request->bits;
  if (BUG(23) && level == 2) hpa = request->hpa & ~(size_of(2) - 1);
  if (BUG(58) && level == 1) hpa = request->hpa + ((gpa - request->begin) & (size_of(2) - 1));
  if (BUG(24) && level == 2) bits &= ~(6ull << 3);
  if (BUG(25)) bits |= EPT_EXECUTE;
  if (BUG(69)) hpa |= 1ull << 51;
  if (BUG(70) && (bits & EPT_WRITE) != 0) bits &= ~(uint64_t)EPT_READ;
  return hpa | bits | (level > 1 ? LARGE : 0);
}

static void map_leaf(const struct request *request, uint64_t *place, uint64_t gpa, int level) {
  const uint64_t old = *place;
  if (BUG(26) && is_present(old)) put(place, 0);
  if (BUG(67) && is_present(old)) put(place, bits_of_leaf(request, gpa, level) & ~ADDRESS);
  put(place, bits_of_leaf(request, gpa, level));
  if (!is_present(old)) return;
  if (is_leaf(old, level)) {
    if (BUG(55) && ((old ^ *place) & (ADDRESS | RIGHTS)) == 0) return;
    if (BUG(71) && ((old ^ *place) & ~ADDRESS) == 0) return;
    if (!BUG(27)) owes_flush = 1;
  } else {
    retire(old, level - 1);
  }
}

/* W of a logged page waits for the fault that tells of the write. */
static void protect_leaf(const struct request *request, uint64_t *place) {
  uint64_t entry = (*place & ~(RIGHTS | MAY_WRITE)) | request->bits;
  if (DIRTY_BITS) {
    if ((put_bits(place, RIGHTS, request->bits) & RIGHTS & ~request->bits) != 0) owes_flush = 1;
    return;
  }
  if (BUG(65)) put(place, *place | RIGHTS);
  if (BUG(66)) put(place, *place & ~(uint64_t)EPT_WRITE);
  if ((*place & LOGGED) != 0 && (request->bits & EPT_WRITE) != 0) {
    if (!BUG(28)) entry |= MAY_WRITE;
    if ((*place & EPT_WRITE) == 0) entry &= ~(uint64_t)EPT_WRITE;
  }
  /* A logged page that is writable was written: the harvest must hear of it. */
  if ((*place & LOGGED) != 0 && (*place & EPT_WRITE) != 0 && (entry & EPT_WRITE) == 0) {
    if (!BUG(51)) entry |= WRITTEN;
  }
  if ((*place & RIGHTS & ~entry) != 0 && !BUG(29)) owes_flush = 1;
  if (BUG(30) && (request->bits & EPT_WRITE) == 0) return;
  put(place, entry);
}

static void start_log(uint64_t *place) {
  uint64_t entry = *place | LOGGED;
  logs = 1;
  if (DIRTY_BITS) {
    put_bits(place, DIRTY, LOGGED);
    if (!BUG(90)) owes_flush = 1;
    return;
  }
  if ((entry & EPT_WRITE) != 0) {
    entry = (entry | MAY_WRITE) & ~(uint64_t)EPT_WRITE;
    if (!BUG(31)) owes_flush = 1;
  }
  put(place, entry);
}

static void stop_log(uint64_t *place) {
  uint64_t entry = *place;
  if ((entry & MAY_WRITE) != 0 && !BUG(32)) entry |= EPT_WRITE;
  put(place, entry & ~(LOGGED | MAY_WRITE | WRITTEN));
}

static void harvest_leaf(const struct request *request, uint64_t *place, uint64_t gpa) {
  const uint64_t entry = *place;
  if (DIRTY_BITS && (entry & LOGGED) != 0 && (entry & DIRTY) != 0) {
    put_bits(place, DIRTY, 0);
    if (!BUG(91)) owes_flush = 1;
    request->page(gpa);
  }
  if (DIRTY_BITS || (entry & LOGGED) == 0 || (entry & (EPT_WRITE | WRITTEN)) == 0) return;
  put(place, entry & ~(EPT_WRITE | WRITTEN | (BUG(33) ? LOGGED : 0)));
  if ((entry & EPT_WRITE) != 0 && !BUG(34)) owes_flush = 1;
  if (BUG(35) && (gpa & 0x3000) == 0x3000) return;
  request->page(gpa);
}

/* A table whose leaves are those of one large page becomes it. */
static void merge(uint64_t *place, int level) {
  uint64_t *table = table_of(*place);
  const uint64_t flags = ACCESSED | DIRTY;
  const uint64_t first = table[0] & ~flags;
  uint64_t leaf;
  unsigned i;
  if (level != 2 || !is_present(first) || (first & LOGGED) != 0) return;
  if ((first & ADDRESS & (size_of(2) - 1)) != 0 && !BUG(36)) return;
  for (i = 0; i < ENTRIES; ++i) {
    if (BUG(37) && i == 300) break;
    const uint64_t differs = (table[i] & ~flags) ^ (first + i * PAGE);
    if (differs != 0) {
      if (BUG(38) && (differs & ~(uint64_t)EPT_WRITE) == 0) continue;
      return;
    }
  }
  leaf = first | LARGE;
  retire(*place, 1);
  if (BUG(39)) owes_flush = 0;
  put(place, leaf);
}

/* --- the walk --- */

static void change(const struct request *request, uint64_t *table, int level, uint64_t base);

static void descend(const struct request *request, uint64_t *place, int level, uint64_t gpa) {
  if (is_present(*place) && is_leaf(*place, level)) split(place, level);
  if (!is_present(*place)) link_new_table(place);
  change(request, table_of(*place), level - 1, gpa);
  if (request->what == UNMAP && is_empty(table_of(*place))) drop(place, level);
  if (request->what == MERGE && level == 2) merge(place, level);
}

static void change_entry(const struct request *request, uint64_t *place, int level, uint64_t gpa) {
  const uint64_t size = size_of(level);
  const int whole = request->begin <= gpa && gpa + size <= request->end;
  const int present = is_present(*place);
  const int leaf = present && is_leaf(*place, level);
  switch (request->what) {
    case MAP: {
      const uint64_t hpa = request->hpa + (gpa - request->begin);
      const int fits = level == 1 || (level == 2 && whole && (BUG(41) || hpa % size == 0));
      if (fits) {
        map_leaf(request, place, gpa, level);
      } else {
        descend(request, place, level, gpa);
      }
      return;
    }
    case UNMAP:
      if (!present) return;
      if (whole || (BUG(42) && leaf)) {
        drop(place, level);
      } else {
        descend(request, place, level, gpa);
      }
      return;
    case PROTECT:
      if (!present) return;
      if (leaf && (whole || BUG(43))) {
        protect_leaf(request, place);
      } else {
        descend(request, place, level, gpa);
      }
      return;
    case MERGE:
      if (!present || leaf) return;
      descend(request, place, level, gpa);
      return;
    default:
      if (!present) return;
      if (!leaf || level > 1) {
        if (leaf && (request->what == LOG_STOP || request->what == HARVEST)) return;
        descend(request, place, level, gpa);
      } else if (request->what == LOG_START) {
        start_log(place);
      } else if (request->what == LOG_STOP) {
        stop_log(place);
      } else if (request->what == HARVEST) {
        harvest_leaf(request, place, gpa);
      }
  }
}

static void change(const struct request *request, uint64_t *table, int level, uint64_t base) {
  const uint64_t size = size_of(level);
  uint64_t gpa = request->begin > base ? request->begin & ~(size - 1) : base;
  uint64_t end = base + ENTRIES * size;
  if (end > request->end) end = request->end;
  if (BUG(44) && level == 1 && request->what == PROTECT) end -= PAGE;
  if (BUG(45) && level == 1 && request->what == UNMAP) end += PAGE;
  while (BUG(46) && request->what == UNMAP && gpa == 0) {
  }
  for (; gpa < end; gpa += size) {
    change_entry(request, &table[gpa / size % ENTRIES], level, gpa);
  }
}

static uint64_t *leaf_of(uint64_t gpa, int *level) {
  uint64_t *table = root;
  for (*level = 4;; --*level) {
    uint64_t *place = &table[gpa / size_of(*level) % ENTRIES];
    if (!is_present(*place)) return NULL;
    if (*level == 1 || (is_leaf(*place, *level) && !BUG(63))) return place;
    table = table_of(*place);
  }
}

static int run(struct request request) {
  if (request.what != LOG_STOP && request.what != HARVEST && request.what != MERGE) {
    if (fill_reserve(request.begin, request.end) != 0) {
      int level;
      uint64_t *place = BUG(59) && request.what == UNMAP ? leaf_of(request.begin, &level) : NULL;
      if (place != NULL && level == 1) put(place, 0);
      return -1;
    }
  }
  change(&request, root, 4, 0);
  finish_tables();
  return 0;
}

/* --- the calls --- */

int ept_create(void) {
  reserve = retired = NULL;
  unlinked_count = 0;
  owes_flush = did_split = logs = 0;
  root = host_alloc_frame();
  if (root == NULL) return -1;
  clear_table(root);
  return 0;
}

void ept_destroy(void) {
  unsigned i;
  for (i = 0; i < ENTRIES; ++i) {
    if (is_present(root[i])) retire(root[i], 3);
    put(&root[i], 0);
  }
  finish_tables();
  if (!BUG(47)) host_free_frame(root);
  if (BUG(48)) host_free_frame(root);
}

uint64_t ept_pointer(void) {
  const uint64_t flags = DIRTY_BITS || (BUG(73) && logs) ? 1ull << 6 : 0;
  return host_phys(root) | flags | 3 << 3 | 6;
}

int ept_map(uint64_t gpa, uint64_t hpa, uint64_t size, unsigned rights, unsigned memory_type) {
  const uint64_t bits = rights | (uint64_t)memory_type << 3;
  if (BUG(54) && size > 600 * PAGE) return -1;
  if (BUG(56) && size > PAGE && gpa + size < 1ull << 47) size += PAGE;
  if (BUG(57) && size > PAGE) size -= PAGE;
  return run((struct request){.what = MAP, .begin = gpa, .end = gpa + size, .hpa = hpa,
                              .bits = bits});
}

int ept_unmap(uint64_t gpa, uint64_t size) {
  if (BUG(75)) exit(0);
  return run((struct request){.what = UNMAP, .begin = gpa, .end = gpa + size});
}

int ept_protect(uint64_t gpa, uint64_t size, unsigned rights) {
  return run((struct request){.what = PROTECT, .begin = gpa, .end = gpa + size, .bits = rights});
}

int ept_lookup(uint64_t gpa, uint64_t *hpa) {
  int level;
  const uint64_t *place = leaf_of(gpa, &level);
  if (place == NULL) return 0;
  *hpa = *place & ADDRESS & ~(size_of(level) - 1);
  *hpa |= gpa & ((BUG(49) ? PAGE : size_of(level)) - 1);
  return 1;
}

int ept_log_start(uint64_t gpa, uint64_t size) {
  return run((struct request){.what = LOG_START, .begin = gpa, .end = gpa + size});
}

int ept_log_stop(uint64_t gpa, uint64_t size) {
  return run((struct request){.what = LOG_STOP, .begin = gpa, .end = gpa + size});
}

int ept_log_harvest(uint64_t gpa, uint64_t size, void (*page)(uint64_t gpa)) {
  return run((struct request){.what = HARVEST, .begin = gpa, .end = gpa + size, .page = page});
}

int ept_fault(uint64_t gpa, uint64_t qualification) {
  int level;
  uint64_t *place = leaf_of(gpa, &level);
  if (place == NULL || (qualification & EPT_WRITE) == 0) return 0;
  if ((*place & EPT_WRITE) != 0) return 1;
  if ((*place & MAY_WRITE) == 0 || BUG(50)) return 0;
  put(place, *place | EPT_WRITE);
  return 1;
}

int ept_split(uint64_t gpa, uint64_t size) {
  return run((struct request){.what = SPLIT, .begin = gpa, .end = gpa + size});
}

int ept_merge(uint64_t gpa, uint64_t size) {
  return run((struct request){.what = MERGE, .begin = gpa, .end = gpa + size});
}
