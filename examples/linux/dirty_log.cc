// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/examples/linux/memory_copy.h"
#include "tdp/examples/linux/scenarios.h"

namespace tdp::linux_example {
namespace {

// Pre-copy again and again: everything once, a few rounds of what was written since, and at the
// last one the copy must be Linux's memory, byte by byte.
class DirtyLog : public Scenario {
 public:
  absl::Status OnStart(LinuxGuest& guest) override {
    TDP_ASSIGN_OR_RETURN(const Hva to, guest.host().Allocate(guest.options().ram));
    copy_ = std::make_unique<MemoryCopy>(guest, to);
    return absl::OkStatus();
  }

  absl::Status OnTimer(LinuxGuest& guest) override {
    constexpr int kRounds = 4;
    const int step = step_++ % (kRounds + 1);
    if (step == 0) return StartCopy(guest, *copy_);
    const uint64_t before = copy_->pages();
    TDP_RETURN_IF_ERROR(CopyDirty(guest, *copy_));
    if (step < kRounds) return absl::OkStatus();
    TDP_RETURN_IF_ERROR(copy_->Compare());
    guest.Say(absl::StrFormat("copy %d: equal after a last round of %d pages", ++copies_,
                              copy_->pages() - before));
    return guest.vm().SetMemoryRegion(guest.Region(0));
  }

  absl::Status OnRingFull(LinuxGuest& guest) override { return CopyDirty(guest, *copy_); }

  absl::Status OnEnd(LinuxGuest& guest) override {
    guest.Say(absl::StrFormat("%d copies, %d pages copied", copies_, copy_->pages()));
    return copies_ != 0 ? absl::OkStatus()
                        : absl::FailedPreconditionError("Linux ended before a copy was complete");
  }

 private:
  int step_ = 0;
  int copies_ = 0;
  std::unique_ptr<MemoryCopy> copy_;
};

}  // namespace

std::unique_ptr<Scenario> MakeDirtyLog() { return std::make_unique<DirtyLog>(); }

}  // namespace tdp::linux_example
