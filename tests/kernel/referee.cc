// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/kernel/referee.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tdp::kernel {
namespace {

constexpr uint64_t kKeepTranslations = uint64_t{1} << 63;

std::string ToString(const MachineAccess& access) {
  constexpr const char* kKinds[] = {"fetch", "load", "store", "modify"};
  return absl::StrFormat("%s by %s at 0x%x%s", kKinds[static_cast<int>(access.kind)],
                         access.user ? "user" : "kernel", access.gva,
                         access.alignment ? " with AC" : "");
}

std::string ToString(const AccessOutcome& outcome) {
  return outcome.page_fault ? absl::StrFormat("page fault 0x%x", outcome.error_code)
                            : absl::StrFormat("value 0x%x", outcome.value);
}

}  // namespace

Referee::Referee(GuestMachine& machine, const PagingShape& shape)
    : machine_(machine), shape_(shape), memory_(shape.entry_bytes) {
  for (int cpu = 0; cpu < machine.cpus(); ++cpu) {
    cpus_.push_back({sim::Registers(), TranslationHistory(shape, memory_)});
  }
}

void Referee::Take(const absl::Status& status) {
  if (status_.ok()) status_ = status;
}

void Referee::Poke(uint64_t gpa, uint64_t value) {
  memory_.Store(0, gpa, shape_.entry_bytes, value);
  machine_.Poke(Gpa(gpa), shape_.entry_bytes, value);
}

void Referee::Start(int cpu, const sim::Registers& registers) {
  At(cpu).registers = registers;
  LoadRoot(At(cpu), Tick());
  At(cpu).history.KillAll(clock_);
  Take(machine_.Start(cpu, registers));
}

// --- accesses ---

AccessRules Referee::RulesOf(const CpuState& cpu, const MachineAccess& access) const {
  const sim::Registers& registers = cpu.registers;
  return {.kind = access.kind,
          .user = access.user,
          .alignment = access.alignment,
          .write_protect = (registers.cr0 & sim::kCr0Wp) != 0,
          .smep = (registers.cr4 & sim::kCr4Smep) != 0,
          .smap = (registers.cr4 & sim::kCr4Smap) != 0};
}

Referee::Option Referee::OptionOf(const LegalWalk& walk, const AccessRules& rules,
                                  uint64_t gva) const {
  constexpr uint32_t kPresentCode = 1;
  constexpr uint32_t kReservedCode = 8;
  Option option{.walk = walk, .page_fault = true, .error_code = rules.ErrorCode(shape_)};
  switch (walk.end) {
    case LegalWalk::End::kNotPresent:
      return option;
    case LegalWalk::End::kReserved:
      option.error_code |= kPresentCode | kReservedCode;
      return option;
    case LegalWalk::End::kLeaf:
      option.error_code |= kPresentCode;
      option.page_fault = !rules.Allow(walk.rights);
      option.gpa = shape_.Translate(walk.leaf, walk.level, gva);
      return option;
  }
  return option;
}

std::vector<Referee::Option> Referee::OptionsOf(const CpuState& cpu, const MachineAccess& access) {
  std::vector<Option> options;
  const AccessRules rules = RulesOf(cpu, access);
  for (const LegalWalk& walk : cpu.history.Walks(clock_, access.gva, Globals(cpu))) {
    options.push_back(OptionOf(walk, rules, access.gva));
  }
  return options;
}

bool Referee::Explains(const Option& option, const MachineAccess& access,
                       const AccessOutcome& outcome) {
  if (option.page_fault != outcome.page_fault) return false;
  if (option.page_fault) return option.error_code == outcome.error_code;
  if (!sim::Writes(access.kind)) {
    return memory_.Matches(option.gpa, access.bytes, outcome.value);
  }
  // Every store has a value of its own, so the word that has this one shows where it went.
  return machine_.Peek(Gpa(option.gpa), access.bytes) == access.value;
}

