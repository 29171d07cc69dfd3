// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/examples/linux/memory_copy.h"
#include "tdp/examples/linux/scenarios.h"

namespace tdp::linux_example {
namespace {

// Each period is one step of a live migration: everything is copied while the log notes what Linux
// writes; then a round that copies what was noted; then, while Linux stands still, the rest.
class Migration : public Scenario {
 public:
  absl::Status OnTimer(LinuxGuest& guest) override {
    switch (step_++ % 3) {
      case 0:
        return Begin(guest);
      case 1:
        return CopyDirty(guest, *copy_);
      default:
        return Finish(guest);
    }
  }

  absl::Status OnEnd(LinuxGuest& guest) override {
    guest.Say(absl::StrFormat("%d migrations", migrations_));
    target_.mmu.reset();  // of a migration that Linux's end has cut short
    target_.vm.reset();
    return migrations_ != 0 ? absl::OkStatus()
                            : absl::FailedPreconditionError("Linux ended before a migration");
  }

 private:
  absl::Status Begin(LinuxGuest& guest) {
    TDP_ASSIGN_OR_RETURN(target_, guest.MakeMemory());
    copy_ = std::make_unique<MemoryCopy>(guest, target_.ram);
    return StartCopy(guest, *copy_);
  }

  absl::Status Finish(LinuxGuest& guest) {
    TDP_RETURN_IF_ERROR(CopyDirty(guest, *copy_));
    TDP_RETURN_IF_ERROR(copy_->Compare());
    guest.Say(absl::StrFormat("migration %d: %d pages in all, equal byte by byte", ++migrations_,
                              copy_->pages()));
    TDP_ASSIGN_OR_RETURN(GuestMemory source, guest.Adopt(std::exchange(target_, {})));
    memset(reinterpret_cast<void*>(source.ram.raw()), 0xcc, guest.options().ram);
    source.mmu.reset();
    source.vm.reset();
    guest.host().Free(source.ram, guest.options().ram);
    return absl::OkStatus();
  }

  int step_ = 0;
  int migrations_ = 0;
  GuestMemory target_;
  std::unique_ptr<MemoryCopy> copy_;
};

}  // namespace

std::unique_ptr<Scenario> MakeMigration() { return std::make_unique<Migration>(); }

}  // namespace tdp::linux_example
