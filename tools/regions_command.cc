// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/regions_command.h"

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tdp/backends/minimal/minimal_backend.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/region_slots.h"
#include "tdp/mmu/vm.h"
#include "tdp/tools/command.h"
#include "tdp/tools/options.h"
#include "tdp/tools/printable_text.h"
#include "tdp/tools/regions/mtree_machine.h"
#include "tdp/tools/regions/mtree_text.h"
#include "tdp/tools/regions/region_file.h"
#include "tdp/tools/regions/region_text.h"
#include "tdp/tools/trace/byte_source.h"

namespace tdp::tools {
namespace {

constexpr char kUsage[] =
    "usage: tdp regions [OPTION...] FILE\n\n"
    "Prints a machine's tree of regions, what the guest sees of it and the memory slots\n"
    "that follow, then the slot changes of each transaction in the file. The slots are\n"
    "those of a real Vm, which refuses what does not fit. FILE is JSON, or what QEMU's\n"
    "monitor prints for `info mtree`, `info mtree -f`, or one after the other: then what\n"
    "the tree gives is held against QEMU's own flat view, and status 1 says that they\n"
    "differ. docs/regions.md has the formats.\n\n";

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  TDP_ASSIGN_OR_RETURN(const std::unique_ptr<ByteSource> source, OpenByteSource(path));
  return ReadAll(*source);
}

// Line and column follow the name as a compiler writes it, anything else after a blank.
absl::Status InFile(const std::string& file, const absl::Status& status) {
  const std::string_view what = status.message();
  const bool has_place = !what.empty() && what[0] >= '0' && what[0] <= '9';
  return absl::InvalidArgumentError(Printable(absl::StrCat(file, has_place ? ":" : ": ", what)));
}

// The slots of every address space of a machine, in one `Vm`.
class MachineSlots {
 public:
  static absl::StatusOr<std::unique_ptr<MachineSlots>> Create(RegionMachine& machine) {
    auto slots = std::make_unique<MachineSlots>();
    VmOptions options;
    options.address_spaces = static_cast<int>(machine.address_spaces.size());
    TDP_ASSIGN_OR_RETURN(slots->vm_, Vm::Create(slots->backend_, options));
    for (uint16_t i = 0; i < machine.address_spaces.size(); ++i) {
      slots->spaces_.push_back(std::make_unique<RegionSlots>(
          machine.tree.get(), machine.address_spaces[i].root, slots->vm_.get(), i));
      TDP_RETURN_IF_ERROR(slots->spaces_.back()->OnRegionsChanged());
    }
    return slots;
  }

  RegionSlots& of(size_t space) { return *spaces_[space]; }

