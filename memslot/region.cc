// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/memslot/region.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/memory/memory.h"
#include "absl/numeric/int128.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tdp/base/address.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/region_reach.h"

namespace tdp {
namespace {

bool HasHostMemory(RegionKind kind) {
  return kind == RegionKind::kRam || kind == RegionKind::kRom || kind == RegionKind::kRomDevice;
}

absl::Status CheckSize(const std::string& path, RegionSize size) {
  if (size >= 1 && size <= kWholeAddressSpace) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat("%s: size = 0x%x%016x: not in 1 to 2^64", path,
                                                    absl::Uint128High64(size),
                                                    absl::Uint128Low64(size)));
}

absl::Status CheckHost(const std::string& path, Hva host, RegionSize size) {
  if (!host.is_page_aligned()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: host = 0x%x: not page aligned", path, host.raw()));
  }
  if (RegionSize(host.raw()) + size > kWholeAddressSpace) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: host = 0x%x: the memory wraps around", path, host.raw()));
  }
  return absl::OkStatus();
}

}  // namespace

std::string Region::Path() const {
  return absl::StrCat(parent_ == nullptr ? "" : parent_->Path(), "/", name());
}

absl::Status RegionTree::CheckSpec(const RegionSpec& spec) {
  if (spec.name.empty()) return absl::InvalidArgumentError("a region has no name");
  const std::string path = absl::StrCat("/", spec.name);
  TDP_RETURN_IF_ERROR(CheckSize(path, spec.size));
  if (HasHostMemory(spec.kind)) TDP_RETURN_IF_ERROR(CheckHost(path, spec.host, spec.size));
  if ((spec.kind == RegionKind::kAlias) != (spec.alias_of != nullptr)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": alias_of: an alias has a target, and nothing else has"));
  }
  if (spec.log_dirty && spec.kind != RegionKind::kRam) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": log_dirty: only RAM logs dirty pages"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Region*> RegionTree::Create(RegionSpec spec) {
  TDP_RETURN_IF_ERROR(CheckSpec(spec));
  auto region = absl::WrapUnique(new Region(std::move(spec)));
  if (Region* target = region->spec_.alias_of; target != nullptr) {
    region->height_ = target->height_ + 1;
    region->shown_ = target->shown_ + 1;
    TDP_RETURN_IF_ERROR(RegionReach::CheckLimits(region->height_, region->shown_, region->Path()));
    target->aliases_.push_back(region.get());
  }
  regions_.push_back(std::move(region));
  return regions_.back().get();
}

absl::Status RegionTree::Destroy(Region* region) {
  const char* const reason = region->parent_ != nullptr   ? "it is attached"
                             : !region->children_.empty() ? "it has children"
                             : !region->aliases_.empty()  ? "an alias shows it"
                                                          : nullptr;
  if (reason != nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat(region->Path(), ": cannot be destroyed: ", reason));
  }
  if (region->is_alias()) std::erase(region->spec_.alias_of->aliases_, region);
  const auto owned = std::find_if(regions_.begin(), regions_.end(),
                                  [&](const auto& each) { return each.get() == region; });
  TDP_CHECK(owned != regions_.end());
  destroyed_.push_back(std::move(*owned));
  regions_.erase(owned);
  if (depth_ == 0 && !changed_) ForgetDestroyed();
  return absl::OkStatus();
}

void RegionTree::ForgetDestroyed() {
  for (const std::unique_ptr<Region>& region : destroyed_) {
    for (RegionListener* listener : listeners_) listener->OnRegionDestroyed(*region);
  }
  destroyed_.clear();
}

absl::Status RegionTree::Attach(Region* parent, Region* child, uint64_t offset, int priority) {
  if (child->parent_ != nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(child->Path(), ": cannot be attached to ",
                                                      parent->Path(), ": it has a parent already"));
  }
  if (parent->is_alias()) {
    return absl::FailedPreconditionError(absl::StrCat(
        parent->Path(), ": an alias has no children, and ", child->name(), " would be one"));
  }
  RegionReach reach(parent);
  const std::string refused =
      absl::StrCat(child->Path(), ": cannot be attached to ", parent->Path());
  if (reach.Contains(child)) {
    return absl::FailedPreconditionError(absl::StrCat(refused, ": it would contain itself"));
  }
  TDP_RETURN_IF_ERROR(reach.CheckAdding(*child, refused));
  reach.Add(*child);
  child->parent_ = parent;
  child->offset_ = offset;
  child->priority_ = priority;
  InsertByPriority(parent, child);
  return Changed();
}

