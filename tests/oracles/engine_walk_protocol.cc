// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/oracles/engine_walk_protocol.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tdp::oracles {
namespace {

Access AccessOf(char access) {
  if (access == 'w') return Access::Write();
  return access == 'x' ? Access::Execute() : Access::Read();
}

GuestAccess GuestAccessOf(char access) {
  if (access == 'w') return GuestAccess::Write();
  return access == 'x' ? GuestAccess::Fetch() : GuestAccess::Read();
}

std::string Describe(const GuestWalk& walk) {
  switch (walk.outcome) {
    case GuestWalkOutcome::kMapped:
      return absl::StrFormat("ok %x", walk.gpa.raw());
    case GuestWalkOutcome::kPageFault:
      return absl::StrFormat("pf %x", walk.error_code);
    case GuestWalkOutcome::kNonCanonical:
      return "noncanonical";
    default:
      return "unexpected";
  }
}

// Says how EPT12 stopped a walk that was for `gpa`.
std::string DescribeFault(const NestedEptWalk& walk, Gpa gpa, bool with_gpa) {
  const std::string at = with_gpa ? absl::StrFormat(" gpa %x", gpa.raw()) : "";
  if (walk.outcome == NestedEptOutcome::kMisconfiguration) return "misconfig" + at;
  return absl::StrFormat("violation %x%s", walk.qualification.raw(), at);
}

// Notes which of the entries written are the guest's of 4 bytes.
struct NarrowEntries {
  std::byte* Reach(Gpa gpa, bool to_write, GuestWalkOutcome& why) {
    std::byte* place = nested.Reach(gpa, to_write, why);
    if (place != nullptr && to_write && narrow) memory.NarrowLast();
    return place;
  }
  void Wrote(Gpa) {}
  void AskAgain(Gpa) {}

  NestedMemory<WalkedMemory>& nested;
  WalkedMemory& memory;
  bool narrow;
};

// Is the memory of a walk without EPT.
struct FlatEntries {
  struct AtHand {
    bool Find(Gpa page, const std::byte*& found) const {
      GuestWalkOutcome why = GuestWalkOutcome::kMapped;
      found = entries.memory.Reach(page, false, why);
      return true;
    }
    FlatEntries& entries;
  };
  std::byte* Reach(Gpa gpa, bool to_write, GuestWalkOutcome& why) {
    std::byte* place = memory.Reach(gpa, to_write, why);
    if (to_write && narrow) memory.NarrowLast();
    return place;
  }
  void Wrote(Gpa) {}
  void AskAgain(Gpa) {}

  WalkedMemory& memory;
  bool narrow;
};

}  // namespace

std::byte* WalkedMemory::At(Gpa gpa) {
  std::unique_ptr<Page>& page = pages_[Gfn::Of(gpa).raw()];
  if (page == nullptr) page = std::make_unique<Page>();
  return page->bytes + gpa.page_offset();
}

std::byte* WalkedMemory::Reach(Gpa gpa, bool to_write, GuestWalkOutcome&) {
  if (to_write) writes_[last_ = gpa.raw()] = sizeof(uint64_t);
  return At(gpa);
}

void WalkedMemory::Store(Gpa gpa, uint64_t value) { std::memcpy(At(gpa), &value, sizeof(value)); }

void WalkedMemory::StorePage(Gpa gpa, const char* bytes) {
  std::memcpy(At(gpa.AlignDown(kPageSize)), bytes, kPageSize);
}

std::string WalkedMemory::TakeWrites() {
  std::string text;
  for (const auto& [address, size] : std::exchange(writes_, {})) {
    uint64_t value = 0;
    std::memcpy(&value, At(Gpa(address)), size);
    absl::StrAppend(&text, text.empty() ? " ad" : "", absl::StrFormat(" %x=%x", address, value));
  }
  return text;
}

void WalkedMemory::Clear() {
  pages_.clear();
  writes_.clear();
}

void EngineWalkProtocol::Reset() {
  memory_.Clear();
  controls_ = {.cr0 = 0x80010033, .efer = 0x500, .physical_address_bits = 40};
  roots_ = {};
  rules_ = {};
  rules_.physical_address_bits = 40;
  rules_.capabilities = EptCapabilities::All().Without(
      ept::kCapAdvancedExitInformation | ept::kCapWalk5 | ept::kCapSupervisorShadowStack);
  eptp_ = Eptp();
  ept_ = true;
  ac_ = false;
}

