// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/oracles/slots_protocol.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <istream>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/memory_slot.h"
#include "tests/oracles/protocols.h"

namespace tdp::oracles {
namespace {

using Words = std::vector<std::string_view>;

absl::StatusOr<uint64_t> Hex(std::string_view word) {
  uint64_t value;
  if (absl::SimpleHexAtoi(word, &value)) return value;
  return absl::InvalidArgumentError(absl::StrCat("not a hexadecimal number: ", word));
}

absl::StatusOr<std::vector<uint64_t>> HexFrom(const Words& words, size_t first, size_t count) {
  if (words.size() != first + count) {
    return absl::InvalidArgumentError(absl::StrCat(words[0], ": wrong number of words"));
  }
  std::vector<uint64_t> values;
  for (size_t i = first; i < first + count; ++i) {
    TDP_ASSIGN_OR_RETURN(const uint64_t value, Hex(words[i]));
    values.push_back(value);
  }
  return values;
}

// Reads "+off" from the base of the backing, or "=address".
absl::StatusOr<Hva> HvaOf(std::string_view word) {
  if (word.empty() || (word[0] != '+' && word[0] != '=')) {
    return absl::InvalidArgumentError(absl::StrCat("not a host address: ", word));
  }
  TDP_ASSIGN_OR_RETURN(const uint64_t value, Hex(word.substr(1)));
  return word[0] == '=' ? Hva(value) : SlotMachine::kHostBase + value;
}

struct SlotName {
  explicit SlotName(uint64_t word)
      : id(static_cast<uint32_t>(word & 0xffff)), space(static_cast<uint16_t>(word >> 16)) {}
  uint32_t id;
  AddressSpaceId space;
};

// Returns the bitmap of "all", "-" or a list of bits, as far as anyone could look at it.
absl::StatusOr<std::vector<uint64_t>> BitsOf(std::string_view word, uint64_t pages) {
  constexpr uint64_t kMostPages = uint64_t{1} << 24;
  std::vector<uint64_t> bits((std::min(pages, kMostPages) + 63) / 64,
                             word == "all" ? ~uint64_t{0} : 0);
  if (word == "all" || word == "-") return bits;
  for (std::string_view item : absl::StrSplit(word, ',')) {
    TDP_ASSIGN_OR_RETURN(const uint64_t bit, Hex(item));
    if (bit / 64 < bits.size()) bits[bit / 64] |= uint64_t{1} << (bit % 64);
  }
  return bits;
}

uint64_t WordAt(const std::byte* place) {
  uint64_t value;
  std::memcpy(&value, place, sizeof(value));
  return value;
}

// Returns "mem", "mmio" or "fault" with what follows each in this kind of question.
std::string Describe(const AccessAnswer& answer, const std::string& memory, const std::string& mmio,
                     const std::string& fault) {
  switch (answer.kind) {
    case AccessAnswer::Kind::kMemory:
      return absl::StrCat("mem", memory);
    case AccessAnswer::Kind::kMmio:
      return absl::StrCat("mmio", mmio);
    case AccessAnswer::Kind::kFault:
      break;
  }
  return absl::StrCat("fault", fault);
}

}  // namespace

std::string ErrnoOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return "0";
    case absl::StatusCode::kInvalidArgument:
      return "EINVAL";
    case absl::StatusCode::kAlreadyExists:
      return "EEXIST";
    case absl::StatusCode::kNotFound:
      return "ENOENT";
    case absl::StatusCode::kResourceExhausted:
      return "ENOMEM";
    case absl::StatusCode::kFailedPrecondition:
      return "ENXIO";
    case absl::StatusCode::kOutOfRange:
      return "E2BIG";
    default:
      return status.ToString();
  }
}