 private:
  MinimalBackend backend_;
  std::unique_ptr<Vm> vm_;
  std::vector<std::unique_ptr<RegionSlots>> spaces_;
};

absl::StatusOr<std::string> RunTransaction(RegionMachine& machine, MachineSlots& slots,
                                           const RegionMachine::Transaction& transaction) {
  std::string text = absl::StrCat("\ntransaction: ", Printable(transaction.name), "\n");
  for (size_t i = 0; i < machine.address_spaces.size(); ++i) {
    const std::string space = Printable(machine.address_spaces[i].name);
    slots.of(i).set_observer(
        [&text, space](SlotStep::Kind kind, uint32_t id, const PlannedSlot& slot) {
          absl::StrAppend(&text, StepText(kind, id, slot), "  (", space, ")\n");
        });
  }
  machine.tree->Begin();
  absl::Status status;
  for (const auto& change : transaction.changes) {
    status = change(*machine.tree);
    if (!status.ok()) break;
  }
  const absl::Status committed = machine.tree->Commit();
  TDP_RETURN_IF_ERROR(status);
  TDP_RETURN_IF_ERROR(committed);
  return text;
}

std::string MachineText(const RegionMachine& machine, MachineSlots& slots) {
  std::string text;
  for (size_t i = 0; i < machine.address_spaces.size(); ++i) {
    const RegionMachine::AddressSpace& space = machine.address_spaces[i];
    absl::StrAppend(&text, i == 0 ? "" : "\n", TreeText(space.name, *space.root), "\n",
                    FlatViewText(space.name, slots.of(i).view()), "\n",
                    SlotsText(space.name, slots.of(i).slots()));
  }
  return text;
}

absl::StatusOr<std::string> Report(RegionMachine& machine) {
  TDP_ASSIGN_OR_RETURN(const std::unique_ptr<MachineSlots> slots, MachineSlots::Create(machine));
  std::string text = MachineText(machine, *slots);
  for (const RegionMachine::Transaction& transaction : machine.transactions) {
    TDP_ASSIGN_OR_RETURN(const std::string steps, RunTransaction(machine, *slots, transaction));
    absl::StrAppend(&text, steps);
  }
  return text;
}

// Says what QEMU shows of each address space, and whether it is what the tree gives.
std::string ComparisonText(const MtreeMachine& machine, MachineSlots& slots, int& status) {
  std::string text;
  for (size_t i = 0; i < machine.views.size(); ++i) {
    if (machine.views[i] == nullptr) continue;
    const std::string name = Printable(machine.regions.address_spaces[i].name);
    const std::vector<std::string> different =
        ViewDifferences(slots.of(i).view(), *machine.views[i]);
    absl::StrAppend(&text, "\nQEMU's FlatView of ", name,
                    different.empty() ? ": the same\n" : ": differs\n");
    for (const std::string& line : different) absl::StrAppend(&text, "  ", Printable(line), "\n");
    if (!different.empty()) status = kExitMismatch;
  }
  return text;
}

absl::StatusOr<int> RunMtree(const std::string& file, const std::string& text,
                             absl::Span<const std::string> spaces) {
  const absl::StatusOr<MtreeFile> parsed = ParseMtree(text);
  if (!parsed.ok()) return InFile(file, parsed.status());
  absl::StatusOr<MtreeMachine> machine = MakeMtreeMachine(*parsed, spaces);
  if (!machine.ok()) return InFile(file, machine.status());
  const auto slots = MachineSlots::Create(machine->regions);
  if (!slots.ok()) return InFile(file, slots.status());
  int status = kExitOk;
  const std::string report =
      MachineText(machine->regions, **slots) + ComparisonText(*machine, **slots, status);
  for (const std::string& note : machine->notes) {
    std::fputs(absl::StrCat("tdp: ", Printable(absl::StrCat(file, ":", note)), "\n").c_str(),
               stderr);
  }
  std::fputs(report.c_str(), stdout);
  return status;
}

}  // namespace

absl::StatusOr<int> RunRegions(absl::Span<const std::string_view> arguments) {
  bool help = false;
  std::vector<std::string> spaces;
  OptionParser parser;
  parser.Add("space", "NAME[,NAME]",
             "of info mtree: the address spaces to show, two at most; memory unless given", "",
             [&spaces](std::string_view text) -> absl::Status {
               spaces = absl::StrSplit(text, ',');
               constexpr size_t kMostSpaces = 2;
               if (spaces.size() <= kMostSpaces) return absl::OkStatus();
               return absl::InvalidArgumentError("must be one name, or two");
             });
  parser.AddSwitch("help", "show this", &help);
  TDP_ASSIGN_OR_RETURN(const std::vector<std::string> files, parser.Parse(arguments));
  if (help) {
    std::fputs(absl::StrCat(kUsage, parser.Help()).c_str(), stdout);
    return kExitOk;
  }
  if (files.size() != 1) return absl::InvalidArgumentError("needs one file; see --help");
  TDP_ASSIGN_OR_RETURN(const std::string text, ReadFile(files[0]));
  if (LooksLikeMtree(text)) return RunMtree(files[0], text, spaces);
  if (!spaces.empty()) return absl::InvalidArgumentError("--space is for what info mtree prints");
  absl::StatusOr<RegionMachine> machine = ParseRegionFile(text);
  if (!machine.ok()) return InFile(files[0], machine.status());
  const absl::StatusOr<std::string> report = Report(*machine);
  if (!report.ok()) return InFile(files[0], report.status());
  std::fputs(report->c_str(), stdout);
  return kExitOk;
}

}  // namespace tdp::tools
