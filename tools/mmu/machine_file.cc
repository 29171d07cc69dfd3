// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/mmu/machine_file.h"

#include <algorithm>
#include <bit>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/data/machines.h"
#include "tdp/tools/trace/byte_source.h"

namespace tdp::tools {
namespace {

constexpr uint64_t kMaxCycles = 1'000'000;
constexpr uint64_t kMaxSets = uint64_t{1} << 20;
constexpr uint64_t kMaxEntries = uint64_t{1} << 22;
// A longer text is no machine's; without a bound a device would be read for ever.
constexpr size_t kMaxBytes = size_t{1} << 20;

struct Value {
  std::string text;
  std::string source;  // empty without one
  int line = 0;
};

struct Section {
  std::string kind;
  std::string name;
  int line = 0;
  std::map<std::string, Value> values;
};

// Reads the values of one section; remembers the first thing that is wrong with it.
class SectionReader {
 public:
  SectionReader(std::string_view file, Section& section) : file_(file), section_(section) {}

  uint64_t Number(const char* key, uint64_t min, uint64_t max) {
    const std::optional<Value> value = Take(key, true);
    uint64_t number = 0;
    if (!value.has_value()) return min;
    if (!absl::SimpleAtoi(value->text, &number) || number < min || number > max) {
      Fail(value->line, absl::StrCat(key, " = ", absl::CHexEscape(value->text),
                                     ": must be a number from ", min, " to ", max));
      return min;
    }
    return number;
  }

  // Returns the choices that the value names, as bits by their order.
  unsigned Words(const char* key, const std::vector<std::string>& choices, bool with_source) {
    const std::optional<Value> value = Take(key, with_source);
    if (!value.has_value()) return 0;
    unsigned bits = 0;
    for (std::string_view word : absl::StrSplit(value->text, ' ', absl::SkipEmpty())) {
      unsigned bit = 0;
      for (size_t i = 0; i < choices.size(); ++i) {
        if (choices[i] == word) bit = 1u << i;
      }
      if (bit == 0) {
        Fail(value->line, absl::StrCat(key, ": \"", absl::CHexEscape(word), "\" is none of ",
                                       absl::StrJoin(choices, ", ")));
      }
      bits |= bit;
    }
    if (bits == 0) Fail(value->line, absl::StrCat(key, " is empty"));
    return bits;
  }

  // Returns the number of the one choice that the value names.
  int Word(const char* key, const std::vector<std::string>& choices, bool with_source) {
    const auto found = section_.values.find(key);
    const int line = found == section_.values.end() ? section_.line : found->second.line;
    const unsigned bits = Words(key, choices, with_source);
    if (std::popcount(bits) > 1) Fail(line, absl::StrCat(key, " names more than one"));
    return bits == 0 ? 0 : std::countr_zero(bits);
  }

  std::string Text(const char* key) {
    const std::optional<Value> value = Take(key, false);
    return value.has_value() ? value->text : "";
  }

  sim::MmuShape Shape() {
    sim::MmuShape shape;
    shape.sets = Number("sets", 1, kMaxSets);
    shape.ways = Number("ways", 1, kMaxSets);
    if (shape.sets * shape.ways > kMaxEntries) {
      Fail(section_.line, absl::StrCat("more than ", kMaxEntries, " entries"));
    }
    shape.replacement = Word("replacement", {"lru", "plru"}, true) == 1
                            ? sim::Replacement::kTreePlru
                            : sim::Replacement::kLru;
    shape.cycles = static_cast<int>(Number("cycles", 0, kMaxCycles));
    return shape;
  }

  void Fail(int line, const std::string& what) {
    if (status_.ok())
      status_ = absl::InvalidArgumentError(absl::StrCat(file_, ":", line, ": ", what));
  }

  // Returns what was wrong; a key that nobody asked for is.
  absl::Status Finish() {
    for (const auto& [key, value] : section_.values) {
      Fail(value.line,
           absl::StrCat("[", section_.kind, "] has no key \"", absl::CHexEscape(key), "\""));
    }
    return status_;
  }

