// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/trace/generator.h"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/trace/byte_source.h"
#include "tdp/tools/trace/trace_record.h"

namespace tdp::tools {
namespace {

constexpr uint64_t kCode = 0x400000;
constexpr ByteCount kMinFootprint = KiB(4);
constexpr ByteCount kMaxFootprint = TiB(16);
constexpr uint64_t kLine = 64;

// SplitMix64's finalizer: a bijection whose output looks random.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

// A random order of the numbers below n, without memory for them: a Feistel network over the next
// even power of two, walked until it comes to one of them.
class Shuffle {
 public:
  Shuffle(uint64_t n, uint64_t seed)
      : n_(n), half_((std::bit_width(std::max<uint64_t>(n - 1, 1)) + 1) / 2), seed_(seed) {}

  uint64_t operator()(uint64_t i) const {
    do {
      i = Round(i);
    } while (i >= n_);
    return i;
  }

 private:
  uint64_t Round(uint64_t x) const {
    const uint64_t mask = (uint64_t{1} << half_) - 1;
    uint64_t left = x >> half_;
    uint64_t right = x & mask;
    for (uint64_t round = 0; round < 4; ++round) {
      const uint64_t mixed = (left ^ Mix(right ^ Mix(seed_ + round))) & mask;
      left = right;
      right = mixed;
    }
    return left << half_ | right;
  }

  const uint64_t n_;
  const int half_;
  const uint64_t seed_;
};

// Stands for the file that a generator has none of: it has a name, and no bytes.
class NoBytes final : public ByteSource {
 public:
  explicit NoBytes(std::string name) : name_(std::move(name)) {}
  absl::StatusOr<size_t> Read(absl::Span<char> /*out*/) override { return size_t{0}; }
  const std::string& name() const override { return name_; }
  uint64_t stored_offset() const override { return 0; }
  uint64_t stored_size() const override { return 0; }

 private:
  const std::string name_;
};

// Makes the accesses of one step of a program at a time.
class Program {
 public:
  explicit Program(const GeneratorSpec& spec) : spec_(spec) {}
  virtual ~Program() = default;

  // Appends the next few accesses, at least one.
  virtual void Step() = 0;

  std::vector<TraceRecord>& records() { return records_; }

 protected:
  // An instruction's fetch, then its access to the data.
  void Access(uint64_t offset, AccessKind kind, int log2_size) {
    const Gva code(kCode + instruction_++ % 64 * 4);
    records_.push_back(TraceRecord::Make(code, AccessKind::kFetch, 2));
    records_.push_back(TraceRecord::Make(Gva(spec_.base + offset), kind, log2_size));
  }
  uint64_t Random() { return Mix(spec_.seed * 0x2545f4914f6cdd1d + ++drawn_); }

  const GeneratorSpec spec_;

 private:
  std::vector<TraceRecord> records_;
  uint64_t instruction_ = 0;
  uint64_t drawn_ = 0;
};

class Gups final : public Program {
 public:
  using Program::Program;
  void Step() override { Access(Random() % (spec_.footprint / 8) * 8, AccessKind::kModify, 3); }
};

class Chase final : public Program {
 public:
  explicit Chase(const GeneratorSpec& spec)
      : Program(spec), lines_(spec.footprint / kLine), order_(lines_, spec.seed) {}
  void Step() override { Access(order_(next_++ % lines_) * kLine, AccessKind::kLoad, 3); }

 private:
  const uint64_t lines_;
  const Shuffle order_;
  uint64_t next_ = 0;
};

class Stride final : public Program {
 public:
  using Program::Program;
  void Step() override {
    Access(offset_, AccessKind::kLoad, 3);
    offset_ += spec_.stride;
    if (offset_ + 8 > spec_.footprint) offset_ = 0;
  }

 private:
  uint64_t offset_ = 0;
};

// One vertex a step. Its edges lead anywhere; a neighbour that is met for the first time is marked
// and goes to the end of the queue.
class Bfs final : public Program {
 public:
  static constexpr uint64_t kDegree = 16;
  // A vertex takes 8 bytes of offsets, 4 of each edge, a mark and 4 of the queue, rounded up to a
  // multiple of eight.
  static constexpr uint64_t kBytes = 80;

