// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/replay_options.h"

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/guest/memory_map.h"
#include "tdp/tools/replay/cache_options.h"

namespace tdp::tools {
namespace {

// About as many pages as `ColdCheckMode::kSample` looks at.
constexpr uint64_t kSampledPages = 10'000;

std::vector<std::pair<std::string, Level>> Pages() {
  return {{"4k", kLevel4K}, {"2m", kLevel2M}, {"1g", kLevel1G}};
}

void AddDimensionOptions(OptionParser& parser, ReplayOptions* options) {
  parser.AddChoice(
      "paging",
      "one dimension, two, one that shadows the guest's, or two under a hypervisor in the guest",
      &options->paging,
      {{"native", Paging::kNative},
       {"ept", Paging::kEpt},
       {"shadow", Paging::kShadow},
       {"nested", Paging::kNested}});
  parser.AddChoice("guest-page", "largest page of the guest kernel", &options->guest_page, Pages());
  parser.AddChoice("guest-levels", "levels of the guest's tables", &options->guest_levels,
                   {{"4", 4}, {"5", 5}});
  parser.AddChoice("ept-page", "largest EPT leaf and largest page of host memory",
                   &options->ept_page, Pages());
  parser.AddChoice("ept-levels", "levels of the EPT", &options->ept_levels, {{"4", 4}, {"5", 5}});
  parser.AddChoice("reverse-map",
                   "whether the EPT has a reverse map, as Linux 3.11 had; with --paging ept",
                   &options->reverse_map, {{"off", false}, {"on", true}});
}

void AddMemoryOptions(OptionParser& parser, ReplayOptions* options) {
  parser.AddSize("ram", "guest RAM, a multiple of 2m", &options->ram);
  parser.AddChoice("frames", "order in which the guest kernel gives frames", &options->shuffled,
                   {{"sequential", false}, {"shuffled", true}});
  parser.AddNumber("guest-fragmentation",
                   "share of its 2 MiB blocks that the guest cannot have whole",
                   &options->guest_fragmentation, 0, 1);
  parser.AddNumber("fragmentation", "share of guest memory that the host backs with 4K pages only",
                   &options->host_fragmentation, 0, 1);
  parser.AddChoice("thp", "whether the host backs memory with large pages",
                   &options->huge_host_pages, {{"always", true}, {"never", false}});
  parser.AddChoice("prefault", "whether all of RAM is in the EPT before the first access",
                   &options->prefault, {{"off", false}, {"on", true}});
  parser.AddInteger("fault-around", "4 KiB pages mapped by one violation, a power of two",
                    &options->fault_around, 1, 512);
  parser.AddInteger("table-churn",
                    "accesses after which the guest takes a page away and invalidates it, so that "
                    "it faults in again; 0: never",
                    &options->table_churn, 0, ~uint64_t{0});
}

absl::Status CheckNested(const ReplayOptions& options) {
  if (options.ept_page > kLevel2M) {
    return absl::InvalidArgumentError(
        "--ept-page 1g: with --paging nested the guest's hypervisor has pages of 4k or 2m");
  }
  if (options.fault_around != 1) {
    return absl::InvalidArgumentError(
        "--fault-around: with --paging nested it is for the guest's hypervisor to map more");
  }
  return absl::OkStatus();
}

}  // namespace

void AddReplayOptions(OptionParser& parser, ReplayOptions* options) {
  AddDimensionOptions(parser, options);
  AddMemoryOptions(parser, options);
  AddCacheOptions(parser, &options->cache);
  parser.AddInteger("cpus", "CPUs that the trace is dealt out to, a batch each in turn",
                    &options->cpus, 1, 256);
  parser.AddInteger(
      "quantum",
      "accesses that one of several CPUs makes in a row, on average; the seed decides "
      "whose turn it is",
      &options->quantum, 1, 1'000'000'000);
  parser.AddInteger("seed", "of everything random", &options->seed, 0, ~uint64_t{0});
}

void AddCheckOption(OptionParser& parser, ColdCheckMode* check, std::string help) {
  parser.AddChoice("check", std::move(help), check,
                   {{"all", ColdCheckMode::kAll},
                    {"sample", ColdCheckMode::kSample},
                    {"off", ColdCheckMode::kOff}});
  parser.AllowBare("all", [](std::string_view text) {
    return text == "all" || text == "sample" || text == "off";
  });
}

uint64_t CheckStride(ColdCheckMode check, uint64_t pages) {
  return check == ColdCheckMode::kSample ? pages / kSampledPages + 1 : 1;
}

absl::Status CheckReplayOptions(const ReplayOptions& options) {
  const absl::StatusOr<MemoryMap> map = MemoryMap::ForPc(options.ram);
  if (!map.ok()) return map.status();
  if ((options.fault_around & (options.fault_around - 1)) != 0) {
    return absl::InvalidArgumentError("--fault-around must be a power of two");
  }
  if (options.reverse_map && options.paging != Paging::kEpt) {
    return absl::InvalidArgumentError(
        absl::StrCat("--reverse-map on is for --paging ept, not ", PagingName(options.paging)));
  }
  return options.paging == Paging::kNested ? CheckNested(options) : absl::OkStatus();
}

const char* PagingName(Paging paging) {
  static constexpr const char* kNames[] = {"native", "ept", "shadow", "nested"};
  return kNames[static_cast<size_t>(paging)];
}

const char* PageName(Level level) {
  static constexpr const char* kNames[] = {"4 KiB", "2 MiB", "1 GiB"};
  return kNames[level.raw() - 1];
}

}  // namespace tdp::tools
