// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/map_command.h"

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/command.h"
#include "tdp/tools/image/leaf_map.h"
#include "tdp/tools/image/memory_image.h"
#include "tdp/tools/image/root_search.h"
#include "tdp/tools/image/table_walk.h"
#include "tdp/tools/image_options.h"
#include "tdp/tools/number_text.h"
#include "tdp/tools/options.h"

namespace tdp::tools {
namespace {

constexpr char kUsage[] =
    "usage: tdp map [OPTION...] IMAGE\n"
    "       tdp map [OPTION...] --diff IMAGE IMAGE\n"
    "       tdp map --find-roots IMAGE\n\n"
    "Shows what the page tables in IMAGE map, in runs of leaves that continue each other: the\n"
    "guest's tables at --cr3 (or at the CR3 of a QEMU dump), linear to guest-physical, or with\n"
    "--eptp alone the EPT. --diff IMAGE shows what that earlier image maps otherwise: \"-\" "
    "before\n"
    "what is gone, \"+\" before what is new. --find-roots looks for EPT roots in all of the "
    "memory.\n"
    "Exit status 1 if an entry breaks a rule, two images differ, or no root is found.\n\n";

struct MapOptions {
  ImageOptions image;
  std::string diff;
  std::optional<uint64_t> diff_eptp;
  std::optional<uint64_t> diff_cr3;
  bool find_roots = false;
  bool help = false;
};

OptionParser MakeParser(MapOptions* options) {
  OptionParser parser;
  AddImageOptions(parser, &options->image);
  parser.AddString("diff", "an earlier image, to be compared with", &options->diff, "IMAGE");
  AddWord(parser, "diff-eptp", "EPT pointer in that image, if it is another", &options->diff_eptp);
  AddWord(parser, "diff-cr3", "CR3 in that image, if it is another", &options->diff_cr3);
  parser.AddSwitch("find-roots", "look for EPT roots", &options->find_roots);
  parser.AddSwitch("help", "show this", &options->help);
  return parser;
}

// An image, and what its tables map.
struct MappedImage {
  std::unique_ptr<MemoryImage> image;
  std::unique_ptr<TableWalker> walker;
  LeafMap map;
};

absl::StatusOr<MappedImage> ReadImage(const std::string& path, const ImageOptions& options) {
  MappedImage mapped;
  TDP_ASSIGN_OR_RETURN(mapped.image, MemoryImage::Open(path, options.base.value_or(0)));
  TDP_ASSIGN_OR_RETURN(const TableRoots roots, RootsOf(options, *mapped.image));
  mapped.walker = std::make_unique<TableWalker>(*mapped.image, roots);
  TDP_ASSIGN_OR_RETURN(mapped.map, ReadLeafMap(*mapped.walker));
  return mapped;
}

std::string ProblemsText(const MappedImage& mapped) {
  std::string text;
  for (const TableProblem& problem : mapped.map.problems) {
    absl::StrAppend(&text, "wrong: ", TableProblemText(problem, *mapped.walker), "\n");
  }
  if (mapped.map.problem_count > mapped.map.problems.size()) {
    absl::StrAppend(&text, "wrong: ", mapped.map.problem_count - mapped.map.problems.size(),
                    " more\n");
  }
  return text;
}

std::string SummaryText(const MappedImage& mapped) {
  const LeafMap& map = mapped.map;
  uint64_t bytes = 0;
  for (const LeafRun& run : map.runs) bytes += run.bytes;
  return absl::StrFormat("%s: %d runs, %d KiB; %d leaves of level 1, %d of 2, %d of 3; %d tables\n",
                         RootsText(mapped.walker->roots()), map.runs.size(), bytes / 1024,
                         map.leaves[1], map.leaves[2], map.leaves[3], map.tables);
}

absl::StatusOr<int> ShowMap(const std::string& path, const MapOptions& options) {
  TDP_ASSIGN_OR_RETURN(const MappedImage mapped, ReadImage(path, options.image));
  const bool is_ept = !mapped.walker->roots().guest.has_value();
  std::string text;
  for (const LeafRun& run : mapped.map.runs) {
    absl::StrAppend(&text, LeafRunText(run, is_ept), "\n");
  }
  absl::StrAppend(&text, ProblemsText(mapped), SummaryText(mapped));
  std::fputs(text.c_str(), stdout);
  return mapped.map.problem_count == 0 ? kExitOk : kExitMismatch;
}

absl::StatusOr<int> ShowDifference(const std::string& path, const MapOptions& options) {
  ImageOptions earlier = options.image;
  if (options.diff_eptp.has_value()) earlier.eptp = options.diff_eptp;
  if (options.diff_cr3.has_value()) earlier.cr3 = options.diff_cr3;
  TDP_ASSIGN_OR_RETURN(const MappedImage before, ReadImage(options.diff, earlier));
  TDP_ASSIGN_OR_RETURN(const MappedImage after, ReadImage(path, options.image));
  const bool is_ept = !after.walker->roots().guest.has_value();
  if (is_ept == before.walker->roots().guest.has_value()) {
    return absl::InvalidArgumentError(
        "--diff: one map is of a guest's tables, the other of an EPT");
  }
  std::string text;
  const std::vector<LeafChange> changes = CompareLeafMaps(before.map, after.map);
  for (const LeafChange& change : changes) {
    if (change.before.bytes != 0) {
      absl::StrAppend(&text, "- ", LeafRunText(change.before, is_ept), "\n");
    }
    if (change.after.bytes != 0) {
      absl::StrAppend(&text, "+ ", LeafRunText(change.after, is_ept), "\n");
    }
  }
  absl::StrAppend(&text, changes.size(), " differences\n");
  std::fputs(text.c_str(), stdout);
  return changes.empty() ? kExitOk : kExitMismatch;
}

absl::StatusOr<int> ShowRoots(const std::string& path, const ImageOptions& options) {
  TDP_ASSIGN_OR_RETURN(const std::unique_ptr<MemoryImage> image,
                       MemoryImage::Open(path, options.base.value_or(0)));
  const std::vector<EptRoot> roots = FindEptRoots(*image, static_cast<int>(options.maxphyaddr));
  std::string text;
  for (const EptRoot& root : roots) {
    absl::StrAppendFormat(&text, "--eptp 0x%x  %d levels, %d leaves, %d KiB\n", root.eptp.raw(),
                          root.eptp.levels(), root.leaves, root.bytes / 1024);
  }
  absl::StrAppend(&text, roots.size(), " EPT roots\n");
  std::fputs(text.c_str(), stdout);
  return roots.empty() ? kExitMismatch : kExitOk;
}

// An option that the others leave without a meaning was meant for something else.
absl::Status CheckTogether(const MapOptions& options) {
  const ImageOptions& image = options.image;
  if (options.find_roots &&
      (!options.diff.empty() || image.eptp.has_value() || image.cr3.has_value())) {
    return absl::InvalidArgumentError("--find-roots takes no --diff, --eptp or --cr3");
  }
  if (options.diff.empty() && (options.diff_eptp.has_value() || options.diff_cr3.has_value())) {
    return absl::InvalidArgumentError("--diff-eptp and --diff-cr3 are of the image of --diff");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<int> RunMap(absl::Span<const std::string_view> arguments) {
  MapOptions options;
  const OptionParser parser = MakeParser(&options);
  TDP_ASSIGN_OR_RETURN(const std::vector<std::string> files, parser.Parse(arguments));
  if (options.help) {
    std::fputs(absl::StrCat(kUsage, parser.Help()).c_str(), stdout);
    return kExitOk;
  }
  if (files.size() != 1) return absl::InvalidArgumentError("needs one IMAGE; see tdp map --help");
  TDP_RETURN_IF_ERROR(CheckTogether(options));
  if (options.find_roots) return ShowRoots(files[0], options.image);
  if (!options.diff.empty()) return ShowDifference(files[0], options);
  return ShowMap(files[0], options);
}

}  // namespace tdp::tools
