// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// One subject under judgement in this process: its operations are run beside a flat map and a CPU
// that keeps every translation it may keep. What is found ends the process.

#ifndef TDP_JUDGE_SESSION_H_
#define TDP_JUDGE_SESSION_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "tdp/backends/sim/cpu.h"
#include "tdp/backends/sim/flush_oracle.h"
#include "tdp/backends/sim/table_reach.h"
#include "tdp/judge/finding.h"
#include "tdp/judge/flat_map.h"
#include "tdp/judge/frames.h"
#include "tdp/judge/random.h"
#include "tdp/judge/tdp_judge.h"

namespace tdp::judge {

// Says how the stores of the subject are seen.
enum class StoreView {
  kHooks,  // by what the subject's compiler put before each, if it did
  kStep,   // the tables are read-only, each store traps and is stepped over
};

class Session {
 public:
  // `record` gets the finding. `end` is called after that and does not return.
  Session(const tdpj_subject& subject, Record& record, StoreView view, void (*end)());
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Returns the session that the subject's stubs and stores speak to; null before.
  static Session* current();

  // Makes the subject's tables, and destroys them.
  void Begin();
  void End();
  // Runs the step under every check; false, with nothing done, if `WhyNot` says why.
  bool Run(const tdpj_step& step);
  // Says why the step cannot be run now: the contract forbids it, or the sequence has come to its
  // end. Null if it can.
  const char* WhyNot(const tdpj_step& step) const;
  // Returns whether no further step can be judged: one failed half-way, as it may.
  bool is_over() const { return over_; }

  const FlatMap& map() const { return map_; }
  const RangeSet& logged() const { return logged_; }
  const tdpj_subject& subject() const { return subject_; }
  Frames& frames() { return frames_; }

  // --- the subject's stubs ---
  void* Allocate(unsigned n);
  void Free(void* p);
  void* Adopt(void* p, size_t bytes);
  int Invept(int type, uint64_t eptp, uint64_t reserved);
  int Invvpid(int type, unsigned vpid, uint64_t gva);
  void Invlpg(uint64_t address);
  void MovCr3();
  void Vmrun(int tlb_control, unsigned asid);
  void Invlpga();
  [[noreturn]] void Panic(const char* what);
  // A store of up to `size` bytes at `p` by the instruction at `pc` is about to happen, in a
  // function that was called at `caller`; 0: not known.
  void BeforeStore(const volatile void* p, size_t size, uint64_t pc, uint64_t caller = 0);
  // Step mode: that store is done.
  void AfterStore();

  // Says what was found and ends the process. `klass` is class[.detail]; `pc` an instruction or
  // what `PlaceOfStore` returned.
  [[noreturn]] void Report(const std::string& klass, const std::string& sentence, uint64_t pc = 0);
  [[noreturn]] void Misuse(const std::string& sentence);

  bool in_subject() const { return in_subject_; }
  // Returns the step under way, in words.
  std::string Asked() const;

 private:
  // Says what is wrong: the class, or null, and the sentence.
  struct Complaint {
    const char* klass = nullptr;
    std::string sentence;
  };

  // Returns whether the tables are of the format that CR3's have, nested ones too.
  bool is_linear() const { return subject_.contract.format != TDPJ_FORMAT_EPT; }
  bool is_cr3() const { return subject_.contract.format == TDPJ_FORMAT_CR3; }
  bool is_npt() const { return subject_.contract.format == TDPJ_FORMAT_NPT; }
  // Returns where the CPU is asked for `gpa`. A nested address has 48 bits, none of which is a
  // sign.
  Gva LinearOf(uint64_t gpa) const {
    return Gva(is_npt() ? static_cast<uint64_t>(static_cast<int64_t>(gpa << 16) >> 16) : gpa);
  }
  bool Claims(unsigned claim) const { return (subject_.contract.claims & claim) != 0; }