absl::StatusOr<std::string> SlotsProtocol::Answer(std::string_view line) {
  struct Question {
    std::string_view name;
    absl::StatusOr<std::string> (SlotsProtocol::*answer)(const Words&);
  };
  static constexpr Question kQuestions[] = {
      {"set", &SlotsProtocol::Set},         {"getlog", &SlotsProtocol::GetLog},
      {"clrlog", &SlotsProtocol::ClearLog}, {"manual", &SlotsProtocol::Manual},
      {"fill", &SlotsProtocol::Fill},       {"gr", &SlotsProtocol::Read},
      {"gw", &SlotsProtocol::Write},        {"poke", &SlotsProtocol::Poke},
      {"peek", &SlotsProtocol::Peek},       {"lm", &SlotsProtocol::LoadCr3},
      {"vr", &SlotsProtocol::ReadLinear},   {"vw", &SlotsProtocol::WriteLinear},
  };
  const Words words = absl::StrSplit(line, ' ', absl::SkipEmpty());
  if (words.empty()) return absl::InvalidArgumentError("an empty line");
  if (words[0] == "new") {
    machine_.Reset();
    return ErrnoOf(absl::OkStatus());
  }
  // The recording guest ran from this page; the software CPU needs none.
  if (words[0] == "gp") return std::string("0");
  for (const Question& question : kQuestions) {
    if (question.name == words[0]) return (this->*question.answer)(words);
  }
  return absl::InvalidArgumentError(absl::StrCat("no such question: ", line));
}

absl::StatusOr<std::string> SlotsProtocol::Set(const Words& words) {
  if (words.size() != 6) return absl::InvalidArgumentError("set: wrong number of words");
  TDP_ASSIGN_OR_RETURN(const std::vector<uint64_t> numbers,
                       HexFrom({words.begin(), words.begin() + 5}, 1, 4));
  TDP_ASSIGN_OR_RETURN(const Hva hva, HvaOf(words[5]));
  const SlotName slot(numbers[0]);
  return ErrnoOf(machine_.vm().SetMemoryRegion({.slot = slot.id,
                                                .address_space = slot.space,
                                                .flags = static_cast<uint32_t>(numbers[1]),
                                                .gpa = Gpa(numbers[2]),
                                                .size = numbers[3],
                                                .hva = hva}));
}

absl::StatusOr<std::string> SlotsProtocol::GetLog(const Words& words) {
  TDP_ASSIGN_OR_RETURN(const std::vector<uint64_t> numbers, HexFrom(words, 1, 1));
  const SlotName slot(numbers[0]);
  std::string answer = "0 :";
  const absl::Status status = machine_.vm().GetDirtyLog(
      slot.id,
      [&](uint64_t base, uint64_t mask) {
        for (; mask != 0; mask &= mask - 1) {
          absl::StrAppend(&answer, " ", absl::Hex(base + std::countr_zero(mask)));
        }
      },
      slot.space);
  return status.ok() ? answer : ErrnoOf(status);
}

absl::StatusOr<std::string> SlotsProtocol::ClearLog(const Words& words) {
  if (words.size() != 5) return absl::InvalidArgumentError("clrlog: wrong number of words");
  TDP_ASSIGN_OR_RETURN(const std::vector<uint64_t> numbers,
                       HexFrom({words.begin(), words.begin() + 4}, 1, 3));
  TDP_ASSIGN_OR_RETURN(const std::vector<uint64_t> bits, BitsOf(words[4], numbers[2]));
  const SlotName slot(numbers[0]);
  return ErrnoOf(machine_.vm().ClearDirtyLog(slot.id, {numbers[1], numbers[2]}, bits, slot.space));
}

absl::StatusOr<std::string> SlotsProtocol::Manual(const Words& words) {
  TDP_ASSIGN_OR_RETURN(const std::vector<uint64_t> numbers, HexFrom(words, 1, 1));
  return ErrnoOf(machine_.vm().SetManualDirtyLogProtect(numbers[0]));
}

absl::StatusOr<std::string> SlotsProtocol::Fill(const Words& words) {
  if (words.size() != 3) return absl::InvalidArgumentError("fill: wrong number of words");
  TDP_ASSIGN_OR_RETURN(const Hva hva, HvaOf(words[1]));
  TDP_ASSIGN_OR_RETURN(const uint64_t pages, Hex(words[2]));
  for (uint64_t i = 0; i < pages; ++i) {
    const Hva page = hva + i * kPageSize;
    TDP_RETURN_IF_ERROR(machine_.Poke(page, page - SlotMachine::kHostBase));
  }
  return std::string("0");
}