 private:
  std::optional<Value> Take(const char* key, bool with_source) {
    const auto found = section_.values.find(key);
    if (found == section_.values.end()) {
      Fail(section_.line, absl::StrCat("[", section_.kind, "] lacks ", key));
      return std::nullopt;
    }
    Value value = found->second;
    section_.values.erase(found);
    if (with_source && value.source.empty()) {
      Fail(value.line, absl::StrCat(key, " has no source: \"", key, " = ",
                                    absl::CHexEscape(value.text), " | source\" or \"| assumed\""));
    }
    return value;
  }

  const std::string_view file_;
  Section& section_;
  absl::Status status_;
};

bool IsControl(char c) { return absl::ascii_iscntrl(static_cast<uint8_t>(c)) && c != '\t'; }

absl::StatusOr<std::vector<Section>> Sections(std::string_view file, std::string_view text) {
  std::vector<Section> sections;
  int number = 0;
  for (std::string_view raw : absl::StrSplit(text, '\n')) {
    ++number;
    const std::string_view line = absl::StripAsciiWhitespace(raw);
    const auto fail = [&](std::string_view what) {
      return absl::InvalidArgumentError(absl::StrCat(file, ":", number, ": ", what));
    };
    if (line.empty() || line[0] == '#') continue;
    if (std::any_of(line.begin(), line.end(), IsControl)) {
      return fail("a control character: this is no text");
    }
    if (line[0] == '[') {
      if (line.back() != ']') return fail("a section ends with ]");
      const std::pair<std::string, std::string> head =
          absl::StrSplit(line.substr(1, line.size() - 2), absl::MaxSplits(' ', 1));
      sections.push_back({head.first, head.second, number, {}});
      continue;
    }
    const size_t equals = line.find('=');
    if (sections.empty() || equals == std::string_view::npos) return fail("not \"key = value\"");
    const std::string key(absl::StripAsciiWhitespace(line.substr(0, equals)));
    const std::pair<std::string_view, std::string_view> parts =
        absl::StrSplit(line.substr(equals + 1), absl::MaxSplits('|', 1));
    const Value value = {std::string(absl::StripAsciiWhitespace(parts.first)),
                         std::string(absl::StripAsciiWhitespace(parts.second)), number};
    if (!sections.back().values.emplace(key, value).second) {
      return fail(absl::StrCat("\"", absl::CHexEscape(key), "\" is there twice"));
    }
  }
  return sections;
}

const std::vector<std::string> kUses = {"fetch", "load", "store"};
const std::vector<std::string> kUsesWithWalk = {"fetch", "load", "store", "walk"};
const std::vector<std::string> kPages = {"4k", "2m", "1g"};

void AddTlb(SectionReader& reader, const Section& section, sim::MmuConfig& config) {
  sim::MmuTlb tlb;
  tlb.name = section.name;
  tlb.level = static_cast<int>(reader.Number("level", 1, 2));
  tlb.uses = reader.Words("for", kUses, false);
  tlb.pages = reader.Words("pages", kPages, false) << 1;
  tlb.shape = reader.Shape();
  config.tlbs.push_back(tlb);
}

void AddWalkCache(SectionReader& reader, const Section& section, sim::MmuConfig& config) {
  sim::MmuWalkCache cache;
  cache.name = section.name;
  const unsigned of = reader.Words("of", {"guest", "ept", "both"}, false);
  cache.level = static_cast<int>(reader.Number("level", 2, 5));
  cache.shape = reader.Shape();
  for (const bool ept : {false, true}) {
    if ((of & (ept ? 2u : 1u)) == 0 && (of & 4u) == 0) continue;
    for (const sim::MmuWalkCache& other : config.walk_caches) {
      if (other.ept == ept && other.level == cache.level) {
        reader.Fail(section.line, absl::StrCat("level ", cache.level, " has a walk cache already"));
      }
    }
    cache.ept = ept;
    config.walk_caches.push_back(cache);
  }
}

void AddDataCache(SectionReader& reader, const Section& section, sim::MmuConfig& config) {
  sim::MmuDataCache cache;
  cache.name = section.name;
  cache.level = static_cast<int>(reader.Number("level", 1, 3));
  cache.uses = reader.Words("for", kUsesWithWalk, false);
  cache.shape = reader.Shape();
  config.data_caches.push_back(cache);
}

absl::Status AddSection(std::string_view file, Section& section, sim::MmuConfig& config) {
  SectionReader reader(file, section);
  // `level` is a number that every reader of the file sees; it needs no source.
  if (const auto level = section.values.find("level"); level != section.values.end()) {
    level->second.source = "seen by software";
  }
  if (section.kind == "machine") {
    config.name = reader.Text("name");
  } else if (section.kind == "tlb") {
    AddTlb(reader, section, config);
  } else if (section.kind == "walk-cache") {
    AddWalkCache(reader, section, config);
  } else if (section.kind == "nested-tlb") {
    sim::MmuNestedTlb tlb;
    tlb.name = section.name;
    tlb.pages = reader.Words("pages", kPages, false) << 1;
    tlb.shape = reader.Shape();
    config.nested_tlbs.push_back(tlb);
  } else if (section.kind == "data-cache") {
    AddDataCache(reader, section, config);
  } else if (section.kind == "memory") {
    config.memory_cycles = static_cast<int>(reader.Number("cycles", 0, kMaxCycles));
  } else if (section.kind == "costs") {
    config.vm_exit_cycles = reader.Number("vm-exit", 0, kMaxCycles);
    config.page_fault_cycles = reader.Number("page-fault", 0, kMaxCycles);
    config.switch_cycles = reader.Number("context-switch", 0, kMaxCycles);
  } else {
    reader.Fail(section.line,
                absl::StrCat("there is no section [", absl::CHexEscape(section.kind), "]"));
    return reader.Finish();
  }
  return reader.Finish();
}

absl::StatusOr<std::string> TextOf(const std::string& name_or_path) {
  for (const MachineText& machine : kMachineTexts) {
    if (name_or_path == machine.name) return std::string(machine.text);
  }
  const absl::StatusOr<std::unique_ptr<ByteSource>> file = OpenByteSource(name_or_path);
  if (absl::IsNotFound(file.status())) {
    return absl::NotFoundError(absl::StrCat("no machine \"", absl::CHexEscape(name_or_path),
                                            "\" and no file of that name; there are ",
                                            absl::StrJoin(MachineNames(), ", ")));
  }
  TDP_RETURN_IF_ERROR(file.status());
  std::string text(kMaxBytes, '\0');
  TDP_ASSIGN_OR_RETURN(const size_t got, (*file)->Read(absl::MakeSpan(text)));
  if (got == kMaxBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(name_or_path, ": too long for a machine file: a MiB and more"));
  }
  text.resize(got);
  return text;
}

}  // namespace

