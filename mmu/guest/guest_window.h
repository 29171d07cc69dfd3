// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A vCPU's window into its guest's memory: the few pages that its walks of guest tables come by,
// kept as pointers.

#ifndef TDP_MMU_GUEST_GUEST_WINDOW_H_
#define TDP_MMU_GUEST_GUEST_WINDOW_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "absl/status/status.h"
#include "tdp/base/address.h"
#include "tdp/memslot/dirty_log.h"
#include "tdp/memslot/dirty_ring.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_reader.h"
#include "tdp/memslot/slot_state.h"
#include "tdp/mmu/backend.h"
#include "tdp/mmu/guest/guest_walker.h"
#include "tdp/mmu/sync/change_sequence.h"
#include "tdp/mmu/sync/mmu_lock.h"

namespace tdp {

class LeafPolicy;
struct Backing;

// A memory for `GuestWalker`. A pointer serves while the change sequence stands, so slot changes
// and host invalidations drop it; nothing is pinned.
//
// Belongs to one thread at a time.
class GuestWindow {
 public:
  GuestWindow(Backend& backend, const SlotSet& slots, const ChangeSequence& sequence)
      : backend_(backend),
        direct_map_offset_(backend.capabilities().direct_map_offset),
        sequence_(sequence),
        slots_(slots) {}

  GuestWindow(const GuestWindow&) = delete;
  GuestWindow& operator=(const GuestWindow&) = delete;

  // Sets the address space that is walked from now on.
  void SetAddressSpace(AddressSpaceId space);

  // Lets `policy` say from now on what stands behind a frame, inside sections of `reader`.
  void SetPolicy(const LeafPolicy& policy, MmuLock::Reader& reader);

  // Sets the vCPU's ring, where its `Vm` logs dirty pages in rings.
  void SetDirtyRing(DirtyRing* ring) { ring_ = ring; }

  // Returns where the memory at `gpa` is reached, inside an MMU section, in which the pointer stays
  // good. Null with kNeedsPage if `Fetch` has to be called first.
  ABSL_ATTRIBUTE_ALWAYS_INLINE std::byte* Reach(Gpa gpa, bool to_write, GuestWalkOutcome& why) {
    AssertInSection();
    const Gpa page = PageOf(gpa);
    const Line* line = &lines_[HashOf(page)];
    if (line->page_gpa != page) {
      line = &lines_[OtherHashOf(page)];
      if (ABSL_PREDICT_FALSE(line->page_gpa != page)) line = FindEvicted(page);
    }
    if (ABSL_PREDICT_FALSE(!Serves(*line, to_write))) {
      return Refuse(*line, Gfn::Of(gpa), to_write, why);
    }
    return line->page + gpa.page_offset();
  }

  // Shows the pages of the window that can be read until the end of the section in which it was
  // made, with one look at the sequence for all of them.
  class AtHand {
   public:
    explicit AtHand(const GuestWindow& window)
        : window_(window), quiet_(window.sequence_.quiet()) {}
    // Returns whether it has the page that begins at `page`, and gives it as `found`. Else `Reach`
    // has to look further.
    ABSL_ATTRIBUTE_ALWAYS_INLINE bool Find(Gpa page, const std::byte*& found) const {
      const Line* line = &window_.lines_[HashOf(page)];
      if (ABSL_PREDICT_FALSE(line->page_gpa != page)) {
        line = &window_.lines_[OtherHashOf(page)];
        if (line->page_gpa != page) return false;
      }
      found = line->page;
      return ABSL_PREDICT_TRUE(line->sequence == quiet_);
    }

   private:
    const GuestWindow& window_;
    const uint64_t quiet_;
  };

  // Says that something was written through a pointer of `Reach`, inside the same section: the page
  // is dirty. It comes after the write, since a log that is taken between the two would miss the
  // write. With rings the page goes to the vCPU's; what is reserved there for faults is left to
  // them, and the page goes to the slot's own log instead.
  void Wrote(Gpa gpa);