absl::StatusOr<std::string> SlotsProtocol::Read(const Words& words) {
  TDP_ASSIGN_OR_RETURN(const std::vector<uint64_t> numbers, HexFrom(words, 1, 1));
  machine_.TurnPagingOff();
  TDP_ASSIGN_OR_RETURN(const AccessAnswer answer,
                       machine_.Access(numbers[0], sim::AccessKind::kLoad, 8));
  const bool memory = answer.kind == AccessAnswer::Kind::kMemory;
  return Describe(answer, memory ? absl::StrFormat(" %016x", WordAt(answer.place)) : "", "", "");
}

absl::StatusOr<std::string> SlotsProtocol::Write(const Words& words) {
  TDP_ASSIGN_OR_RETURN(const std::vector<uint64_t> numbers, HexFrom(words, 1, 1));
  machine_.TurnPagingOff();
  TDP_ASSIGN_OR_RETURN(const AccessAnswer answer,
                       machine_.Access(numbers[0], sim::AccessKind::kStore, 1));
  return Describe(answer, "", "", "");
}

absl::StatusOr<std::string> SlotsProtocol::Poke(const Words& words) {
  if (words.size() != 3) return absl::InvalidArgumentError("poke: wrong number of words");
  TDP_ASSIGN_OR_RETURN(const Hva hva, HvaOf(words[1]));
  TDP_ASSIGN_OR_RETURN(const uint64_t value, Hex(words[2]));
  TDP_RETURN_IF_ERROR(machine_.Poke(hva, value));
  return std::string("0");
}

absl::StatusOr<std::string> SlotsProtocol::Peek(const Words& words) {
  if (words.size() != 2) return absl::InvalidArgumentError("peek: wrong number of words");
  TDP_ASSIGN_OR_RETURN(const Hva hva, HvaOf(words[1]));
  TDP_ASSIGN_OR_RETURN(const uint64_t value, machine_.Peek(hva));
  return absl::StrCat(absl::Hex(value));
}

absl::StatusOr<std::string> SlotsProtocol::LoadCr3(const Words& words) {
  TDP_ASSIGN_OR_RETURN(const std::vector<uint64_t> numbers, HexFrom(words, 1, 3));
  cr3_ = numbers[0];
  write_protect_ = numbers[2] != 0;
  return std::string("0");
}

absl::StatusOr<std::string> SlotsProtocol::ReadLinear(const Words& words) {
  TDP_ASSIGN_OR_RETURN(const std::vector<uint64_t> numbers, HexFrom(words, 1, 1));
  machine_.TurnPagingOn(cr3_, write_protect_);
  TDP_ASSIGN_OR_RETURN(const AccessAnswer answer,
                       machine_.Access(numbers[0], sim::AccessKind::kLoad, 8));
  const bool memory = answer.kind == AccessAnswer::Kind::kMemory;
  return Describe(answer, memory ? absl::StrFormat(" %x", WordAt(answer.place)) : "",
                  absl::StrFormat(" %x", answer.gpa.raw()), absl::StrFormat(" %x", numbers[0]));
}

absl::StatusOr<std::string> SlotsProtocol::WriteLinear(const Words& words) {
  TDP_ASSIGN_OR_RETURN(const std::vector<uint64_t> numbers, HexFrom(words, 1, 1));
  machine_.TurnPagingOn(cr3_, write_protect_);
  TDP_ASSIGN_OR_RETURN(const AccessAnswer answer,
                       machine_.Access(numbers[0], sim::AccessKind::kStore, 1));
  return Describe(answer, "", absl::StrFormat(" %x", answer.gpa.raw()),
                  absl::StrFormat(" %x", numbers[0]));
}

int RunSlotsProtocol(std::istream& in, std::ostream& out) {
  SlotsProtocol protocol;
  std::string line;
  while (std::getline(in, line)) {
    if (line.empty()) continue;
    const absl::StatusOr<std::string> answer = protocol.Answer(line);
    out << line << " -> " << (answer.ok() ? *answer : answer.status().ToString()) << "\n";
  }
  return 0;
}

}  // namespace tdp::oracles