bool EngineWalkProtocol::Set(std::string_view name, uint64_t value) {
  const auto capability = [&](uint64_t bit) {
    rules_.capabilities =
        value != 0 ? rules_.capabilities.With(bit) : rules_.capabilities.Without(bit);
  };
  if (name == "maxpa") {
    controls_.physical_address_bits = rules_.physical_address_bits = static_cast<int>(value);
  } else if (name == "eptp") {
    eptp_ = Eptp(value);
  } else if (name == "cap1g") {
    capability(ept::kCap1G);
    controls_.pages_1g = value != 0;
  } else if (name == "adv") {
    capability(ept::kCapAdvancedExitInformation);
  } else if (name == "ept") {
    ept_ = value != 0;
  } else if (name == "cr0") {
    controls_.cr0 = value;
  } else if (name == "cr3") {
    roots_.cr3 = value;
  } else if (name == "cr4") {
    controls_.cr4 = value;
  } else if (name == "efer") {
    controls_.efer = value;
  } else if (name == "pkru") {
    roots_.pkru = static_cast<uint32_t>(value);
  } else if (name == "pkrs") {
    roots_.pkrs = static_cast<uint32_t>(value);
  } else if (name == "ac") {
    ac_ = value != 0;
  } else {
    return name == "pml";  // the engine keeps no log for L1
  }
  return true;
}

std::string EngineWalkProtocol::Walk(const WalkLine& line) {
  NestedEptAccess access;
  access.gpa = Gpa(line.gpa);
  access.access = AccessOf(line.access);
  access.linear_address_valid = line.linear;
  access.final_address = line.linear && !line.guest_table;
  if (line.linear && line.guest_table && eptp_.accessed_dirty()) {
    access.access = access.access | Access::ReadWrite();
  }
  access.guest_rights = GuestRights(GuestRights::kExecute);  // what the recorded walker assumes
  NestedEptWalk walk;
  NestedEptWalker(eptp_, rules_, memory_).Walk(access, walk);
  if (walk.outcome != NestedEptOutcome::kMapped) return DescribeFault(walk, access.gpa, false);
  const EptEntry leaf = walk.entries[static_cast<size_t>(walk.level)];
  return absl::StrFormat("ok %x mt %d ipat %d lvl %d", walk.gpa.raw(),
                         static_cast<int>(leaf.memory_type()), leaf.ignore_pat() ? 1 : 0,
                         walk.level);
}

std::string EngineWalkProtocol::NestedLinear(Gva gva, GuestAccess access) {
  const GuestPaging paging(controls_);
  NestedMemory<WalkedMemory> nested(eptp_, rules_, memory_);
  NarrowEntries entries{nested, memory_, paging.mode() == PagingMode::k32Bit};
  GuestWalk walk;
  GvaToGpa(paging, roots_, entries, gva, access, walk);
  if (walk.outcome == GuestWalkOutcome::kNestedFault) {
    return DescribeFault(nested.fault(), nested.fault_gpa(), true);
  }
  if (walk.outcome != GuestWalkOutcome::kMapped) return Describe(walk);
  NestedEptAccess final;
  final.gpa = walk.gpa;
  final.access = access.is_write()   ? Access::Write()
                 : access.is_fetch() ? Access::Execute()
                                     : Access::Read();
  final.linear_address_valid = final.final_address = true;
  final.guest_rights = walk.rights;
  NestedEptWalk last;
  NestedEptWalker(eptp_, rules_, memory_).Walk(final, last);
  if (last.outcome != NestedEptOutcome::kMapped) return DescribeFault(last, final.gpa, true);
  return absl::StrFormat("ok %x", last.gpa.raw());
}

std::string EngineWalkProtocol::Linear(const LinearLine& line) {
  GuestAccess access = GuestAccessOf(line.access);
  if (line.user) access = access.ByUser();
  if (ac_ && !line.user) access = access.ExcusedFromSmap();
  const Gva gva(line.gva);
  if (ept_) return NestedLinear(gva, access);
  const GuestPaging paging(controls_);
  FlatEntries entries{memory_, paging.mode() == PagingMode::k32Bit};
  GuestWalk walk;
  GvaToGpa(paging, roots_, entries, gva, access, walk);
  return Describe(walk);
}

std::string EngineWalkProtocol::LoadPdptes() {
  const GuestPaging paging(controls_);
  GuestWalkOutcome outcome;
  if (!ept_) {
    outcome = tdp::LoadPdptes(paging, roots_.cr3, memory_, roots_);
  } else {
    PdpteMemory<WalkedMemory> pdptes(eptp_, rules_, memory_);
    outcome = tdp::LoadPdptes(paging, roots_.cr3, pdptes, roots_);
    if (outcome == GuestWalkOutcome::kNestedFault) {
      return DescribeFault(pdptes.fault(), pdptes.fault_gpa(), true);
    }
  }
  return outcome == GuestWalkOutcome::kMapped ? "ok" : "gp";
}

bool EngineWalkProtocol::IsValidEptp(Eptp eptp) {
  return eptp.Check(rules_.capabilities, rules_.physical_address_bits).ok();
}

}  // namespace tdp::oracles