AccessOutcome Referee::Access(int cpu_number, const MachineAccess& access) {
  if (!ok()) return {};
  CpuState& cpu = At(cpu_number);
  Tick();
  ++accesses_;
  std::vector<Option> options = OptionsOf(cpu, access);
  const absl::StatusOr<AccessOutcome> made = machine_.Access(cpu_number, access);
  Take(made.status());
  if (!made.ok()) return {};
  const AccessOutcome outcome = *made;
  if (options.size() > 1) ++ambiguous_;
  const bool is_store = sim::Writes(access.kind) && !outcome.page_fault;
  if (is_store) NoteWriteThrough(options);
  std::vector<Option> matching;
  for (const Option& option : options) {
    if (Explains(option, access, outcome)) matching.push_back(option);
  }
  if (matching.empty()) {
    Foul(cpu_number, access, outcome, options);
    return {};
  }
  if (std::none_of(matching.begin(), matching.end(), [](const Option& o) { return o.walk.fresh; }))
    ++stale_;
  if (outcome.page_fault) {
    cpu.history.KillFaulting(Tick(), access.gva);
    return outcome;
  }
  if (is_store) {
    memory_.Store(clock_, matching[0].gpa, access.bytes, access.value);
  } else {
    memory_.Adopt(matching[0].gpa, access.bytes, outcome.value);
  }
  if (options.size() == 1) CheckFlags(cpu, access, options[0]);
  return outcome;
}

void Referee::Foul(int cpu, const MachineAccess& access, const AccessOutcome& outcome,
                   const std::vector<Option>& options) {
  std::string text =
      absl::StrFormat("CPU %d: %s ended in %s; legal:", cpu, ToString(access), ToString(outcome));
  for (const Option& option : options) {
    if (option.page_fault) {
      absl::StrAppendFormat(&text, " page fault 0x%x (level %d, %s)", option.error_code,
                            option.walk.level, option.walk.fresh ? "fresh" : "kept");
    } else {
      absl::StrAppendFormat(&text, " gpa 0x%x with value 0x%x (leaf 0x%x, %s)", option.gpa,
                            memory_.Load(option.gpa, access.bytes), option.walk.leaf,
                            option.walk.fresh ? "fresh" : "kept");
    }
  }
  Take(absl::InternalError(text));
}

// --- A and D ---

void Referee::NoteWriteThrough(const std::vector<Option>& options) {
  for (const Option& option : options) {
    if (option.page_fault) continue;
    memory_.NoteWriteThrough(option.walk.entry_addresses[static_cast<size_t>(option.walk.level)]);
  }
}

// The walk must have set the flag if nothing of the entry can have been cached since the guest
// cleared it.
void Referee::CheckFlags(const CpuState& cpu, const MachineAccess& access, const Option& option) {
  const bool global = Globals(cpu) && (option.walk.leaf & kGlobal) != 0;
  for (int level = shape_.levels; level >= option.walk.level; --level) {
    const uint64_t entry = option.walk.entry_addresses[static_cast<size_t>(level)];
    const uint64_t known = memory_.Load(entry, 4);
    const bool is_leaf = level == option.walk.level;
    const bool dirties = is_leaf && sim::Writes(access.kind);
    if ((known & kAccessed) != 0 && (!dirties || (known & kDirty) != 0)) continue;
    Time kept = cpu.history.LastKillOfPage(access.gva, option.walk.level, global);
    if (!is_leaf) kept = std::min(kept, cpu.history.LastKillOfEntry(access.gva, level));
    if (kept > memory_.AccessedCleared(entry)) CheckFlag(entry, kAccessed, access.gva);
    if (dirties && kept > memory_.DirtyCleared(entry)) CheckFlag(entry, kDirty, access.gva);
  }
}

void Referee::CheckFlag(uint64_t entry, uint64_t flag, uint64_t gva) {
  const uint64_t actual = machine_.Peek(Gpa(entry), shape_.entry_bytes);
  if ((actual & flag) != 0) {
    if (memory_.Matches(entry, shape_.entry_bytes, actual)) {
      memory_.Adopt(entry, shape_.entry_bytes, actual);
    }
    return;
  }
  Take(absl::InternalError(
      absl::StrFormat("an access to 0x%x left %s of the entry at gpa 0x%x clear", gva,
                      flag == kDirty ? "D" : "A", entry)));
}