  explicit Bfs(const GeneratorSpec& spec)
      : Program(spec),
        vertices_(std::max<uint64_t>(spec.footprint / kBytes, 1)),
        order_(vertices_, spec.seed),
        edges_(vertices_ * 8),
        marks_(edges_ + vertices_ * kDegree * 4),
        queue_((marks_ + vertices_ + 7) / 8 * 8),
        marked_(vertices_ / 64 + 1, 0) {}

  void Step() override {
    if (head_ == vertices_) Restart();
    const uint64_t vertex = order_(head_);
    Access(queue_ + head_++ * 4, AccessKind::kLoad, 2);
    Access(vertex * 8, AccessKind::kLoad, 3);
    for (uint64_t i = 0; i < kDegree; ++i) {
      Access(edges_ + (vertex * kDegree + i) * 4, AccessKind::kLoad, 2);
      const uint64_t neighbour = Mix(spec_.seed ^ (vertex * kDegree + i)) % vertices_;
      Access(marks_ + neighbour, AccessKind::kLoad, 0);
      uint64_t& word = marked_[neighbour / 64];
      const uint64_t bit = uint64_t{1} << neighbour % 64;
      if ((word & bit) != 0) continue;
      word |= bit;
      Access(marks_ + neighbour, AccessKind::kStore, 0);
      Access(queue_ + tail_++ * 4, AccessKind::kStore, 2);
    }
  }

 private:
  void Restart() {
    head_ = tail_ = 0;
    std::fill(marked_.begin(), marked_.end(), 0);
  }

  const uint64_t vertices_;
  const Shuffle order_;  // in which vertices come out of the queue
  const uint64_t edges_;
  const uint64_t marks_;
  const uint64_t queue_;
  std::vector<uint64_t> marked_;
  uint64_t head_ = 0;
  uint64_t tail_ = 0;
};

// Tuples of 16 bytes: a quarter of the footprint is the relation that the table, half of it, is
// built from; the rest is the relation that probes it.
class Join final : public Program {
 public:
  explicit Join(const GeneratorSpec& spec)
      : Program(spec), built_(spec.footprint / 64), buckets_(2 * built_) {}

  void Step() override {
    const uint64_t tuple = next_ % (2 * built_);
    const bool builds = tuple < built_;
    ++next_;
    // The relation that probes lies behind the table.
    const uint64_t scanned = builds ? tuple : tuple + buckets_;
    Access(scanned * kTuple, AccessKind::kLoad, 3);
    const uint64_t bucket = Random() % buckets_;
    Access((built_ + bucket) * kTuple, builds ? AccessKind::kStore : AccessKind::kLoad, 4);
  }

 private:
  static constexpr uint64_t kTuple = 16;

  const uint64_t built_;
  const uint64_t buckets_;
  uint64_t next_ = 0;
};

std::unique_ptr<Program> MakeProgram(const GeneratorSpec& spec) {
  switch (spec.kind) {
    case GeneratorKind::kGups:
      return std::make_unique<Gups>(spec);
    case GeneratorKind::kChase:
      return std::make_unique<Chase>(spec);
    case GeneratorKind::kStride:
      return std::make_unique<Stride>(spec);
    case GeneratorKind::kBfs:
      return std::make_unique<Bfs>(spec);
    case GeneratorKind::kJoin:
      return std::make_unique<Join>(spec);
  }
  return nullptr;
}

class GeneratorReader final : public TraceReader {
 public:
  GeneratorReader(std::string name, const GeneratorSpec& spec)
      : name_(std::move(name)), left_(spec.accesses), program_(MakeProgram(spec)) {}

  absl::StatusOr<size_t> Read(absl::Span<TraceRecord> records) override {
    std::vector<TraceRecord>& made = program_->records();
    const auto wanted = static_cast<size_t>(std::min<uint64_t>(records.size(), left_));
    while (made.size() < wanted) program_->Step();
    std::copy_n(made.begin(), wanted, records.begin());
    made.erase(made.begin(), made.begin() + static_cast<ptrdiff_t>(wanted));
    left_ -= wanted;
    return wanted;
  }
  const ByteSource& source() const override { return name_; }

