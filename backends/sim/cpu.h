// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A simulated CPU in VMX non-root operation: it makes memory accesses through guest paging and EPT
// as hardware would, keeps translations until told to drop them, and exits when the tables say so.
//
// An embedder's loop:
//
//   GuestEntry entry = vcpu->EnterGuest();
//   if (cpu.Enter(entry.eptp()) == Event::kNone) result = cpu.Access(gva, AccessKind::kStore, 8);
//   … leave the entry; cpu.exit() has the fields of `result.event` …

#ifndef TDP_BACKENDS_SIM_CPU_H_
#define TDP_BACKENDS_SIM_CPU_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/base/optimization.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "tdp/backends/sim/assoc_cache.h"
#include "tdp/backends/sim/cache_presets.h"
#include "tdp/backends/sim/cost_model.h"
#include "tdp/backends/sim/ept_walker.h"
#include "tdp/backends/sim/exit.h"
#include "tdp/backends/sim/features.h"
#include "tdp/backends/sim/flush_oracle.h"
#include "tdp/backends/sim/guest_walker.h"
#include "tdp/backends/sim/level_array.h"
#include "tdp/backends/sim/machine_state.h"
#include "tdp/backends/sim/physical_memory.h"
#include "tdp/backends/sim/trace_record.h"
#include "tdp/base/address.h"
#include "tdp/mmu/format/eptp.h"

namespace tdp::sim {

struct CpuConfig {
  CpuFeatures features;
  CacheConfig caches = *CachePreset("skylake");
  CachePolicy policy = CachePolicy::kRealistic;
};

// Says why a VMX instruction failed (SDM vol. 3C, 31.3 "INVEPT"), or with kOk that it did not.
enum class VmFail : uint8_t {
  kOk,
  kType,      // a type that the CPU does not offer
  kEptp,      // VM entry would refuse the EPTP
  kReserved,  // the upper half of the descriptor is not zero
};
const char* VmFailName(VmFail fail);

// Says what the tables map one address to.
struct ProbeResult {
  // kNone, or what ended the walk: kEptViolation or kPageFault (an entry is not present),
  // kEptMisconfiguration, kPageFault with `reserved` set, kWalkedNoTable, kGeneralProtection.
  Event event = Event::kNone;
  bool reserved = false;  // the page fault is that of a reserved bit
  Hpa hpa{};              // of the byte
  unsigned rights = 0;    // `kRight…`, AND over the walk; of guest paging: R, W without XD X
  bool user = false;      // of guest paging: U, AND over the walk
  MemoryType memory_type = MemoryType::kWriteBack;  // of the EPT leaf; of guest paging by the PAT
  bool ignore_pat = false;
  int level = 0;  // of the entry that ended the walk
  EptPath path;   // the entries read, from the root down, the last one too
  bool ok() const { return event == Event::kNone; }
};

// Names one linear-address access in full; `Access` takes the usual ones.
using AccessRequest = GuestRequest;

// One simulated CPU. One thread at a time uses it, but any may call `Kick`.
class Cpu {
 public:
  explicit Cpu(const PhysicalMemory& memory, const CpuConfig& config = {});
  Cpu(const Cpu&) = delete;
  Cpu& operator=(const Cpu&) = delete;

  // --- set-up: the VMCS and the guest's registers. Nothing of this drops a translation ---

  const Registers& registers() const { return state_.registers; }
  // Sets the registers as VM entry loads them. The PDPTEs of PAE guests are part of them (or call
  // `LoadPdptes`).
  void SetRegisters(const Registers& registers);
  const Controls& controls() const { return state_.controls; }
  // Sets the controls. InvalidArgument, naming the control, if the CPU's features lack one that is
  // asked for.
  absl::Status SetControls(const Controls& controls);
  const CpuFeatures& features() const { return state_.features; }
  // Sets the features, and empties every cache.
  void SetFeatures(const CpuFeatures& features);
  uint16_t pml_index() const { return state_.pml_index; }
  void set_pml_index(uint16_t index) { state_.pml_index = index; }
  uint16_t eptp_index() const { return state_.eptp_index; }
  void set_eptp_index(uint16_t index) { state_.eptp_index = index; }