// --- other instructions ---

void Referee::LoadRoot(CpuState& cpu, Time now) {
  const uint64_t cr3 = cpu.registers.cr3;
  std::array<uint64_t, 4> pdptes{};
  if (shape_.is_pae()) {
    for (size_t i = 0; i < 4; ++i) pdptes[i] = memory_.Load((cr3 & 0xffffffe0) + 8 * i, 8);
  }
  const bool pcids = (cpu.registers.cr4 & sim::kCr4Pcide) != 0;
  cpu.history.LoadRoot(now, pcids ? cr3 & 0xfff : 0, cr3 & kFrame, pdptes);
}

void Referee::KillAll(CpuState& cpu, Time now) {
  cpu.history.KillAll(now);
  Time oldest = now;
  for (const CpuState& each : cpus_) oldest = std::min(oldest, each.history.horizon());
  memory_.Forget(oldest);
}

void Referee::WriteCr0(int cpu, uint64_t value) {
  if (!ok()) return;
  At(cpu).registers.cr0 = value;
  Take(machine_.WriteCr0(cpu, value));
}

void Referee::WriteCr3(int cpu_number, uint64_t value) {
  if (!ok()) return;
  CpuState& cpu = At(cpu_number);
  const bool keeps = (cpu.registers.cr4 & sim::kCr4Pcide) != 0 && (value & kKeepTranslations) != 0;
  cpu.registers.cr3 = value & ~kKeepTranslations;
  LoadRoot(cpu, Tick());
  if (!keeps) cpu.history.KillPcid(clock_, cpu.history.pcid());
  Take(machine_.WriteCr3(cpu_number, value));
}

void Referee::WriteCr4(int cpu_number, uint64_t value) {
  if (!ok()) return;
  CpuState& cpu = At(cpu_number);
  const uint64_t changed = cpu.registers.cr4 ^ value;
  const uint64_t set = value & ~cpu.registers.cr4;
  cpu.registers.cr4 = value;
  if ((changed & (sim::kCr4Pge | sim::kCr4Smep)) != 0) LoadRoot(cpu, Tick());
  if ((changed & sim::kCr4Pge) != 0 || (set & sim::kCr4Smep) != 0) KillAll(cpu, Tick());
  Take(machine_.WriteCr4(cpu_number, value));
}

void Referee::Invlpg(int cpu, uint64_t gva) {
  if (!ok()) return;
  At(cpu).history.KillPage(Tick(), gva);
  Take(machine_.Invlpg(cpu, gva));
}

void Referee::Invpcid(int cpu_number, int type, uint16_t pcid, uint64_t gva) {
  if (!ok()) return;
  CpuState& cpu = At(cpu_number);
  switch (type) {
    case 0:
      cpu.history.KillAddress(Tick(), pcid, gva);
      break;
    case 1:
      cpu.history.KillPcid(Tick(), pcid);
      break;
    case 2:
      KillAll(cpu, Tick());
      break;
    default:
      cpu.history.KillNotGlobal(Tick());
      break;
  }
  Take(machine_.Invpcid(cpu_number, type, pcid, gva));
}

// --- the end ---

void Referee::CheckFrame(uint64_t frame) {
  for (uint64_t at = frame << 12; at < (frame + 1) << 12 && ok(); at += shape_.entry_bytes) {
    const uint64_t actual = machine_.Peek(Gpa(at), shape_.entry_bytes);
    if (memory_.Matches(at, shape_.entry_bytes, actual)) continue;
    Take(absl::InternalError(absl::StrFormat("gpa 0x%x holds 0x%x instead of 0x%x", at, actual,
                                             memory_.Load(at, shape_.entry_bytes))));
  }
}

void Referee::CheckAll() {
  std::set<uint64_t> frames;
  for (const uint64_t word : memory_.Words()) frames.insert(word >> 12);
  for (const uint64_t frame : frames) CheckFrame(frame);
  if (ok()) Take(machine_.Check());
}

}  // namespace tdp::kernel