  // The steps of a step.
  void ChooseAddresses(const tdpj_step& step);
  int Call(const tdpj_step& step);
  FlatMap Expected(const tdpj_step& step, bool& is_error) const;
  void Settle(const tdpj_step& step, int answer, bool is_error);
  void LookAtTables();
  void SettleFailure(const tdpj_step& step);
  void JudgeAt(uint64_t gpa);
  void JudgeLookup(uint64_t gpa, const sim::ProbeResult& found);
  void JudgeFrames();
  void JudgeFreed(size_t frame);
  void JudgeStale();
  void Touch(const tdpj_step& step);
  void TouchSome();
  int Fault(uint64_t gpa, unsigned fail_at);
  void Reenter();
  void Harvest(const tdpj_step& step);
  void TakeRoot();
  int EnterEpt(uint64_t root);
  void LoadCr3(uint64_t root);
  void EnterNested(uint64_t root);
  // A stub that serves only `format` was called.
  void RequireFormat(int format, const char* stub);

  // Between stores.
  uint64_t PlaceOfStore(uint64_t pc, uint64_t caller);
  void TakeNote();
  void TakeNoteOf(size_t frame, size_t word);
  void WriteBefore(size_t frame, size_t word);
  void VisibleStore(size_t frame, size_t word, uint64_t before, uint64_t after, uint64_t pc);
  void JudgeBetween(uint64_t gpa, uint64_t pc);
  void JudgeUnlinked(size_t frame, size_t word, uint64_t entry);
  Complaint FindBetween(uint64_t gpa, const sim::ProbeResult& found) const;
  bool HasMovedRoot();
  void LinkFrames();
  void CompareTables();
  const char* WhyNoRights(const sim::ProbeResult& found) const;
  void JudgeRights(const Extent& extent, const sim::ProbeResult& found, uint64_t gpa);

  // These ask the CPU.
  sim::ProbeResult Probe(uint64_t gpa) const;
  sim::AccessResult GuestAccess(uint64_t gpa, unsigned right);
  // Returns whether using the old translation does what using the new one would.
  bool IsHarmless(const sim::StaleUse& use, uint64_t gpa, unsigned right,
                  const sim::AccessResult& result) const;
  // Reports a translation of nested tables that the CPU kept from another root under its ASID.
  void JudgeNested(uint64_t gpa, const sim::AccessResult& result);
  void FillCaches(bool with_stores);
  Complaint FindInWalk(const sim::ProbeResult& found, uint64_t gpa, const char* when) const;
  void OnFlush(bool all_roots, Hpa root = Hpa(0));
  bool IsTableEntry(uint64_t entry) const;
  bool IsLeafEntry(uint64_t entry, int level) const;
  bool GuestMayRun() const {
    return !Claims(TDPJ_STOPPED) && !Claims(TDPJ_GUEST_LEAVES) && running_;
  }

  const tdpj_subject& subject_;
  Record& record_;
  const StoreView view_;
  void (*const end_)();
  Frames frames_;
  sim::FlushOracle oracle_;
  sim::Cpu cpu_;
  sim::TableReach reach_;

  FlatMap map_;
  FlatMap after_;  // what the step under way is to lead to
  RangeSet logged_;
  RangeSet lenient_;            // pages that may lack W for dirty logging's sake
  std::set<uint64_t> written_;  // logged pages that the guest wrote since the last harvest
  std::vector<uint64_t> addresses_;
  const tdpj_step* step_ = nullptr;
  Random random_{1};
  bool over_ = false;
  bool running_ = false;  // a root is known
  bool in_subject_ = false;
  bool in_judge_ = false;  // a stub or hook is at work: its own stores are no news
  uint64_t root_ = 0;
  uint64_t linked_epoch_ = 0;
  std::vector<uint64_t> linked_;  // by frame: the epoch in which it was last seen linked
  std::vector<size_t> linked_frames_;
  // The store that a hook announced.
  uint64_t pending_ = 0;      // offset of its first word
  uint64_t pending_end_ = 0;  // and behind its last one; no more than that if there is none
  uint64_t pending_pc_ = 0;
  // Stores by instruction and caller. A place is a number with the top bit set, an index of these.
  struct StorePlace {
    uint64_t pc;
    uint64_t caller;
  };
  static constexpr uint64_t kPlace = uint64_t{1} << 63;
  std::vector<StorePlace> places_;
  absl::flat_hash_map<uint64_t, uint64_t> place_numbers_;
  uint64_t last_pc_ = 0;              // of the last store that a CPU could see
  std::vector<uint64_t> change_pcs_;  // by number of the oracle's change
  uint64_t first_change_ = 0;
  std::vector<size_t> freed_;  // frames that were freed while a CPU might keep them
};

}  // namespace tdp::judge

#endif  // TDP_JUDGE_SESSION_H_
