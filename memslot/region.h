// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Guest physical memory as a tree of regions, the way QEMU describes a machine
// (docs/devel/memory.rst there): RAM, ROM and devices inside containers, aliases of parts of other
// regions, priorities where siblings overlap. What the guest sees of it is a `FlatView`; what the
// hardware needs are slots.

#ifndef TDP_MEMSLOT_REGION_H_
#define TDP_MEMSLOT_REGION_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/numeric/int128.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/base/address.h"

namespace tdp {

// A size in bytes, 1 to 2^64: one more than 64 bits can say.
using RegionSize = absl::uint128;
inline constexpr RegionSize kWholeAddressSpace = RegionSize(1) << 64;

// The most regions that may stand on one way from a region down to what it shows: children of
// children, and what aliases show, each counting one.
inline constexpr int kMaxRegionDepth = 128;
// The most regions that rendering a region may come by: itself, its children and what they show, a
// region as often as it is shown. It bounds what a few aliases of aliases can make of a small tree.
inline constexpr uint64_t kMaxRegionsShown = uint64_t{1} << 18;

enum class RegionKind {
  kContainer,    // nothing itself: what shows are its children
  kRam,          // memory
  kRom,          // memory that writes do not reach; they are MMIO
  kRomDevice,    // as ROM, or (see `SetRomMode`) as MMIO, as flash memory behaves
  kMmio,         // a device: every access is an exit
  kAlias,        // a part of another region, shown here
  kReservation,  // nothing is here, and nothing below may show
};

// Tells what a region is made with. Fields that a kind does not use are left as they are.
struct RegionSpec {
  std::string name = {};  // not empty; paths in messages are made of names
  RegionKind kind = RegionKind::kContainer;
  RegionSize size = 0;
  Hva host{};                        // kRam, kRom, kRomDevice: where the memory is
  class Region* alias_of = nullptr;  // kAlias
  uint64_t alias_offset = 0;         // kAlias: where the part begins
  bool read_only = false;            // writes to this and all below are MMIO
  bool log_dirty = false;            // kRam: its slots log dirty pages
};

// A node of a `RegionTree`, which owns and changes it.
class Region {
 public:
  const std::string& name() const { return spec_.name; }
  RegionKind kind() const { return spec_.kind; }
  RegionSize size() const { return spec_.size; }
  Hva host() const { return spec_.host; }
  const Region* alias_of() const { return spec_.alias_of; }
  uint64_t alias_offset() const { return spec_.alias_offset; }
  bool read_only() const { return spec_.read_only || kind() == RegionKind::kRom; }
  bool log_dirty() const { return spec_.log_dirty; }
  bool enabled() const { return enabled_; }
  // Returns, of a kRomDevice, whether reads come from memory.
  bool rom_mode() const { return rom_mode_; }

  const Region* parent() const { return parent_; }
  uint64_t offset() const { return offset_; }  // in the parent
  int priority() const { return priority_; }   // among its siblings; the highest shows
  // Returns the children by descending priority; of equals the one that came last is first.
  const std::vector<Region*>& children() const { return children_; }

  bool is_container() const { return kind() == RegionKind::kContainer; }
  bool is_alias() const { return kind() == RegionKind::kAlias; }
  // Returns whether the guest reads memory here.
  bool is_memory() const {
    return kind() == RegionKind::kRam || kind() == RegionKind::kRom ||
           (kind() == RegionKind::kRomDevice && rom_mode_);
  }

  // Returns "/top/child/this".
  std::string Path() const;

 private:
  friend class RegionTree;
  friend class RegionReach;
  explicit Region(RegionSpec spec) : spec_(std::move(spec)) {}

  RegionSpec spec_;
  bool enabled_ = true;
  bool rom_mode_ = true;
  Region* parent_ = nullptr;
  uint64_t offset_ = 0;
  int priority_ = 0;
  int height_ = 1;      // the longest way down, in regions
  uint64_t shown_ = 1;  // regions that rendering this one comes by
  std::vector<Region*> children_;
  std::vector<Region*> aliases_;  // that show this region
};

// Hears when a transaction that changed something has ended.
class RegionListener {
 public:
  virtual ~RegionListener() = default;
  virtual absl::Status OnRegionsChanged() = 0;
  // `region` was destroyed, and every listener has heard of the changes before that: forget it. No
  // region takes its address before this returns.
  virtual void OnRegionDestroyed(const Region& region) { static_cast<void>(region); }
};

// All regions of a machine. Changes between `Begin` and the matching `Commit` become visible
// together; a change outside is a transaction by itself. One thread at a time.
//
// Each change is checked by itself and refused, with the path of the region in the message, if it
// cannot stand: InvalidArgument for a bad value, FailedPrecondition for a tree that would not be
// one, ResourceExhausted for one deeper than `kMaxRegionDepth` or that shows more than
// `kMaxRegionsShown`. Nothing has changed then.
class RegionTree {
 public:
  RegionTree() = default;
  RegionTree(const RegionTree&) = delete;
  RegionTree& operator=(const RegionTree&) = delete;

  // Makes a region that is not attached yet. It lives until it is destroyed or the tree is. The
  // target of an alias is a region of this tree.
  absl::StatusOr<Region*> Create(RegionSpec spec);
  // Destroys `region`, which has no parent, no children and no alias. Its memory stays until
  // listeners have heard of all changes, so that what they know of it is not taken for a region
  // that comes after it.
  absl::Status Destroy(Region* region);

  // Puts `child`, which has no parent, at `offset` of `parent`. It may reach beyond the parent's
  // end and is cut there.
  absl::Status Attach(Region* parent, Region* child, uint64_t offset, int priority = 0);
  absl::Status Detach(Region* child);

  absl::Status SetEnabled(Region* region, bool enabled);
  absl::Status SetOffset(Region* region, uint64_t offset);
  absl::Status SetPriority(Region* region, int priority);
  absl::Status SetSize(Region* region, RegionSize size);
  absl::Status SetReadOnly(Region* region, bool read_only);
  absl::Status SetLogDirty(Region* region, bool log_dirty);
  absl::Status SetRomMode(Region* region, bool rom_mode);
  absl::Status SetAliasOffset(Region* region, uint64_t offset);

  void Begin() { ++depth_; }
  // Ends the innermost transaction. After the outermost one listeners hear of the changes, in the
  // order of their registration; the first that fails ends this with its status, and the next
  // commit tells all of them again.
  absl::Status Commit();

  void AddListener(RegionListener* listener) { listeners_.push_back(listener); }
  void RemoveListener(RegionListener* listener) { std::erase(listeners_, listener); }

 private:
  absl::Status Changed();
  static absl::Status CheckSpec(const RegionSpec& spec);
  void ForgetDestroyed();
  static void InsertByPriority(Region* parent, Region* child);

  std::vector<std::unique_ptr<Region>> regions_;
  std::vector<std::unique_ptr<Region>> destroyed_;  // listeners may still know them
  std::vector<RegionListener*> listeners_;
  int depth_ = 0;
  bool changed_ = false;
};

}  // namespace tdp

#endif  // TDP_MEMSLOT_REGION_H_
