// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tdp/backends/vtx/boot/bare.h"
#include "tdp/base/status_macros.h"
#include "tdp/examples/linux/random.h"
#include "tdp/examples/linux/scenarios.h"

namespace tdp::linux_example {
namespace {

constexpr uint64_t kPagesOf2M = 512;

// On the second CPU, without pause but for what Linux needs to get on.
class Torture : public Scenario {
 public:
  Torture(uint64_t seed, Care care) : seed_(seed), random_(seed), care_(care) {}

  absl::Status OnStart(LinuxGuest& guest) override {
    TDP_RETURN_IF_ERROR(guest.host().MakeMovable(guest.ram(), guest.options().ram));
    pages_ = guest.options().ram / kPageSize;
    guest_ = &guest;
    processor_.emplace([](void* self) { static_cast<Torture*>(self)->Run(); }, this);
    return absl::OkStatus();
  }

  absl::Status OnEnd(LinuxGuest& guest) override {
    processor_.reset();
    std::string counts;
    for (size_t i = 0; i < kOperations; ++i) {
      absl::StrAppend(&counts, i == 0 ? "" : ", ", done_[i], " ", kTable[i].name);
    }
    guest.Say(absl::StrCat("seed ", seed_, ": ", moves_, " pages moved; ", counts));
    return status_;
  }

 private:
  struct Operation {
    const char* name;
    absl::Status (Torture::*run)(LinuxGuest&);
  };
  static constexpr size_t kOperations = 10;
  static const Operation kTable[kOperations];

  void Run() {
    LinuxGuest& guest = *guest_;
    // Ticks. What takes 40 faults on EPT takes thousands on shadow tables.
    const uint64_t gap = IsShadowed(guest) ? 500000 : 100000;
    while (!guest.has_ended() && status_.ok()) {
      // Half of all operations move pages: they are what Linux's checksums notice best.
      const size_t which = random_() % 2 == 0 ? 0 : random_() % kOperations;
      status_ = care_ == Care::kFull ? (this->*kTable[which].run)(guest) : Move(guest);
      ++done_[care_ == Care::kFull ? which : 0];
      for (const uint64_t end = __builtin_ia32_rdtsc() + gap;
           __builtin_ia32_rdtsc() < end && !guest.has_ended();) {
        __builtin_ia32_pause();
      }
      late_.Settle();
    }
  }

  Gfn RandomFrame() { return Gfn(random_() % pages_); }
  PageCount RandomCount(Gfn first) {
    return PageCount(1 + random_() % std::min<uint64_t>(4 * kPagesOf2M, pages_ - first.raw()));
  }

  absl::Status MovePage(LinuxGuest& guest, Hva hva) {
    if (care_ == Care::kUntold) {
      if (guest.host().Move(hva)) ++moves_;
      return absl::OkStatus();
    }
    if (care_ == Care::kNotWaitedFor) {
      const Gfn gfn((hva - guest.ram()) / kPageSize);
      TDP_ASSIGN_OR_RETURN(PendingFlush flush, guest.vm().ZapRange(gfn, PageCount(1)));
      if (guest.host().Move(hva)) ++moves_;
      late_.Merge(std::move(flush));  // settled when Linux has used the page for a while
      return absl::OkStatus();
    }
    TDP_RETURN_IF_ERROR(guest.vm().BeginHostInvalidation(hva, kPageSize));
    if (guest.host().Move(hva)) ++moves_;
    guest.vm().EndHostInvalidation();
    return absl::OkStatus();
  }

  // Moves pages. Those of the last time come home first where nothing else brings them: there are
  // only so many spare frames.
  absl::Status Move(LinuxGuest& guest) {
    for (Hva& hva : travellers_) {
      if (guest.has_ended()) return absl::OkStatus();
      if (care_ != Care::kFull && hva != Hva(0) && !guest.host().is_home(hva)) {
        TDP_RETURN_IF_ERROR(MovePage(guest, hva));
      }
      hva = guest.ram() + RandomFrame().raw() * kPageSize;
      TDP_RETURN_IF_ERROR(MovePage(guest, hva));
    }
    return absl::OkStatus();
  }

