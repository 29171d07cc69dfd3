/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
 *
 * Bring your own page tables: the C interface between an implementation of second-stage (EPT, NPT)
 * or first-stage (CR3) page tables, the *subject*, and the judge, which runs it beside a software
 * CPU and a flat map and says what is wrong. docs/judge.md is the manual. Plain C99, and C++.
 *
 * A user writes `tdpj_get_subject` (about 40 lines with its calls), lets the subject's allocator
 * and flush instructions call the functions at the end, and links with the judge.
 *
 * Addresses and sizes are in bytes and multiples of 4096. All is called on one thread.
 */
#ifndef TDP_JUDGE_TDP_JUDGE_H_
#define TDP_JUDGE_TDP_JUDGE_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Rights, a set. */
enum { TDPJ_R = 1, TDPJ_W = 2, TDPJ_X = 4 };

/* --- The contract: what the subject may be asked, and what it promises. ---
 * A contract of zeros is the strictest caller and the weakest promise, so that whatever the judge
 * then finds is a fault by anybody's reading. docs/judge.md has the question behind each knob. */

/* contract.range: any run of pages / 2^n pages aligned to their size in both spaces / one page. */
enum { TDPJ_RANGE_ANY, TDPJ_RANGE_ORDER, TDPJ_RANGE_PAGE };
/* contract.map_over: mapping where something is mapped is never asked for / takes the old one's
 * place / leaves the old one and fills the holes / is refused and changes nothing / takes the old
 * one's place, and is asked for nowhere else. */
enum { TDPJ_OVER_FORBIDDEN, TDPJ_OVER_REPLACES, TDPJ_OVER_KEEPS, TDPJ_OVER_ERROR, TDPJ_OVER_ONLY };
/* contract.flush: no CPU uses what an operation took away once it has returned / once the guest was
 * entered again, before which `before_entry` is called. */
enum { TDPJ_FLUSH_BY_RETURN, TDPJ_FLUSH_BY_ENTRY };
/* contract.format. */
enum { TDPJ_FORMAT_EPT, TDPJ_FORMAT_CR3, TDPJ_FORMAT_NPT };
/* contract.claims, a set of promises. */
enum {
  TDPJ_NO_HOLES = 1,       /* what is mapped before and after an operation is mapped throughout */
  TDPJ_ALL_OR_NOTHING = 2, /* an operation that fails changes nothing */
  TDPJ_FREES_ALL = 4,      /* destroy gives every frame back */
  TDPJ_PRUNES = 8,         /* after an operation every allocated frame is a reachable table */
  TDPJ_STOPPED = 16,       /* no guest runs during an operation */
  TDPJ_NO_FAILURE = 32,    /* the allocator cannot fail: no failure is injected */
  TDPJ_GUEST_RUNS_FREES = 64, /* tables may be freed before the flush: a grace period follows */
  TDPJ_DEMAND = 128,       /* mappings appear when the guest faults: `fault` is called for each */
  TDPJ_GUEST_LEAVES = 256, /* the guest leaves while an operation runs, where that matters */
  TDPJ_INSTRUMENTED = 512, /* each store to a table is seen (or told by tdpj_store): prove it */
  TDPJ_LOGS_ALL = 1024     /* dirty logging is of all from 0 to gpa_limit, mapped then or later */
};

/* [begin, begin + size), both whole pages; nothing if size is 0. */
struct tdpj_range {
  uint64_t begin, size;
};

struct tdpj_contract {
  int range, map_over, flush;
  unsigned claims;
  int unmap_hole, unmap_part;     /* unmapping may meet what is not mapped / cut a mapping */
  int protect_hole, protect_part; /* the same of protect */
  int max_order;                  /* of the pages that a range may have: 0 to 18 */
  int rights_count;
  unsigned char rights[8];            /* the sets of rights that may be asked for */
  unsigned char type_count, types[6]; /* memory types that may be; none: types are not judged */
  uint64_t gpa_limit, hpa_limit;      /* exclusive */
  int format;
  int identity_physical; /* the physical addresses of tables are their virtual ones */
  int identity_map;      /* map is asked for hpa == gpa alone */
  int min_order;         /* ranges are whole aligned units of 2^min_order pages */
  /* From create on [0, initial_size) is mapped to itself, with rights[0] and types[0], but for the
   * holes: a hypervisor's own memory, devices. */
  uint64_t initial_size;
  struct tdpj_range initial_holes[4];
};

/* What an operation may return for want of memory that the judge did not refuse: a pool of the
 * subject's own is used up. Any other error means that, too, if tdpj_alloc returned null. */
enum { TDPJ_NO_MEMORY = -12 };

