// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Says how much table memory a guest can make its host use, where the embedder does not: a share of
// the memory that the slots show, as KVM has it (kvm_mmu_calculate_default_mmu_pages).

#ifndef TDP_MMU_POLICY_MEMORY_QUOTAS_H_
#define TDP_MMU_POLICY_MEMORY_QUOTAS_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "tdp/base/address.h"
#include "tdp/memslot/memory_slot.h"

namespace tdp {

// Keeps the numbers that the quotas follow from. It belongs to whoever guards it.
class MemoryQuotas {
 public:
  // Fewer shadow pages than this let no guest run: it is the least that an embedder may ask for,
  // and what the smallest guest gets.
  static constexpr size_t kLeastShadowPages = 64;
  // How many tables a shadow page takes: its own, and two of data where it has leaves.
  static constexpr size_t kTablesPerShadowPage = 3;

  // `levels` are those of the EPT.
  MemoryQuotas(int levels, int address_spaces) : levels_(levels), address_spaces_(address_spaces) {}

  // Says that tables are shadowed, a guest's own or a nested hypervisor's.
  void AddShadowPages() { has_shadow_pages_ = true; }
  void AddSlot(const MemorySlot& slot);
  void RemoveSlot(const MemorySlot& slot);
  void SetViews(AddressSpaceId space, size_t views) { spaces_[space].views = views; }
  void AddVcpu() { ++vcpus_; }
  void RemoveVcpu() { --vcpus_; }

  // Returns the quota of one address space: 2 % of the pages that its slots show, but
  // `kLeastShadowPages` at least.
  size_t ShadowPages(AddressSpaceId space) const;
  // Returns twice what maps every slot by 4 KiB pages in every view and what the shadow pages need,
  // since what has been taken away counts until the CPUs have flushed; and for each vCPU its stocks
  // and roots, and `kSpareTables` for roots and for frames without memory that are remembered.
  size_t Tables() const;

 private:
  static constexpr size_t kSpareTables = 512;
  // Two stocks of 32 tables, and 4 roots of 4 pages each (PAE paging) with a table of data.
  static constexpr size_t kTablesPerVcpu = 96;
  static constexpr size_t kMostSpaces = 2;

  struct Space {
    uint64_t pages = 0;
    uint64_t tables = 0;  // that map the slots by 4 KiB pages, tables of the root's level left out
    size_t views = 1;
  };
  uint64_t TablesFor(const MemorySlot& slot) const;

  const int levels_;
  const int address_spaces_;
  bool has_shadow_pages_ = false;
  std::array<Space, kMostSpaces> spaces_;
  size_t vcpus_ = 0;
};

}  // namespace tdp

#endif  // TDP_MMU_POLICY_MEMORY_QUOTAS_H_
