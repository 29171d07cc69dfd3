// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This host has a `Vm` that is judged: its tables are the judge's frames, its flushes the judge's
// instructions, and its pages are those that the judge asked for.

#ifndef TDP_TESTS_JUDGE_JUDGED_HOST_H_
#define TDP_TESTS_JUDGE_JUDGED_HOST_H_

#include <cstdint>
#include <map>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/judge/tdp_judge.h"
#include "tdp/mmu/backend.h"

namespace tdp::judge_test {

class JudgedHost : public Backend {
 public:
  // The host's memory begins here: the page at `kStart` + n backs frame n of the guest.
  static constexpr uint64_t kStart = uint64_t{1} << 46;

  // With `linear` the judge's tables are CR3's, and flushes are MOV to CR3.
  explicit JudgedHost(bool linear = false);
  ~JudgedHost() override;

  // Lets hosts from now on flush nothing, or flush again, so that the judge has something to find.
  static void SetForgetsFlushes(bool forgets);

  // --- what the judge asks for; bytes, whole pages ---
  void Put(uint64_t gpa, uint64_t hpa, uint64_t size, bool writable);
  void Take(uint64_t gpa, uint64_t size);
  void SetWritable(uint64_t gpa, uint64_t size, bool writable);
  bool Has(uint64_t gpa) const { return pages_.contains(gpa); }
  bool IsWritable(uint64_t gpa) const;

  // Returns a frame of the judge's that backs the guest's page at `gpa`, cleared: the guest keeps
  // tables of its own there. Null without memory.
  uint64_t* AddGuestTable(uint64_t gpa);

  const Capabilities& capabilities() const override { return capabilities_; }
  absl::StatusOr<Hpa> AllocateTableBlock() override;
  void FreeTableBlock(Hpa block) override;
  absl::StatusOr<HostPage> Resolve(Hva hva, Access access) override;
  void Invalidate(VcpuId vcpu, Eptp root) override;
  void InvalidateAll(VcpuId vcpu) override;
  void InvalidateLinear(VcpuId vcpu) override;
  void Kick(absl::Span<const VcpuId>) override {}

 private:
  struct Page {
    uint64_t hpa;
    bool writable;
  };

  int OrderAt(uint64_t gpa) const;

  const bool linear_;
  Capabilities capabilities_;
  std::map<uint64_t, Page> pages_;
  std::vector<void*> guest_tables_;
};

}  // namespace tdp::judge_test

#endif  // TDP_TESTS_JUDGE_JUDGED_HOST_H_
