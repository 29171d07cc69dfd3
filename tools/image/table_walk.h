// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Walks of page tables that lie in an image, with every reference on the way. Nothing is changed:
// accessed and dirty flags are as they are.

#ifndef TDP_TOOLS_IMAGE_TABLE_WALK_H_
#define TDP_TOOLS_IMAGE_TABLE_WALK_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tdp/backends/sim/ept_rules.h"
#include "tdp/backends/sim/guest_rules.h"
#include "tdp/backends/sim/registers.h"
#include "tdp/mmu/format/eptp.h"
#include "tdp/tools/image/memory_image.h"

namespace tdp::tools {

// The tables to walk. Without an EPTP guest-physical addresses are the image's; without guest
// paging linear addresses are guest-physical.
struct TableRoots {
  std::optional<Eptp> eptp;
  std::optional<sim::Registers> guest;  // CR0, CR3, CR4 and EFER count
  bool mbec = false;
  int physical_address_bits = 52;
};

enum class WalkAccess { kRead, kWrite, kFetch };

struct WalkStep {
  bool is_ept = false;
  int level = 0;               // of the entry
  uint64_t address = 0;        // of the entry in the image
  uint64_t guest_address = 0;  // of the same as the guest sees it; guest entries only
  uint64_t entry = 0;
};

enum class WalkEnd {
  kMapped,
  kNotCanonical,
  kPageFault,
  kViolation,
  kMisconfiguration,
  kOutsideImage,  // an entry lies where the image has no memory
};

struct TableWalk {
  WalkEnd end = WalkEnd::kMapped;
  std::vector<WalkStep> steps;
  uint64_t gpa = 0;            // the translation, or the address that the EPT does not let through
  uint64_t hpa = 0;            // kMapped: the translation; kOutsideImage: what is missing
  uint32_t error_code = 0;     // kPageFault
  uint64_t qualification = 0;  // kViolation
  int guest_level = 0;         // of the guest's leaf; 0 without guest paging
  int ept_level = 0;           // of the EPT's leaf; 0 without an EPT
  uint64_t guest_leaf = 0;     // with the rights of all levels
  uint64_t ept_leaf = 0;       // with the rights of all levels
};

class TableWalker {
 public:
  // The image outlives the walker.
  TableWalker(const MemoryImage& image, const TableRoots& roots);

  // Walks for a linear access; `user` in user mode. CR0.WP, SMEP and SMAP are taken to be as the
  // registers say; protection keys are not asked.
  TableWalk WalkLinear(uint64_t gva, WalkAccess access, bool user) const;
  // Walks for an access to a guest-physical address.
  TableWalk WalkPhysical(uint64_t gpa, WalkAccess access) const;

  const sim::EptRules& ept_rules() const { return ept_rules_; }
  const sim::GuestRules& guest_rules() const { return guest_rules_; }
  const TableRoots& roots() const { return roots_; }
  const MemoryImage& image() const { return image_; }

  // Returns where the image has the guest-physical address, for reading tables; nothing if the EPT
  // does not map it.
  std::optional<uint64_t> Find(uint64_t gpa) const;

 private:
  struct EptQuestion {
    uint64_t gpa;
    unsigned rights;         // `kRight…` that the access needs
    uint64_t qualification;  // bits 2:0 and 7 up, as a violation reports them
  };
  // Returns the image's address, or nothing with `walk.end` set.
  std::optional<uint64_t> ThroughEpt(const EptQuestion& question, TableWalk& walk) const;
  std::optional<uint64_t> ReadGuestEntry(uint64_t gpa, int level, TableWalk& walk) const;
  // Does the guest's part of a linear walk; false if it has ended.
  bool WalkGuest(uint64_t gva, WalkAccess access, bool user, TableWalk& walk) const;
  bool LoadPdpte(uint64_t gva, TableWalk& walk, uint64_t& table) const;
  bool Permits(uint64_t rights, WalkAccess access, bool user) const;
  static bool Fault(TableWalk& walk, WalkAccess access, bool user, uint32_t bits);

  const MemoryImage& image_;
  const TableRoots roots_;
  const sim::EptRules ept_rules_;
  const sim::GuestRules guest_rules_;
};

// Returns the registers of a guest in the paging mode named, with tables at `cr3`.
sim::Registers GuestRegisters(sim::PagingMode mode, uint64_t cr3);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_IMAGE_TABLE_WALK_H_
