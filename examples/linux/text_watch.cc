// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include <cstdint>
#include <memory>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/examples/linux/scenarios.h"

namespace tdp::linux_example {
namespace {

// The kernel's code begins where it was loaded; the decompressor has left by the first period.
constexpr Gfn kText = Gfn::Of(Gpa(MiB(16)));
constexpr PageCount kTextPages = PageCount::FromBytes(MiB(10));

// Linux runs in a view that has W nowhere in the kernel's code. Whoever writes there is reported
// once for each page, which is given back to Linux then.
class TextWatch : public Scenario {
 public:
  absl::Status OnTimer(LinuxGuest& guest) override {
    constexpr int kDecompressed = 8;  // periods
    if (++periods_ != kDecompressed) return absl::OkStatus();
    TDP_ASSIGN_OR_RETURN(view_, guest.vm().CreateView());
    TDP_RETURN_IF_ERROR(
        guest.vm().SetViewRights(view_, kText, kTextPages, Access::Read() | Access::Execute()));
    guest.Say(absl::StrFormat("from now on %d pages of code are read-only", kTextPages.raw()));
    return guest.mmu().SetView(view_);
  }

  absl::Status OnViewDenied(LinuxGuest& guest, const vtx::VmExit& exit, uint64_t rip) override {
    const Gfn gfn = Gfn::Of(exit.gpa);
    constexpr size_t kShown = 5;
    if (pages_.insert(gfn).second && pages_.size() <= kShown) {
      guest.Say(absl::StrFormat("code at gpa 0x%x is patched from rip 0x%x", exit.gpa.raw(), rip));
    }
    return guest.vm().SetViewRights(view_, gfn, PageCount(1), Access::All());
  }

  absl::Status OnEnd(LinuxGuest& guest) override {
    guest.Say(absl::StrFormat("%d pages of code were patched", pages_.size()));
    return periods_ >= 8 ? absl::OkStatus()
                         : absl::FailedPreconditionError("Linux ended before it was watched");
  }

 private:
  int periods_ = 0;
  ViewId view_ = kBaseView;
  absl::flat_hash_set<Gfn> pages_;
};

}  // namespace

std::unique_ptr<Scenario> MakeTextWatch() { return std::make_unique<TextWatch>(); }

}  // namespace tdp::linux_example
