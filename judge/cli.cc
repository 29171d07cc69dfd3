// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The judge's command line.

#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "tdp/judge/contract.h"
#include "tdp/judge/explore_contract.h"
#include "tdp/judge/runner.h"

namespace tdp::judge {
namespace {

constexpr int kClean = 0;
constexpr int kFound = 1;
constexpr int kMisused = 2;

constexpr const char* kUsage =
    "usage: %s [OPTION]…\n"
    "  --seconds N         how long to look for findings (10)\n"
    "  --operations N      how many operations at most\n"
    "  --seed N            where the random sequences begin (1)\n"
    "  --first             stop at the first finding that is not known\n"
    "  --known FILE        signatures, one a line, that are no reason to fail\n"
    "  --json              findings as JSON on stdout\n"
    "  --step              see stores by single steps: for what cannot be recompiled; slow\n"
    "  --replay FILE       run the steps that a finding printed\n"
    "  --explore-contract  do once what the contract forbids, and say what happens\n"
    "  --help              show this\n"
    "Exit status: 0 nothing found, 1 a finding, 2 the adapter or the command line is wrong.\n";

struct CliOptions {
  double seconds = 10;
  uint64_t operations = ~uint64_t{0};
  uint64_t seed = 1;
  bool first = false;
  bool json = false;
  bool explore_contract = false;
  bool help = false;
  StoreView view = StoreView::kHooks;
  std::string known;
  std::string replay;
};

// Reads a whole number of 64 bits, decimal or hexadecimal with 0x in front.
bool ReadNumber(const char* text, uint64_t& number) {
  if (*text < '0' || *text > '9') return false;
  char* end = nullptr;
  errno = 0;
  number = std::strtoull(text, &end, 0);
  return *end == 0 && errno == 0;
}

bool ReadSeconds(const char* text, double& seconds) {
  char* end = nullptr;
  seconds = std::strtod(text, &end);
  // Written so that a NaN is refused.
  return end != text && *end == 0 && seconds >= 0 && seconds < 1e9;
}

// False, with the reason on stderr, if the line makes no sense.
bool ParseLine(int argc, char** argv, CliOptions& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const bool takes_value = name == "--seconds" || name == "--operations" || name == "--seed" ||
                             name == "--known" || name == "--replay";
    if (takes_value && i + 1 == argc) {
      std::fprintf(stderr, "%s needs a value\n", name.c_str());
      return false;
    }
    const char* value = takes_value ? argv[++i] : "";
    bool understood = true;
    if (name == "--seconds") {
      understood = ReadSeconds(value, options.seconds);
    } else if (name == "--operations") {
      understood = ReadNumber(value, options.operations);
    } else if (name == "--seed") {
      understood = ReadNumber(value, options.seed);
    } else if (name == "--known") {
      options.known = value;
    } else if (name == "--replay") {
      options.replay = value;
    } else if (name == "--first") {
      options.first = true;
    } else if (name == "--json") {
      options.json = true;
    } else if (name == "--step") {
      options.view = StoreView::kStep;
    } else if (name == "--explore-contract") {
      options.explore_contract = true;
    } else if (name == "--help" || name == "-h") {
      options.help = true;
    } else {
      std::fprintf(stderr, "there is no option %s\n", name.c_str());
      return false;
    }
    if (!understood) {
      std::fprintf(stderr, "%s: '%s' is no number that it takes\n", name.c_str(), value);
      return false;
    }
  }
  return true;
}

bool ReadFile(const std::string& path, std::string& text) {
  std::ifstream file(path);
  text.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  if (file.is_open()) return true;
  std::fprintf(stderr, "%s cannot be read\n", path.c_str());
  return false;
}

std::set<std::string> SignaturesIn(const std::string& text) {
  std::set<std::string> signatures;
  std::string line;
  for (const char c : text + "\n") {
    if (c != '\n') {
      line += c;
      continue;
    }
    line = line.substr(0, line.find('#'));
    while (!line.empty() && (line.back() == ' ' || line.back() == '\r')) line.pop_back();
    if (!line.empty()) signatures.insert(line);
    line.clear();
  }
  return signatures;
}

std::string JsonText(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += ' ';
    } else {
      out += c;
    }
  }
  return out + "\"";
}

struct Told {
  Verdict verdict;
  bool known;
};

void PrintVerdict(const Verdict& verdict, bool known) {
  std::fprintf(stderr, "\n%s%s\n  %s\n", verdict.signature.c_str(), known ? " (known)" : "",
               verdict.sentence.c_str());
  if (!verdict.place.empty()) std::fprintf(stderr, "  at %s\n", verdict.place.c_str());
  if (!known) std::fprintf(stderr, "%s", StepsAsC(verdict.steps).c_str());
}