  // Walks that leave the frames which `tables` calls tables end in `kWalkedNoTable` from now on;
  // null: walks go wherever they are led. Empties every cache.
  void SetTableFrames(const TableFrames* tables);
  // Reports stale translations to `oracle` from now on; null: to nobody. Empties every cache.
  void SetFlushOracle(FlushOracle* oracle);
  // Charges walks with the latencies of `config`.
  void SetCostModel(const DataCacheConfig& config);
  void ClearCostModel();

  // --- running ---

  // Makes a VM entry with this EPTP (ignored with EPT off). kNone: the guest runs; kKick: a kick
  // came before; kEntryFailure: the EPTP is one that VM entry refuses. With VPID 0 it drops what
  // the architecture says; otherwise entries and exits drop nothing.
  Event Enter(Eptp eptp);
  Eptp eptp() const { return state_.eptp; }

  // Makes a data access or fetch of 1 to 4096 bytes at the current CPL. One that crosses a page
  // needs both.
  AccessResult Access(Gva gva, AccessKind kind, unsigned size = 1);
  AccessResult Access(const AccessRequest& request);
  // Makes an access within one page to a guest-physical address that no linear address stands
  // behind.
  AccessResult AccessGpa(Gpa gpa, AccessKind kind, unsigned size = 1);
  // Makes an access within one page by a built-in guest whose own paging maps every linear address,
  // with every right, to the same guest-physical one. It needs no guest tables, and unlike
  // `AccessGpa` makes and uses combined mappings, which INVVPID drops too. EPT is on, and the guest
  // makes no accesses of the other kind under the same VPID and PCID.
  AccessResult AccessIdentity(Gpa gpa, AccessKind kind, unsigned size = 1);

  // Returns what the tables say of an address now: nothing is set, kept, counted, reported or taken
  // from a cache. `Probe` is the walk of EPT under the current EPTP, which must be a valid one;
  // `ProbeLinear` is the walk of 64-bit guest paging from CR3, with EPT off.
  ProbeResult Probe(Gpa gpa) const;
  ProbeResult ProbeLinear(Gva gva) const;

  // Makes the accesses of `records` one by one until one ends in an event; returns how many were
  // done. `exit().event` is kNone if all were.
  size_t Run(absl::Span<const TraceRecord> records);

  // Returns the fields of the last event.
  const Exit& exit() const { return state_.exit; }

  // Makes the CPU exit before its next access or at its next entry, once. Any thread may call it.
  void Kick() { kicked_.store(true, std::memory_order_release); }

  // --- instructions of the guest (SDM vol. 3A, 5.10.4; all keep what they may keep) ---
  // Do MOV to CR0 and CR4. kGeneralProtection, with nothing changed, for what cannot stand together
  // or not be changed in that mode. Whether the CPU offers what they turn on, and whether the code
  // segment is a 64-bit one, is not asked.
  Event WriteCr0(uint64_t value);
  Event WriteCr4(uint64_t value);
  // Does MOV to CR3. With CR4.PCIDE, bit 63 set keeps the translations of the new PCID.
  // kGeneralProtection in a 64-bit mode for another bit above MAXPHYADDR, those of LAM among them.
  Event WriteCr3(uint64_t value);
  void SetPkru(uint32_t pkru);
  Event LoadPdptes();
  // Does INVLPG, which does nothing for a non-canonical address.
  void Invlpg(Gva gva);
  // Does INVPCID: type 0 address, 1 single PCID, 2 all with globals, 3 all but globals.
  // kGeneralProtection for another type, a PCID above 4095 (of types 0 and 1 also for one that is
  // not 0 without CR4.PCIDE) or, of type 0, a non-canonical address, whatever mode the guest is in.
  Event Invpcid(int type, uint16_t pcid, Gva gva);
  // Does EPTP switching: takes entry `index` of the EPTP list. kVmfunc if it is refused.
  Event Vmfunc(uint32_t leaf, uint32_t index);

