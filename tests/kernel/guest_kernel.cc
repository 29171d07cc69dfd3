// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/kernel/guest_kernel.h"

namespace tdp::kernel {
namespace {

// With so few tables left an operation might not get what it needs.
constexpr size_t kFewTables = 12;

}  // namespace

void GuestKernel::Apply(const KernelOp& op) {
  if (!referee_.ok()) return;
  const int cpu = op.cpu % referee_.cpus();
  const int space = op.space % kSpaces;
  const int page = op.page % kPages;
  tables_.Use(cpu, op.how >> 8 & 1);
  if (pool_.tables_left() < kFewTables) FlushAll(op.how >> 9);
  shootdown_.Use(op.careless, op.how >> 9);
  ++ops_;
  switch (op.kind) {
    case KernelOpKind::kAccess:
      return Access(op);
    case KernelOpKind::kCreate:
      Create(space);
      return;
    case KernelOpKind::kDestroy:
      return Destroy(space);
    case KernelOpKind::kFork:
      return Fork(shootdown_.current(cpu), space);
    case KernelOpKind::kSwitch:
      if (IsLive(space)) shootdown_.Switch(cpu, space, RootOf(space));
      return;
    case KernelOpKind::kRegisters:
      return ChangeRegisters(cpu, op.how);
    case KernelOpKind::kFlushAll:
      return FlushAll(op.how >> 9);
    case KernelOpKind::kDisturb:
      return referee_.Disturb(op.how, op.page);
    default:
      // The change is mostly in a space that some CPU runs.
      return ChangeMapping(op, IsLive(space) && op.space < 8 ? space : shootdown_.current(cpu),
                           page);
  }
}

void GuestKernel::ChangeMapping(const KernelOp& op, int space, int page) {
  switch (op.kind) {
    case KernelOpKind::kMap:
      if (!Find(space, page).present()) Map(space, page, op.how, std::nullopt);
      return;
    case KernelOpKind::kRemap:
      return Map(space, page, op.how, std::nullopt);
    case KernelOpKind::kShare:
      return Share(space, page, (op.how >> 8) % kPages, op.how);
    case KernelOpKind::kUnmap:
      return Unmap(space, page, op.how % 2 != 0);
    case KernelOpKind::kProtect:
      return Protect(space, page, op.how);
    case KernelOpKind::kProtectTable:
      return ProtectTable(space, page, op.how);
    case KernelOpKind::kFlip:
      return Flip(space, page);
    case KernelOpKind::kClearUse:
      return ClearUse(space, page);
    case KernelOpKind::kPoison:
      return Poison(space, page);
    default:
      return;
  }
}

void GuestKernel::ChangeRegisters(int cpu, uint16_t how) {
  const sim::Registers& registers = referee_.registers(cpu);
  if (how % 3 == 0) return referee_.WriteCr0(cpu, registers.cr0 ^ sim::kCr0Wp);
  referee_.WriteCr4(cpu, registers.cr4 ^ (how % 3 == 1 ? sim::kCr4Smep : sim::kCr4Smap));
}

void GuestKernel::Access(const KernelOp& op) {
  constexpr int kTries = 6;
  const int cpu = op.cpu % referee_.cpus();
  const int page = op.page % kPages;
  const bool store = (op.how & KernelAccess::kStore) != 0;
  MachineAccess access;
  access.gva = layout_.AddressOf(page) +
               GuestLayout::WordAt(op.how >> KernelAccess::kWordShift & (kWordsInPage - 1));
  access.kind = store                                  ? sim::AccessKind::kStore
                : (op.how & KernelAccess::kFetch) != 0 ? sim::AccessKind::kFetch
                                                       : sim::AccessKind::kLoad;
  access.user = (op.how & KernelAccess::kByKernel) == 0;
  access.alignment = (op.how & KernelAccess::kAlignment) != 0;
  access.bytes = shape_.entry_bytes;
  access.value = next_value_++;
  for (int i = 0; i < kTries && referee_.ok(); ++i) {
    const AccessOutcome outcome = referee_.Access(cpu, access);
    if (outcome.page_fault && AnswerFault(cpu, page, access)) continue;
    visible_.push_back({ops_, outcome.page_fault, outcome.error_code, outcome.value});
    return;
  }
  referee_.Blame("a program's access never gets done");
}

// Returns false if the program has no right to what it tried.
bool GuestKernel::AnswerFault(int cpu, int page, const MachineAccess& access) {
  const int space = shootdown_.current(cpu);
  const TableWalk walk = Find(space, page);
  const sim::Registers& registers = referee_.registers(cpu);
  const AccessRules rules = {.kind = access.kind,
                             .user = access.user,
                             .alignment = access.alignment,
                             .write_protect = (registers.cr0 & sim::kCr0Wp) != 0,
                             .smep = (registers.cr4 & sim::kCr4Smep) != 0,
                             .smap = (registers.cr4 & sim::kCr4Smap) != 0};
  if (!walk.present() || shape_.IsReserved(walk.entry)) return false;
  if (rules.Allow(walk.rights)) {
    // The CPU went by something old, which the fault has dropped; only PDPTEs stay.
    if (shape_.is_pae()) shootdown_.Switch(cpu, space, RootOf(space));
    return true;
  }
  const bool is_write = sim::Writes(access.kind) && (access.user || rules.write_protect);
  return is_write && (walk.entry & kCopyOnWrite) != 0 && CopyOnWrite(space, page, walk);
}

bool GuestKernel::CopyOnWrite(int space, int page, const TableWalk& walk) {
  const uint64_t writable = (walk.entry | kWritable) & ~kCopyOnWrite;
  if (pool_.refs(walk.entry & kFrame) == 1) {
    Replace(space, page, walk, writable);
    return true;
  }
  if (walk.level > 1) {
    Split(space, GuestLayout::RegionOf(page), walk);
    return Find(space, page).level == 1;
  }
  const std::optional<uint64_t> copy = pool_.AllocateData();
  if (!copy.has_value()) return false;
  CopyPage(walk.entry & kFrame, *copy);
  Replace(space, page, walk, (writable & ~kFrame) | *copy);
  Unref(walk.entry & kFrame);
  ++copies_;
  return true;
}

}  // namespace tdp::kernel