void PrintJson(const tdpj_subject& subject, const CliOptions& options, const Record& record,
               double seconds, const std::vector<Told>& told) {
  std::printf(
      "{\"subject\": %s, \"seed\": %llu, \"operations\": %llu, \"sequences\": %llu, "
      "\"seconds\": %.2f, \"stores\": %llu, \"unseen_stores\": %llu, \"findings\": [",
      JsonText(subject.name).c_str(), static_cast<unsigned long long>(options.seed),
      static_cast<unsigned long long>(record.operations),
      static_cast<unsigned long long>(record.sequences), seconds,
      static_cast<unsigned long long>(record.stores),
      static_cast<unsigned long long>(record.unseen_stores));
  const char* comma = "";
  for (const auto& [verdict, known] : told) {
    std::printf(
        "%s\n  {\"signature\": %s, \"known\": %s, \"sentence\": %s, \"place\": %s, "
        "\"steps\": %s}",
        comma, JsonText(verdict.signature).c_str(), known ? "true" : "false",
        JsonText(verdict.sentence).c_str(), JsonText(verdict.place).c_str(),
        JsonText(StepsAsC(verdict.steps)).c_str());
    comma = ",";
  }
  std::printf("]}\n");
}

int TellMisuse(const tdpj_subject* subject, const std::string& misuse) {
  std::fprintf(stderr, "judge: the adapter of %s is wrong: %s\n",
               subject == nullptr || subject->name == nullptr ? "the subject" : subject->name,
               misuse.c_str());
  return kMisused;
}

int Look(const tdpj_subject& subject, const CliOptions& options,
         const std::set<std::string>& known) {
  Runner runner(subject, options.view);
  std::vector<Told> told;
  std::set<std::string> seen;
  uint64_t seed = options.seed;
  bool failed = false;
  const auto begin = std::chrono::steady_clock::now();
  const auto spent = [begin] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  while (spent() < options.seconds && runner.record().operations < options.operations) {
    const RunLimits limits = {options.operations - runner.record().operations,
                              options.seconds - spent()};
    Verdict verdict = runner.Explore(seed, limits, seed);
    if (!verdict.found) break;
    if (verdict.misuse) return TellMisuse(&subject, verdict.sentence);
    if (!seen.insert(verdict.signature).second) continue;
    const bool is_known = known.contains(verdict.signature);
    if (!is_known) verdict = runner.Shrink(verdict);
    PrintVerdict(verdict, is_known);
    told.push_back({verdict, is_known});
    failed |= !is_known;
    if (options.first && !is_known) break;
  }
  const Record& record = runner.record();
  const double seconds = spent();
  if (options.json) PrintJson(subject, options, record, seconds, told);
  const bool blind = record.stores == 0 && record.unseen_stores != 0;
  std::fprintf(stderr,
               "%s: %llu operations in %llu sequences, %.0f a second; %llu looks at an address, "
               "%llu of them between stores; %zu findings\n",
               subject.name, static_cast<unsigned long long>(record.operations),
               static_cast<unsigned long long>(record.sequences),
               static_cast<double>(record.operations) / seconds,
               static_cast<unsigned long long>(record.looks),
               static_cast<unsigned long long>(record.store_looks), told.size());
  if (blind) {
    std::fprintf(stderr,
                 "No store was seen, only what the tables became: compile the subject with "
                 "-fsanitize=thread to look between stores.\n");
  }
  return failed ? kFound : kClean;
}

int ReplaySteps(const tdpj_subject& subject, const std::vector<tdpj_step>& steps, StoreView view) {
  Runner runner(subject, view);
  const Verdict verdict = runner.Replay(steps);
  if (const Record& record = runner.record(); record.left_out != 0) {
    std::fprintf(stderr,
                 "%s: %zu of %zu steps were not run, the first of them step %zu, a %s: %s\n",
                 subject.name, record.left_out, steps.size(), record.first_left_out,
                 StepName(steps[record.first_left_out - 1].kind), record.why_left_out);
  }
  if (!verdict.found) return kClean;
  if (verdict.misuse) return TellMisuse(&subject, verdict.sentence);
  PrintVerdict(verdict, false);
  return kFound;
}

int RunCli(int argc, char** argv) {
  CliOptions options;
  if (!ParseLine(argc, argv, options)) {
    std::fprintf(stderr, kUsage, argv[0]);
    return kMisused;
  }
  if (options.help) {
    std::printf(kUsage, argv[0]);
    return kClean;
  }
  const tdpj_subject* subject = tdpj_get_subject();
  if (const std::string misuse = MisuseOf(subject); !misuse.empty()) {
    return TellMisuse(subject, misuse);
  }
  std::string text;
  if (!options.replay.empty()) {
    if (!ReadFile(options.replay, text)) return kMisused;
    const std::vector<tdpj_step> steps = ParseSteps(text);
    if (steps.empty()) {
      std::fprintf(stderr, "%s has no steps\n", options.replay.c_str());
      return kMisused;
    }
    return ReplaySteps(*subject, steps, options.view);
  }
  if (options.explore_contract) {
    ExploreContract(*subject, options.view);
    return kClean;
  }
  if (!options.known.empty() && !ReadFile(options.known, text)) return kMisused;
  return Look(*subject, options, SignaturesIn(text));
}

}  // namespace
}  // namespace tdp::judge

int tdpj_main(int argc, char** argv) { return tdp::judge::RunCli(argc, argv); }

int tdpj_replay(const struct tdpj_subject* subject, const struct tdpj_step* steps, size_t count) {
  if (const std::string misuse = tdp::judge::MisuseOf(subject); !misuse.empty()) {
    return tdp::judge::TellMisuse(subject, misuse);
  }
  return tdp::judge::ReplaySteps(*subject, std::vector<tdpj_step>(steps, steps + count),
                                 tdp::judge::StoreView::kHooks);
}