absl::StatusOr<sim::MmuConfig> ParseMachine(std::string_view name, std::string_view text) {
  TDP_ASSIGN_OR_RETURN(std::vector<Section> sections, Sections(name, text));
  sim::MmuConfig config;
  std::map<std::string, int> once;
  for (Section& section : sections) {
    const bool is_single =
        section.kind == "machine" || section.kind == "memory" || section.kind == "costs";
    if (is_single && once[section.kind]++ != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ":", section.line, ": a second [", section.kind, "]"));
    }
    TDP_RETURN_IF_ERROR(AddSection(name, section, config));
  }
  for (const char* kind : {"machine", "memory", "costs"}) {
    if (once[kind] == 0) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": there is no [", kind, "]"));
    }
  }
  return config;
}

std::vector<std::string> MachineNames() {
  std::vector<std::string> names;
  for (const MachineText& machine : kMachineTexts) names.emplace_back(machine.name);
  return names;
}

absl::StatusOr<sim::MmuConfig> LoadMachine(const std::string& name_or_path) {
  TDP_ASSIGN_OR_RETURN(const std::string text, TextOf(name_or_path));
  return ParseMachine(name_or_path, text);
}

absl::StatusOr<std::string> NameOfCost(const std::string& name_or_path, const std::string& cost) {
  TDP_ASSIGN_OR_RETURN(const std::string text, TextOf(name_or_path));
  TDP_ASSIGN_OR_RETURN(const std::vector<Section> sections, Sections(name_or_path, text));
  std::string name = absl::StrCat(cost, " of the machine file ", name_or_path);
  for (const Section& section : sections) {
    const auto found = section.values.find(cost);
    if (section.kind != "costs" || found == section.values.end()) continue;
    if (absl::StartsWith(found->second.source, "assumed")) name += ", assumed";
  }
  return name;
}

}  // namespace tdp::tools