struct tdpj_subject {
  const char* name;
  struct tdpj_contract contract;
  /* Makes empty tables. 0, or the subject cannot start. */
  int (*create)(void);
  /* May be null. Without it, or without TDPJ_FREES_ALL, a process runs one sequence only. */
  void (*destroy)(void);
  /* The EPT pointer, or CR3, that the next entry loads: 2:0 the memory type (6), 5:3 the levels
   * less one (3), 6 whether A and D flags are on, from bit 12 on the root. Of the format NPT: bits
   * 11:0 the ASID (1 to 4095), from bit 12 on the root, as the VMCB has them. Asked for after each
   * operation, and when a table of the last root is freed. */
  uint64_t (*eptp)(void);
  /* 0, or an error. Of the format CR3 "gpa" is the linear address and "hpa" the physical one. */
  int (*map)(uint64_t gpa, uint64_t hpa, uint64_t size, unsigned rights, unsigned memory_type);
  /* All from here on may be null, and is then not asked for. */
  int (*unmap)(uint64_t gpa, uint64_t size);
  int (*protect)(uint64_t gpa, uint64_t size, unsigned rights);
  /* 1 and *hpa: mapped; 0: not. */
  int (*lookup)(uint64_t gpa, uint64_t* hpa);
  void (*before_entry)(void);
  /* Dirty logging of a range that is mapped. Harvest calls `page` for each page written since the
   * last harvest, at least, and re-arms; negative: an error. */
  int (*dirty_start)(uint64_t gpa, uint64_t size);
  int (*dirty_stop)(uint64_t gpa, uint64_t size);
  int (*dirty_harvest)(uint64_t gpa, uint64_t size, void (*page)(uint64_t gpa));
  /* An EPT violation with its exit qualification (CR3: a page fault with its error code, NPT: a
   * nested page fault with its EXITINFO1) at an address that is mapped with the right in question:
   * nobody asks what others come to. 1: fixed, the guest tries again; 0 or negative: not. `eptp` is
   * asked for after it. */
  int (*fault)(uint64_t gpa, uint64_t qualification);
  /* Hints about large leaves; no translation may change. */
  int (*split)(uint64_t gpa, uint64_t size);
  int (*merge)(uint64_t gpa, uint64_t size);
};

/* What the user defines. The answer does not change. */
extern const struct tdpj_subject* tdpj_get_subject(void);

/* --- What the judge gives to the subject's stubs. --- */

/* One 4 KiB frame full of garbage, or null: memory is short, as it sometimes is on purpose. */
void* tdpj_alloc(void);
/* `n` frames, a power of two up to 512, together and aligned to their size. */
void* tdpj_alloc_frames(unsigned n);
/* Gives back what one of the two returned. */
void tdpj_free(void* frame);
/* Makes `bytes` of the subject's own memory at `p`, a static array, frames as if tdpj_alloc had
 * returned them; both whole pages. For create to call; again in later calls of create it does no
 * harm. Returns `p`, or null if there is no room. */
void* tdpj_adopt(void* p, size_t bytes);
uint64_t tdpj_phys(const volatile void* p);
void* tdpj_virt(uint64_t phys);
/* The instructions. 0, or -1 where the instruction fails, which is a finding. */
int tdpj_invept(int type, uint64_t eptp);
int tdpj_invept_descriptor(int type, const void* descriptor); /* all 16 bytes */
int tdpj_invvpid(int type, unsigned vpid, uint64_t gva);
void tdpj_invlpg(uint64_t address);
void tdpj_mov_cr3(void); /* CR3 written with what it holds */
/* Of the format NPT: VMRUN with this TLB_CONTROL (0, 1: all, 3: the ASID's, 7: of those all but
 * global ones) and ASID. INVLPGA, which drops one page of the guest's linear addresses, and so
 * nothing that a change of nested tables owes. */
void tdpj_vmrun(int tlb_control, unsigned asid);
void tdpj_invlpga(uint64_t linear, unsigned asid);
/* The subject's panic or failed assertion. Does not return. */
void tdpj_fatal(const char* what) __attribute__((noreturn));
/* Before stores to a table that no instrumentation sees, from `p` on to the end of its page at
 * most: memset, assembly. */
void tdpj_store(const volatile void* p);

/* --- Sequences of operations, as the judge prints them. --- */

enum {
  TDPJ_STEP_MAP,
  TDPJ_STEP_UNMAP,
  TDPJ_STEP_PROTECT,
  TDPJ_STEP_TOUCH, /* the guest accesses `gpa` with one of the rights */
  TDPJ_STEP_DIRTY_START,
  TDPJ_STEP_DIRTY_STOP,
  TDPJ_STEP_HARVEST,
  TDPJ_STEP_SPLIT,
  TDPJ_STEP_MERGE
};
struct tdpj_step {
  int kind;
  uint64_t gpa, hpa, size;
  unsigned rights, memory_type;
  unsigned fail_at; /* the allocation of this step from which on memory is short; 0: none */
  uint64_t seed;    /* of what the judge draws beside this step: where it looks, what is cached */
};

/* Runs the steps under every check in a process of their own. 0: nothing was found; 1: a finding,
 * printed to stderr; 2: the adapter is wrong. A step that the contract forbids is not run: how many
 * those were, and why the first of them, is printed to stderr, too. */
int tdpj_replay(const struct tdpj_subject* subject, const struct tdpj_step* steps, size_t count);

/* What the judge's main() does. */
int tdpj_main(int argc, char** argv);

#ifdef __cplusplus
}
#endif

#endif /* TDP_JUDGE_TDP_JUDGE_H_ */