  // --- instructions of the hypervisor (SDM vol. 3C, 31.3). False: the instruction fails ---
  // Executes the whole instruction: type 1 single-context, 2 all-context, with both halves of its
  // descriptor.
  VmFail Invept(int type, uint64_t eptp, uint64_t reserved = 0);
  bool InveptSingle(Eptp eptp);
  bool InveptAll();
  // Does INVVPID: type 0 one address, 1 one VPID, 2 all, 3 one VPID but globals.
  bool Invvpid(int type, uint16_t vpid, Gva gva = Gva(0));

  // --- what happened ---
  // Returns a number that grows whenever translations are dropped on demand: by an instruction of
  // either side, or by an entry without a VPID. Whoever models caches beside this CPU's own drops
  // them when it has grown.
  uint64_t invalidations() const { return invalidations_; }
  CpuCounters counters() const;
  void ClearCounters();
  // Drops every cached translation, for tests and experiments; no instruction does it.
  void ClearCaches();
  // Makes the CPU as after power-on, at the price of the translations that were kept: drops them,
  // counters, the last event, a kick and the EPTP. Features, registers, controls and oracle stay.
  void Reset();
  // Does the same, with caches of another shape from now on.
  void SetCaches(const CacheConfig& caches);

 private:
  // A combined or linear mapping of one page.
  struct TlbEntry {
    AccessResult result;  // of an access to its first byte
    uint64_t gpa = 0;
    uint32_t attributes = 0;
    uint8_t guest_shift = 0;  // of the guest's own page; 0 without guest paging
  };
  struct TlbHit {
    TlbEntry* entry = nullptr;
    int level = 0;  // of the page: 1, 2, 3
  };
  using Tlb = AssocCache<TlbEntry, EptPath>;
  class RecentPages;

  static constexpr size_t kKinds = 4;  // of an access

  size_t RunOneByOne(absl::Span<const TraceRecord> records);
  bool HitsSmallPage(TraceRecord record, RecentPages& recent);
  void Remember(TraceRecord record, RecentPages& recent) const;

  TlbHit LookUp(uint64_t gva);
  TlbHit LookUpLarge(uint64_t gva);
  bool IsFresh(const TlbHit& hit);
  static AccessResult ResultOf(const TlbEntry& entry, uint64_t gva, int level);

  AccessResult AccessSlowly(const GuestRequest& request);
  AccessResult AccessPage(const GuestRequest& request);
  bool UseHit(const GuestRequest& request, const TlbHit& hit, AccessResult& result);
  Event UseWeakHit(const GuestRequest& request, const TlbHit& hit, bool& usable);
  Event ViolationOfHit(const GuestRequest& request, const TlbHit& hit);
  AccessResult WalkPage(const GuestRequest& request);
  AccessResult FinishWalk(const GuestRequest& request, const GuestTranslation& guest, Event event);
  Event TranslateFinal(const GuestRequest& request, const GuestTranslation& guest,
                       EptTranslation& found);
  EptRequest FinalRequest(const GuestRequest& request, const GuestTranslation& guest) const;
  Event VerifyGuestPaging(const EptRequest& request, const GuestTranslation& guest,
                          const EptTranslation& found);
  AccessResult Fill(const GuestRequest& request, const GuestTranslation& guest,
                    const EptTranslation& found);
  AccessResult Fail(Event event);
  AccessResult TakeKick();

  bool ReadForProbe(uint64_t table, uint64_t address, int level, ProbeResult& result,
                    uint64_t& entry) const;

