// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/examples/linux/random.h"
#include "tdp/examples/linux/scenarios.h"

namespace tdp::linux_example {
namespace {

// On the host side of Linux's first CPU, between two of its exits, while the second one runs: every
// change has to get that one out of the guest.
class CrossKicks : public Scenario {
 public:
  explicit CrossKicks(uint64_t seed) : random_(seed) {}

  absl::Status OnStart(LinuxGuest& guest) override {
    return guest.host().MakeMovable(guest.ram(), guest.options().ram);
  }

  absl::Status OnTimer(LinuxGuest& guest) override {
    constexpr int kMovesATime = 8;
    const uint64_t pages = guest.options().ram / kPageSize;
    for (int i = 0; i < kMovesATime; ++i) {
      TDP_RETURN_IF_ERROR(Move(guest, guest.ram() + random_() % pages * kPageSize));
    }
    TDP_ASSIGN_OR_RETURN(PendingFlush flush,
                         guest.vm().ZapRange(Gfn(random_() % pages), PageCount(1)));
    flush.Settle();
    ++zaps_;
    return absl::OkStatus();
  }

  absl::Status OnEnd(LinuxGuest& guest) override {
    guest.Say(absl::StrFormat("%d zaps and %d pages moved, by %d kicks", zaps_, moves_,
                              guest.host().kicks()));
    if (guest.host().kicks() == 0) return absl::FailedPreconditionError("no CPU was ever kicked");
    return absl::OkStatus();
  }

 private:
  absl::Status Move(LinuxGuest& guest, Hva hva) {
    TDP_RETURN_IF_ERROR(guest.vm().BeginHostInvalidation(hva, kPageSize));
    if (guest.host().Move(hva)) ++moves_;
    guest.vm().EndHostInvalidation();
    return absl::OkStatus();
  }

  Random random_;
  uint64_t zaps_ = 0;
  uint64_t moves_ = 0;
};

}  // namespace

std::unique_ptr<Scenario> MakeCrossKicks(uint64_t seed) {
  return std::make_unique<CrossKicks>(seed);
}

}  // namespace tdp::linux_example