  // Says that a walk has ended at a page that it could reach, and which is asked for once more.
  void AskAgain(Gpa gpa) {
    wanted_ = Gfn::Of(gpa);
    wanted_to_write_ = true;
  }

  // Brings in the page that the last refusal was about, outside every section. `outcome` is then
  // kMapped (walk again), or kNoMemory if no slot has memory there. Errors are those of
  // `Backend::Resolve`, and ResourceExhausted without memory for a dirty log.
  absl::Status Fetch(GuestWalkOutcome& outcome);

 private:
  struct alignas(64) Line {
    Gpa page_gpa{~uint64_t{0}};                  // no page begins there
    uint64_t sequence = ChangeSequence::kNever;  // a line of no page serves nobody
    Hva hva;
    bool of_host = true;  // the host was asked for it, by `hva`
    std::byte* page = nullptr;
    bool writable = false;      // by the host
    bool read_only = false;     // never writable
    uint32_t slot = 0;          // its id
    SlotState* logs = nullptr;  // of a slot that logs dirty pages
    uint64_t index = 0;         // in that slot
  };
  static constexpr int kLogLines = 6;
  static constexpr uint64_t kGolden = 0x9e3779b97f4a7c15;

  static Gpa PageOf(Gpa gpa) { return Gpa(gpa.raw() & ~uint64_t{kPageOffsetMask}); }
  // Each page has two places: tables that fight for one find room in the other, which is never the
  // same.
  static size_t HashOf(Gpa page) { return (page.raw() >> kPageShift) % (size_t{1} << kLogLines); }
  static size_t OtherHashOf(Gpa page) {
    const size_t parity = ~page.raw() >> kPageShift & 1;
    return ((page.raw() + 1) * kGolden) >> (64 - kLogLines + 1) << 1 | parity;
  }

  // Returns whether the line answers for its frame, the one that is asked about or none.
  bool Serves(const Line& line, bool to_write) const {
    const bool stands = ABSL_PREDICT_TRUE(sequence_.IsQuietSince(line.sequence)) ||
                        !sequence_.MovedSince(line.sequence, line.hva, line.of_host);
    return stands && (!to_write || (line.writable && HasRoomToLog(line)));
  }
  static bool HasRoomToLog(const Line& line) {
    if (ABSL_PREDICT_TRUE(line.logs == nullptr)) return true;
    const DirtyLog* log = line.logs->any_log();
    return log == nullptr || log->IsPrepared(line.index);
  }
  std::byte* Refuse(const Line& line, Gfn gfn, bool to_write, GuestWalkOutcome& why);
  bool Locate(const MemorySlot& slot, uint64_t sequence, std::optional<Backing>& backing);
  void ForgetLines();
  const Line* FindEvicted(Gpa page) const;
  void Put(const Line& line);

  Backend& backend_;
  const uintptr_t direct_map_offset_;
  const ChangeSequence& sequence_;
  const LeafPolicy* policy_ = nullptr;
  MmuLock::Reader* reader_ = nullptr;
  AddressSpaceId space_ = 0;
  DirtyRing* ring_ = nullptr;
  SlotReader slots_;
  Gfn wanted_;
  bool wanted_to_write_ = false;
  std::shared_ptr<DirtyLog> short_of_room_;  // the last refusal was for want of room in it
  uint64_t index_without_room_ = 0;
  std::array<Line, size_t{1} << kLogLines> lines_;
  // The last lines that others took the place of, in turn: what a walk has fetched stays for so
  // many further fetches, and no walk needs as many frames at once (a nested one 35).
  static constexpr size_t kEvicted = 64;
  std::array<Line, kEvicted> evicted_;
  size_t evictions_ = 0;
  bool has_lines_ = false;  // some were put since the last time that all were forgotten
};

}  // namespace tdp

#endif  // TDP_MMU_GUEST_GUEST_WINDOW_H_
