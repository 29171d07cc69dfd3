// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/sweep/sweep_identity.h"

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "tdp/base/status_macros.h"
#include "tdp/base/version.h"

namespace tdp::tools {
namespace {

// FNV-1a with 64 bits. It guards against mistakes, not against forgers.
class Digest {
 public:
  void AddBytes(std::string_view bytes) {
    for (const char byte : bytes) {
      state_ = (state_ ^ static_cast<unsigned char>(byte)) * 0x100000001b3;
    }
  }
  // Adds a text whose end counts: "ab" and "c" differ from "a" and "bc".
  void Add(std::string_view text) { AddBytes(absl::StrCat(text.size(), ":", text)); }
  std::string Hex() const { return absl::StrFormat("%016x", state_); }

 private:
  uint64_t state_ = 0xcbf29ce484222325;
};

struct Closer {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

// Adds the contents of a regular file; a generator's name is all that there is of its trace.
absl::Status AddContents(const std::string& path, Digest& digest) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return absl::OkStatus();
  const std::unique_ptr<std::FILE, Closer> file(std::fopen(path.c_str(), "rb"));
  std::vector<char> block(size_t{1} << 16);
  while (file != nullptr) {
    const size_t got = std::fread(block.data(), 1, block.size(), file.get());
    if (got == 0 && std::ferror(file.get()) == 0) return absl::OkStatus();
    if (got == 0) break;
    digest.AddBytes(std::string_view(block.data(), got));
  }
  return absl::UnavailableError(absl::StrCat("cannot read ", path, ": ", std::strerror(errno)));
}

}  // namespace

absl::StatusOr<std::string> SweepIdentity(
    absl::Span<const SweepCell> cells,
    absl::Span<const std::pair<std::string, std::string>> reading,
    absl::Span<const std::string> files) {
  Digest options;
  for (const auto& [name, value] : reading) {
    options.Add(name);
    options.Add(value);
  }
  std::string_view trace;
  for (const SweepCell& cell : cells) {
    // Traces are told apart by the other digest: here it counts only where the next one begins.
    options.Add(cell.trace == trace ? "" : "next trace");
    trace = cell.trace;
    for (const auto& [name, value] : cell.values) {
      options.Add(name);
      options.Add(value);
    }
  }
  Digest contents;
  for (const std::string& file : files) {
    contents.Add(file);
    TDP_RETURN_IF_ERROR(AddContents(file, contents));
  }
  return absl::StrCat(TDP_VERSION_MAJOR, ".", TDP_VERSION_MINOR, ".", TDP_VERSION_PATCH, "-",
                      options.Hex(), "-", contents.Hex());
}

std::string SweepDifference(std::string_view identity, std::string_view other) {
  if (identity == other) return "";
  const std::vector<std::string_view> these = absl::StrSplit(identity, '-');
  const std::vector<std::string_view> those = absl::StrSplit(other, '-');
  if (these.size() != 3 || those.size() != 3) return "no identity of a sweep stands in its cells";
  if (these[0] != those[0]) return absl::StrCat("tdp ", these[0], " made it, not ", those[0]);
  return these[1] != those[1] ? "its options are others"
                              : "its traces or machine files are others, or have been changed";
}

}  // namespace tdp::tools