void RegionTree::InsertByPriority(Region* parent, Region* child) {
  std::vector<Region*>& siblings = parent->children_;
  const auto at = std::find_if(siblings.begin(), siblings.end(), [&](const Region* sibling) {
    return child->priority_ >= sibling->priority_;
  });
  siblings.insert(at, child);
}

absl::Status RegionTree::Detach(Region* child) {
  if (child->parent_ == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(child->Path(), ": has no parent"));
  }
  Region* const parent = std::exchange(child->parent_, nullptr);
  std::erase(parent->children_, child);
  RegionReach(parent).Remove(*child);
  return Changed();
}

absl::Status RegionTree::SetEnabled(Region* region, bool enabled) {
  if (region->enabled_ == enabled) return absl::OkStatus();
  region->enabled_ = enabled;
  return Changed();
}

absl::Status RegionTree::SetOffset(Region* region, uint64_t offset) {
  if (region->offset_ == offset) return absl::OkStatus();
  region->offset_ = offset;
  return Changed();
}

absl::Status RegionTree::SetPriority(Region* region, int priority) {
  region->priority_ = priority;
  if (region->parent_ == nullptr) return absl::OkStatus();
  std::erase(region->parent_->children_, region);
  InsertByPriority(region->parent_, region);
  return Changed();
}

absl::Status RegionTree::SetSize(Region* region, RegionSize size) {
  TDP_RETURN_IF_ERROR(CheckSize(region->Path(), size));
  if (HasHostMemory(region->kind())) {
    TDP_RETURN_IF_ERROR(CheckHost(region->Path(), region->host(), size));
  }
  if (region->spec_.size == size) return absl::OkStatus();
  region->spec_.size = size;
  return Changed();
}

absl::Status RegionTree::SetReadOnly(Region* region, bool read_only) {
  if (region->spec_.read_only == read_only) return absl::OkStatus();
  region->spec_.read_only = read_only;
  return Changed();
}

absl::Status RegionTree::SetLogDirty(Region* region, bool log_dirty) {
  if (region->kind() != RegionKind::kRam) {
    return absl::InvalidArgumentError(
        absl::StrCat(region->Path(), ": log_dirty: only RAM logs dirty pages"));
  }
  if (region->spec_.log_dirty == log_dirty) return absl::OkStatus();
  region->spec_.log_dirty = log_dirty;
  return Changed();
}

absl::Status RegionTree::SetRomMode(Region* region, bool rom_mode) {
  if (region->kind() != RegionKind::kRomDevice) {
    return absl::InvalidArgumentError(
        absl::StrCat(region->Path(), ": rom_mode: only a ROM device has modes"));
  }
  if (region->rom_mode_ == rom_mode) return absl::OkStatus();
  region->rom_mode_ = rom_mode;
  return Changed();
}

absl::Status RegionTree::SetAliasOffset(Region* region, uint64_t offset) {
  if (!region->is_alias()) {
    return absl::InvalidArgumentError(
        absl::StrCat(region->Path(), ": alias_offset: it is no alias"));
  }
  if (region->spec_.alias_offset == offset) return absl::OkStatus();
  region->spec_.alias_offset = offset;
  return Changed();
}

absl::Status RegionTree::Changed() {
  Begin();
  changed_ = true;
  return Commit();
}

absl::Status RegionTree::Commit() {
  TDP_CHECK(depth_ > 0);
  if (--depth_ != 0) return absl::OkStatus();
  if (changed_) {
    for (RegionListener* listener : listeners_) TDP_RETURN_IF_ERROR(listener->OnRegionsChanged());
    changed_ = false;
  }
  ForgetDestroyed();
  return absl::OkStatus();
}

}  // namespace tdp
