// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Sequences as text, and instructions as places in the source.

#include <link.h>
#include <unistd.h>

#include <climits>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tdp/judge/contract.h"
#include "tdp/judge/runner.h"

namespace tdp::judge {
namespace {

constexpr const char* kStepKinds[] = {
    "TDPJ_STEP_MAP",     "TDPJ_STEP_UNMAP",       "TDPJ_STEP_PROTECT",
    "TDPJ_STEP_TOUCH",   "TDPJ_STEP_DIRTY_START", "TDPJ_STEP_DIRTY_STOP",
    "TDPJ_STEP_HARVEST", "TDPJ_STEP_SPLIT",       "TDPJ_STEP_MERGE"};

// Takes the load address of the first object, the program itself.
int TakeBias(dl_phdr_info* info, size_t, void* bias) {
  *static_cast<uint64_t*>(bias) = info->dlpi_addr;
  return 1;
}

constexpr size_t kMaxFunction = 60;

bool ReadLine(std::FILE* pipe, std::string& line) {
  line.clear();
  int c = 0;
  while ((c = std::fgetc(pipe)) != EOF && c != '\n') line += static_cast<char>(c);
  return c != EOF;
}

uint64_t NumberAfter(const std::string& line, const char* name) {
  const size_t at = line.find(name);
  if (at == std::string::npos) return 0;
  const size_t equals = line.find('=', at);
  return equals == std::string::npos ? 0 : std::strtoull(line.c_str() + equals + 1, nullptr, 0);
}

}  // namespace

std::string PlaceOf(uint64_t pc) {
  uint64_t bias = 0;
  dl_iterate_phdr(TakeBias, &bias);
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
  if (length <= 0) return absl::StrFormat("pc %#x", pc);
  path[length] = 0;
  const std::string command =
      absl::StrFormat("addr2line -s -f -i -C -e '%s' %#x 2>/dev/null", path, pc - bias);
  std::FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return absl::StrFormat("pc %#x", pc - bias);
  // A store in an inlined function is one of its callers' as well. The standard library's are of no
  // interest.
  std::string places;
  std::string function;
  std::string place;
  while (ReadLine(pipe, function) && ReadLine(pipe, place)) {
    if (place[0] == '?') break;
    if (function.starts_with("std::")) continue;
    if (function.size() > kMaxFunction) function = function.substr(0, kMaxFunction) + "…";
    absl::StrAppend(&places, places.empty() ? "" : ", in ", place.substr(0, place.find(" (disc")),
                    " (", function, ")");
  }
  pclose(pipe);
  return places.empty() ? absl::StrFormat("pc %#x", pc - bias) : places;
}

std::string StepsAsC(const std::vector<tdpj_step>& steps) {
  std::string text = "static const struct tdpj_step steps[] = {\n";
  for (const tdpj_step& step : steps) {
    absl::StrAppend(
        &text, absl::StrFormat("    {.kind = %s, .gpa = %#x", kStepKinds[step.kind], step.gpa));
    if (step.kind == TDPJ_STEP_MAP)
      absl::StrAppend(&text, absl::StrFormat(", .hpa = %#x", step.hpa));
    absl::StrAppend(&text, absl::StrFormat(", .size = %#x", step.size));
    if (step.kind == TDPJ_STEP_MAP || step.kind == TDPJ_STEP_PROTECT ||
        step.kind == TDPJ_STEP_TOUCH) {
      absl::StrAppend(&text, absl::StrFormat(", .rights = %u", step.rights));
    }
    if (step.memory_type != 0) {
      absl::StrAppend(&text, absl::StrFormat(", .memory_type = %u", step.memory_type));
    }
    if (step.fail_at != 0) absl::StrAppend(&text, absl::StrFormat(", .fail_at = %u", step.fail_at));
    absl::StrAppend(&text, absl::StrFormat(", .seed = %#x},\n", step.seed));
  }
  absl::StrAppend(&text, "};\nassert(tdpj_replay(tdpj_get_subject(), steps, ", steps.size(),
                  ") == 0);\n");
  return text;
}

std::vector<tdpj_step> ParseSteps(const std::string& text) {
  std::vector<tdpj_step> steps;
  for (size_t at = 0; (at = text.find("{.kind", at)) != std::string::npos; ++at) {
    const std::string line = text.substr(at, text.find('}', at) - at);
    tdpj_step step = {};
    // The longest name that fits: one is another's beginning.
    size_t longest = 0;
    for (int kind = 0; kind <= TDPJ_STEP_MERGE; ++kind) {
      const std::string name = kStepKinds[kind];
      if (line.find(name) == std::string::npos || name.size() < longest) continue;
      longest = name.size();
      step.kind = kind;
    }
    step.gpa = NumberAfter(line, ".gpa");
    step.hpa = NumberAfter(line, ".hpa");
    step.size = NumberAfter(line, ".size");
    step.rights = static_cast<unsigned>(NumberAfter(line, ".rights"));
    step.memory_type = static_cast<unsigned>(NumberAfter(line, ".memory_type"));
    step.fail_at = static_cast<unsigned>(NumberAfter(line, ".fail_at"));
    step.seed = NumberAfter(line, ".seed");
    steps.push_back(step);
  }
  return steps;
}

}  // namespace tdp::judge