  // Every page that is away in one piece of 2 MiB comes home, and the piece is whole again.
  absl::Status Home(LinuxGuest& guest) {
    const Hva first = guest.ram() + random_() % (pages_ / kPagesOf2M) * MiB(2);
    for (ByteCount at = 0; at < MiB(2); at += kPageSize) {
      if (!guest.host().is_home(first + at)) TDP_RETURN_IF_ERROR(MovePage(guest, first + at));
    }
    return absl::OkStatus();
  }

  absl::Status Zap(LinuxGuest& guest) {
    const Gfn first = RandomFrame();
    TDP_ASSIGN_OR_RETURN(PendingFlush flush, guest.vm().ZapRange(first, RandomCount(first)));
    flush.Settle();
    return absl::OkStatus();
  }

  absl::Status ZapAll(LinuxGuest& guest) {
    TDP_ASSIGN_OR_RETURN(PendingFlush flush, guest.vm().ZapAll());
    flush.Settle();
    return absl::OkStatus();
  }

  // Large leaves are not the engine's to choose where tables shadow Linux's own.
  static bool IsShadowed(const LinuxGuest& guest) {
    return guest.options().vm.paging == Paging::kShadow;
  }

  absl::Status Split(LinuxGuest& guest) {
    if (IsShadowed(guest)) return absl::OkStatus();
    const Gfn first = RandomFrame();
    absl::StatusOr<PendingFlush> flush = guest.vm().SplitRange(first, RandomCount(first));
    if (absl::IsResourceExhausted(flush.status())) return absl::OkStatus();  // of a small quota
    TDP_RETURN_IF_ERROR(flush.status());
    flush->Settle();
    return absl::OkStatus();
  }

  absl::Status Collapse(LinuxGuest& guest) {
    if (IsShadowed(guest)) return absl::OkStatus();
    return guest.vm().CollapseRange(Gfn(0), PageCount(pages_)).status();
  }

  absl::Status Invalidate(LinuxGuest& guest) {
    return guest.vm().InvalidateHostRange(guest.ram() + random_() % (pages_ / kPagesOf2M) * MiB(2),
                                          MiB(2));
  }

  absl::Status Age(LinuxGuest& guest) {
    const Hva first = guest.ram() + random_() % (pages_ / kPagesOf2M) * MiB(2);
    TDP_ASSIGN_OR_RETURN(AgeResult aged, guest.vm().AgeHostRange(first, MiB(2)));
    aged.flush.Settle();
    return absl::OkStatus();
  }

  // Linux does not survive to see that it has no memory: it stands still meanwhile.
  absl::Status Reslot(LinuxGuest& guest) {
    guest.Stop();
    MemoryRegion gone = guest.Region(0);
    gone.size = 0;
    absl::Status status = guest.vm().SetMemoryRegion(gone);
    if (status.ok()) status = guest.vm().SetMemoryRegion(guest.Region(0));
    guest.Go();
    return status;
  }

  absl::Status Quota(LinuxGuest& guest) {
    TDP_RETURN_IF_ERROR(guest.vm().SetTableQuota(48 + random_() % 100));
    return random_() % 4 == 0 ? guest.vm().CheckInvariants() : absl::OkStatus();
  }

  const uint64_t seed_;
  Random random_;
  const Care care_;
  uint64_t pages_ = 0;
  LinuxGuest* guest_ = nullptr;
  absl::Status status_;
  uint64_t moves_ = 0;
  PendingFlush late_;
  std::array<Hva, 16> travellers_ = {};
  std::array<uint64_t, kOperations> done_ = {};
  std::optional<vtx::Processor> processor_;  // which uses the rest
};

const Torture::Operation Torture::kTable[kOperations] = {
    {"moves", &Torture::Move},
    {"homecomings", &Torture::Home},
    {"zaps", &Torture::Zap},
    {"zaps of all", &Torture::ZapAll},
    {"splits", &Torture::Split},
    {"collapses", &Torture::Collapse},
    {"invalidations", &Torture::Invalidate},
    {"agings", &Torture::Age},
    {"slots made anew", &Torture::Reslot},
    {"quotas", &Torture::Quota},
};

}  // namespace

std::unique_ptr<Scenario> MakeTorture(uint64_t seed, Care care) {
  return std::make_unique<Torture>(seed, care);
}

}  // namespace tdp::linux_example