 private:
  const NoBytes name_;
  uint64_t left_;
  const std::unique_ptr<Program> program_;
};

// Reads a number that may end in k, m, g or t, for powers of 1024 or of 1000.
bool ParseAmount(std::string_view text, uint64_t unit, uint64_t& amount) {
  uint64_t factor = 1;
  if (!text.empty()) {
    const size_t power = std::string_view("kmgt").find(static_cast<char>(text.back() | 0x20));
    if (power != std::string_view::npos) {
      for (size_t i = 0; i <= power; ++i) factor *= unit;
      text.remove_suffix(1);
    }
  }
  uint64_t number = 0;
  if (!absl::SimpleAtoi(text, &number) || number > ~uint64_t{0} / factor) return false;
  amount = number * factor;
  return true;
}

// Sets the base, an address of a page, in hexadecimal, above the code's.
absl::Status SetBase(std::string_view text, GeneratorSpec& spec) {
  constexpr uint64_t kLowest = MiB(16);
  uint64_t base = 0;
  if (!text.starts_with("0x") || !absl::SimpleHexAtoi(text, &base)) {
    return absl::InvalidArgumentError("not a hexadecimal number with 0x in front");
  }
  if (base % kPageSize != 0 || base < kLowest || base >> kMostUserAddressBits != 0) {
    return absl::InvalidArgumentError("not a page's address from 0x1000000 to 0xfffffffffff000");
  }
  spec.base = base;
  return absl::OkStatus();
}

absl::Status SetField(std::string_view field, GeneratorSpec& spec) {
  const std::pair<std::string_view, std::string_view> parts =
      absl::StrSplit(field, absl::MaxSplits('=', 1));
  const auto fail = [&field](std::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat("generator: \"", absl::CHexEscape(field), "\": ", what));
  };
  uint64_t amount = 0;
  if (parts.first == "base") {
    const absl::Status set = SetBase(parts.second, spec);
    return set.ok() ? set : fail(set.message());
  }
  const bool is_size = parts.first == "footprint" || parts.first == "stride";
  if (!is_size && parts.first != "accesses" && parts.first != "seed") {
    return fail("there are footprint, base, accesses, stride and seed");
  }
  if (!ParseAmount(parts.second, is_size ? 1024 : 1000, amount)) return fail("not a number");
  if (parts.first == "footprint") {
    if (amount < kMinFootprint || amount > kMaxFootprint) return fail("from 4k to 16t");
    spec.footprint = amount;
  } else if (parts.first == "stride") {
    if (amount == 0 || amount > kMaxFootprint) return fail("from 1 to 16t");
    spec.stride = amount;
  } else if (parts.first == "accesses") {
    if (amount == 0) return fail("at least 1");
    spec.accesses = amount;
  } else {
    spec.seed = amount;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GeneratorSpec> ParseGenerator(std::string_view text) {
  absl::ConsumePrefix(&text, kGeneratorPrefix);
  const std::vector<std::string_view> fields = absl::StrSplit(text, ',');
  static constexpr std::array<std::string_view, 5> kKinds = {"gups", "chase", "stride", "bfs",
                                                             "join"};
  const auto kind = std::find(kKinds.begin(), kKinds.end(), fields[0]);
  if (kind == kKinds.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("generator: \"", absl::CHexEscape(fields[0]),
                     "\": there are gups, chase, stride, bfs and join"));
  }
  GeneratorSpec spec;
  spec.kind = static_cast<GeneratorKind>(kind - kKinds.begin());
  for (size_t i = 1; i < fields.size(); ++i) {
    const std::string_view name = fields[i].substr(0, fields[i].find('='));
    const auto fail = [&](std::string_view what) {
      return absl::InvalidArgumentError(
          absl::StrCat("generator: \"", absl::CHexEscape(fields[i]), "\": ", what));
    };
    for (size_t other = 1; other < i; ++other) {
      if (fields[other].substr(0, fields[other].find('=')) == name) return fail("is there twice");
    }
    if (name == "stride" && spec.kind != GeneratorKind::kStride) return fail("is for stride alone");
    TDP_RETURN_IF_ERROR(SetField(fields[i], spec));
  }
  return spec;
}

std::unique_ptr<TraceReader> MakeGenerator(std::string name, const GeneratorSpec& spec) {
  return std::make_unique<GeneratorReader>(std::move(name), spec);
}

}  // namespace tdp::tools
