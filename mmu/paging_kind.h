// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Which tables a `Vm` keeps: the one place where `VmOptions::paging`, `reverse_map` and `nested`
// are read together.

#ifndef TDP_MMU_PAGING_KIND_H_
#define TDP_MMU_PAGING_KIND_H_

#include <cstdint>

#include "tdp/mmu/vm_options.h"

namespace tdp {

// Of the eight ways to set the three options these four are legal. What follows from a kind is
// asked of the functions below, or is a virtual function of the tables themselves (`MappedTables`).
enum class PagingKind : uint8_t {
  kDirect,         // views of direct tables
  kReverseMapped,  // one set of direct tables with a reverse map of its leaves
  kNested,         // direct tables, and for each nested EPT one that shadows it
  kShadow,         // tables that shadow the guest's own; there is no EPT
};

// The options have passed `CheckPairs`.
PagingKind PagingKindOf(const VmOptions& options);

// Whether guests run on an EPT.
constexpr bool HasEpt(PagingKind kind) { return kind != PagingKind::kShadow; }
// Whether tables of the guest's are shadowed.
constexpr bool HasShadowPages(PagingKind kind) {
  return kind == PagingKind::kShadow || kind == PagingKind::kNested;
}
// Whether each slot has a reverse map, and writes are found by write-protection alone.
constexpr bool KeepsReverseMap(PagingKind kind) { return kind != PagingKind::kDirect; }

}  // namespace tdp

#endif  // TDP_MMU_PAGING_KIND_H_
