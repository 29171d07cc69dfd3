// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/option_use.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace tdp::tools {
namespace {

class Collector {
 public:
  explicit Collector(const ReplayOptions& options) : options_(options) {}

  // Notes the option of `field` if it means nothing because of `why`.
  template <typename T>
  void Add(bool unused, const char* name, T ReplayOptions::*field, const std::string& why) {
    if (unused) found_.push_back({name, why, options_.*field != defaults_.*field});
  }
  template <typename T>
  void Add(bool unused, const char* name, T CacheOptions::*field, const std::string& why) {
    const bool given = options_.cache.*field != defaults_.cache.*field;
    if (unused) found_.push_back({name, why, given});
  }

  std::vector<UnusedOption> Take() { return std::move(found_); }

 private:
  const ReplayOptions& options_;
  const ReplayOptions defaults_;
  std::vector<UnusedOption> found_;
};

}  // namespace

std::vector<UnusedOption> UnusedOptions(const ReplayOptions& options) {
  Collector collector(options);
  const bool native = options.paging == Paging::kNative;
  const bool ept = options.paging == Paging::kEpt;
  const bool shadow = options.paging == Paging::kShadow;
  const std::string no_ept = absl::StrCat("--paging ", PagingName(options.paging), " has no EPT");
  const std::string no_host = "--paging native has no host below it";
  const std::string small_host = options.huge_host_pages ? "--ept-page is 4k" : "--thp is never";
  const bool no_large_host_pages = options.ept_page == kLevel4K || !options.huge_host_pages;
  collector.Add(native, "ept-page", &ReplayOptions::ept_page, no_host);
  collector.Add(native || shadow, "ept-levels", &ReplayOptions::ept_levels, no_ept);
  collector.Add(!ept, "reverse-map", &ReplayOptions::reverse_map, "it is for --paging ept");
  collector.Add(native || no_large_host_pages, "fragmentation", &ReplayOptions::host_fragmentation,
                native ? no_host : small_host);
  collector.Add(native || options.ept_page == kLevel4K, "thp", &ReplayOptions::huge_host_pages,
                native ? no_host : "--ept-page is 4k");
  collector.Add(!ept, "fault-around", &ReplayOptions::fault_around, "it is for --paging ept");
  collector.Add(!ept, "prefault", &ReplayOptions::prefault, "it is for --paging ept");
  const bool machine = !options.cache.machine.empty();
  const std::string parts = "--machine has parts of its own";
  collector.Add(machine, "caches", &CacheOptions::caches, parts);
  collector.Add(machine, "tlb", &CacheOptions::tlb, parts);
  collector.Add(machine, "cost", &CacheOptions::cost, parts);
  collector.Add(!machine, "program-data", &CacheOptions::program_data, "there is no --machine");
  collector.Add(options.cpus == 1, "quantum", &ReplayOptions::quantum, "there is one CPU");
  return collector.Take();
}

}  // namespace tdp::tools
