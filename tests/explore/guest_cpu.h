// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This CPU runs a guest: it keeps every translation and every link between tables that it has seen
// until it is told to flush, which is the most that the architecture allows.

#ifndef TDP_TESTS_EXPLORE_GUEST_CPU_H_
#define TDP_TESTS_EXPLORE_GUEST_CPU_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/mmu/format/eptp.h"
#include "tdp/mmu/format/memory_type.h"
#include "tests/explore/explored_host.h"
#include "tests/explore/flat_model.h"

namespace tdp::explore {

// Says how an access ended.
enum class CpuEvent : uint8_t { kNone, kKick, kViolation, kMisconfiguration, kLogFull };

// Names the format of the tables that the CPU walks.
enum class TableFormat : uint8_t { kEpt, kLinear };

// Says what the CPU runs on between an entry and an exit.
struct CpuContext {
  TableFormat format = TableFormat::kEpt;
  Hpa root{};
  int levels = 4;
  bool accessed_dirty = true;
  bool logs_pages = false;  // PML
  Hpa eptp_list{};          // where VMFUNC finds EPTPs by number; 0: the guest may not switch
  // These tell the model whose tables these are.
  AddressSpaceId space = 0;
  ViewId view = kBaseView;
};

// Says what an access writes: the entry of that number of a table of the guest's, if it reaches the
// host page in which the table is expected.
struct GuestStore {
  uint64_t index = 0;
  uint64_t value = 0;
  HostPageNumber page = 0;
  bool done = false;
};

class GuestCpu {
 public:
  GuestCpu(ExploredHost& host, FlatModel& model) : host_(host), model_(model) {}

  // The guest tries so many EPTPs of the list.
  static constexpr ViewId kListed = 4;

  // Lets the guest run on these tables from now on.
  void Enter(const CpuContext& context);
  void Exit() { in_guest_ = false; }
  bool in_guest() const { return in_guest_; }
  // Takes the kick, if there is one.
  bool TakeKick() { return std::exchange(kicked_, false); }
  bool is_kicked() const { return kicked_; }

  // Kicks the CPU, from any thread.
  void Kick() { kicked_ = true; }

  // --- The host's instructions
  void FlushRoot(Hpa root);
  void FlushAll();
  void FlushLinear();

  // --- The guest
  // Makes one access to frame `gfn`. With `from_links` a walk begins at the lowest link that is
  // kept.
  CpuEvent Touch(Gfn gfn, Access kind, bool from_links, GuestStore* store = nullptr);
  // Returns the rights that the walk found, after kViolation.
  Access found() const { return found_; }
  // Notes that the engine has been told by now that the guest has its CPU forget what its tables
  // said of `FlatModel::kRemapped` before `time`.
  void ForgetMappingsBefore(uint64_t time) { mappings_since_ = time; }
  // Executes VMFUNC with leaf 0: the guest runs on the EPTP of that number in the list. False where
  // there is none, which is an exit.
  bool SwitchView(ViewId index);
  // Returns the number in the list of the view that the guest runs on.
  ViewId view() const { return context_.view; }

  // Takes the pages that were logged out of the buffer.
  std::vector<Gpa> TakeLog() { return std::exchange(log_, {}); }

  // --- What it could do at this moment, without a look at the tables
  // Returns why the model forbids something of it; empty if it forbids nothing.
  std::string CheckReach() const;
  // Returns why it should have forgotten something of [first, first + pages) of what it knew at
  // `since`.
  std::string CheckForgotten(AddressSpaceId space, Gfn first, uint64_t pages, uint64_t since) const;
  // Returns whether it is in the guest, and on that view.
  bool IsOn(ViewId view) const { return in_guest_ && context_.view == view; }
  // Writes every page that it can write unnoticed.
  void WriteSilently();

 private:
  struct Translation {
    CpuContext context;
    Gfn first;
    uint64_t pages = 1;
    Hfn frame;
    Access rights;
    bool dirty = false;  // a write goes on without a look at the tables
    MemoryType type = MemoryType::kWriteBack;
    uint64_t since = 0;

    bool Holds(Hpa root, Gfn gfn) const {
      return context.root == root && gfn >= first && gfn < first + PageCount(pages);
    }
    Hfn FrameOf(Gfn gfn) const { return frame + (gfn - first); }
  };
  struct Link {
    Hpa root;
    int level = 0;  // of the table
    uint64_t prefix = 0;
    Hpa table;
    Access rights;
  };
  struct Entry;

  // Calls `visit(kept, view)` for each translation that the guest can use, now or after a switch
  // that needs no exit.
  template <typename Visit>
  void ForEachInReach(Visit visit) const;
  Eptp Listed(ViewId index) const;
  Entry Decode(uint64_t raw, int level, Access above) const;
  const Translation* Find(Gfn gfn) const;
  const Link* FindLink(Gfn gfn, int level) const;
  CpuEvent Walk(Gfn gfn, Access kind, bool from_links, GuestStore* store);
  bool SetFlags(uint64_t* place, uint64_t raw, uint64_t flags);
  void Keep(const Translation& translation);
  CpuEvent Use(const Translation& translation, Gfn gfn, Access kind, GuestStore* store);
  void Store(Hfn frame, GuestStore& store);
  std::string Forbids(const Translation& translation, ViewId view, Gfn gfn) const;

  static constexpr size_t kLogEntries = 512;

  ExploredHost& host_;
  FlatModel& model_;
  CpuContext context_;
  bool in_guest_ = false;
  bool kicked_ = false;
  Access found_;
  uint64_t mappings_since_ = 0;
  std::vector<Translation> translations_;
  std::vector<Link> links_;
  std::vector<Gpa> log_;
};

}  // namespace tdp::explore

#endif  // TDP_TESTS_EXPLORE_GUEST_CPU_H_
