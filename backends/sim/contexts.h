// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The tags of cached translations (SDM vol. 3C, 30.4 "Caching translation information"): linear
// mappings carry VPID and PCID, guest-physical ones EP4TA, combined ones all three. Each
// combination in use gets a small number, so that a cache compares one word.

#ifndef TDP_BACKENDS_SIM_CONTEXTS_H_
#define TDP_BACKENDS_SIM_CONTEXTS_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace tdp::sim {

// EP4TA of a linear mapping made with EPT off; no EPTP has it.
inline constexpr uint64_t kNoEp4ta = ~uint64_t{0};
// PCIDs have 12 bits; these stand for "any PCID" (global pages) and "no linear address".
inline constexpr uint16_t kGlobalPcid = 0x1000;
inline constexpr uint16_t kGuestPhysicalPcid = 0x1001;

struct Context {
  uint64_t ep4ta = kNoEp4ta;  // the address of the root table of the EPT
  uint16_t vpid = 0;
  uint16_t pcid = 0;

  friend bool operator==(const Context&, const Context&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const Context& c) {
    return H::combine(std::move(h), c.ep4ta, c.vpid, c.pcid);
  }
};

// A context's number, from 1.
using ContextId = uint32_t;

class ContextTable {
 public:
  // Leaves room in a tag for a page number of a 57-bit address.
  static constexpr int kPageNumberBits = 45;
  static constexpr ContextId kMaxId = (1u << (64 - kPageNumberBits)) - 1;

  // Returns the number of `context`; at least one is left.
  ContextId Intern(const Context& context) {
    const auto [it, is_new] =
        ids_.try_emplace(context, static_cast<ContextId>(contexts_.size() + 1));
    if (is_new) contexts_.push_back(context);
    return it->second;
  }

  // Forgets every number; no cache may hold a tag any more.
  void Clear() {
    ids_.clear();
    contexts_.clear();
  }

  // Returns whether fewer than `n` numbers are left.
  bool HasFewerThan(ContextId n) const { return kMaxId - contexts_.size() < n; }

  const Context& Of(ContextId id) const { return contexts_[id - 1]; }
  const Context& OfTag(uint64_t tag) const {
    return Of(static_cast<ContextId>(tag >> kPageNumberBits));
  }

  // Returns the tag of the page that holds `address`, where a page has 2^`shift` bytes.
  static constexpr uint64_t Tag(ContextId context, uint64_t address, int shift) {
    constexpr uint64_t kAddressMask = (uint64_t{1} << (kPageNumberBits + 12)) - 1;
    return uint64_t{context} << kPageNumberBits | (address & kAddressMask) >> shift;
  }
  // Returns the page number in a tag.
  static constexpr uint64_t PageOfTag(uint64_t tag) {
    return tag & ((uint64_t{1} << kPageNumberBits) - 1);
  }

 private:
  absl::flat_hash_map<Context, ContextId> ids_;
  std::vector<Context> contexts_;
};

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_CONTEXTS_H_
