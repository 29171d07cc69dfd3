// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Which tables a `Vm` keeps: the one place where `VmOptions::paging`, `reverse_map` and `nested`
// are read together, and whether the build has code for them.

#ifndef TDP_MMU_PAGING_KIND_H_
#define TDP_MMU_PAGING_KIND_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "tdp/mmu/vm_options.h"

namespace tdp {

// Eight ways to set the three options exist, of which these four are legal. What follows from a
// kind is asked of the functions below, or is a virtual function of the tables themselves
// (`MappedTables`).
enum class PagingKind : uint8_t {
  kDirect,         // views of direct tables
  kReverseMapped,  // one set of direct tables with a reverse map of its leaves
  kNested,         // direct tables, and for each nested EPT one that shadows it
  kShadow,         // tables that shadow the guest's own; there is no EPT
};

// Returns the kind of tables that `options` ask for. They have passed `CheckPairs`.
PagingKind PagingKindOf(const VmOptions& options);

// Returns whether guests run on an EPT.
constexpr bool HasEpt(PagingKind kind) { return kind != PagingKind::kShadow; }
// Returns whether tables of the guest's are shadowed.
constexpr bool HasShadowPages(PagingKind kind) {
  return kind == PagingKind::kShadow || kind == PagingKind::kNested;
}
// Returns whether each slot has a reverse map, and writes are found by write-protection alone.
constexpr bool KeepsReverseMap(PagingKind kind) { return kind != PagingKind::kDirect; }

// --- Builds with direct tables alone ---
// With TDP_NO_SHADOW, defined for the library and its users, the other kinds are refused, and with
// optimization nothing of mmu/shadow, mmu/reverse_mapped and rmap is referred to: owners of what is
// not there are null pointers that the compiler knows to be null.

// Returns OK, or Unimplemented, naming the option, for a kind that the build has no code for.
absl::Status CheckKindIsBuilt(const VmOptions& options);

#ifdef TDP_NO_SHADOW
inline constexpr bool kHasShadow = false;

template <typename T>
class NeverOwned {
 public:
  constexpr NeverOwned(std::nullptr_t = nullptr) {}
  NeverOwned(std::unique_ptr<T>&&) {}  // for code that is compiled and not reached
  constexpr T* get() const { return nullptr; }
  T* operator->() const { __builtin_unreachable(); }
  T& operator*() const { __builtin_unreachable(); }
  friend constexpr bool operator==(const NeverOwned&, std::nullptr_t) { return true; }

 private:
  T* null_ = nullptr;  // as large as the pointer that it stands for
};

template <typename T>
using ShadowOwner = NeverOwned<T>;

template <typename T, typename... Args>
ShadowOwner<T> MakeShadowOwner(Args&&...) {
  return nullptr;
}

#else

inline constexpr bool kHasShadow = true;

template <typename T>
using ShadowOwner = std::unique_ptr<T>;

template <typename T, typename... Args>
ShadowOwner<T> MakeShadowOwner(Args&&... args) {
  return std::make_unique<T>(std::forward<Args>(args)...);
}

#endif

}  // namespace tdp

#endif  // TDP_MMU_PAGING_KIND_H_