  void Reload();
  void UseEptp(Eptp eptp, bool is_another);
  void DropPage(uint64_t gva);
  template <typename Predicate>
  void DropLinearIf(Predicate predicate);
  template <typename Predicate>
  void DropLinearAddressIf(uint64_t gva, Predicate predicate);
  void DropVpid(uint16_t vpid);
  Event RaiseGeneralProtection();
  Event ReloadPdptesIf(bool needed);

  MachineState state_;
  EptWalker ept_;
  GuestWalker guest_;
  LevelArray<Tlb, 4> tlb_;  // [1] to [3]
  CpuConfig config_;
  std::unique_ptr<DataCacheModel> cost_;
  EptPath final_path_;  // of the walk under way, while the oracle is on

  uint64_t invalidations_ = 0;

  // The fast path reads these.
  std::atomic<bool> kicked_{false};
  ContextId context_ = 0;         // of the current VPID, PCID and EP4TA
  ContextId global_context_ = 0;  // the same for global pages
  bool has_tlb_ = false;
  // These belong to the last access that an event ended during its walk.
  uint64_t interrupted_page_ = ~uint64_t{0};
  bool has_globals_ = false;  // the TLB may hold some
  bool final_may_be_quiet_ = false;
  uint64_t linear_mask_ = 0;
  bool eptp_accepted_ = false;            // an entry with this EPTP was not refused
  std::array<uint32_t, kKinds> needs_{};  // by kind, at the current CPL
};

// Drops the linear and combined mappings whose context satisfies `predicate`.
template <typename Predicate>
void Cpu::DropLinearIf(Predicate predicate) {
  for (int level = 1; level <= 3; ++level) {
    tlb_[level].EraseIf(
        [&](uint64_t tag, const TlbEntry&) { return predicate(state_.contexts.OfTag(tag)); });
  }
  guest_.DropIf(predicate);
}

// --- the fast path ---

inline Cpu::TlbHit Cpu::LookUp(uint64_t gva) {
  TlbEntry* entry = tlb_[1].Find(ContextTable::Tag(context_, gva, kPageShift));
  if (ABSL_PREDICT_TRUE(entry != nullptr)) return {entry, 1};
  return LookUpLarge(gva);
}

inline AccessResult Cpu::ResultOf(const TlbEntry& entry, uint64_t gva, int level) {
  AccessResult result = entry.result;
  result.hpa = Hpa(result.hpa.raw() | (gva & ((uint64_t{1} << ShiftOf(level)) - 1)));
  return result;
}

inline AccessResult Cpu::Access(Gva gva, AccessKind kind, unsigned size) {
  if (ABSL_PREDICT_FALSE(kicked_.load(std::memory_order_relaxed))) return TakeKick();
  const uint64_t linear = gva.raw() & linear_mask_;
  const Accessor accessor = state_.registers.cpl == 3 ? Accessor::kUser : Accessor::kSupervisor;
  const GuestRequest request = {.gva = linear, .kind = kind, .accessor = accessor, .size = size};
  if (ABSL_PREDICT_FALSE((linear & kPageOffsetMask) + size > kPageSize ||
                         !guest_.rules().IsCanonical(linear))) {
    return AccessSlowly(request);
  }
  const TlbHit hit = LookUp(linear);
  if (hit.entry == nullptr) return WalkPage(request);
  const uint32_t need = needs_[static_cast<size_t>(kind)];
  if (ABSL_PREDICT_TRUE((hit.entry->attributes & need) == need && IsFresh(hit))) {
    ++state_.counters.tlb_hits;
    return ResultOf(*hit.entry, linear, hit.level);
  }
  return AccessSlowly(request);
}

// Returns whether the hit needs no look at the tables by the oracle.
inline bool Cpu::IsFresh(const TlbHit& hit) {
  return ABSL_PREDICT_TRUE(state_.oracle == nullptr) ||
         state_.oracle->IsFresh(tlb_[hit.level].NoteOf(hit.entry));
}

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_CPU_H_
